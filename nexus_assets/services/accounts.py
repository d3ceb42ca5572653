"""Which operating system user the servers run as, and the folder they live in.

PostgreSQL refuses to run as root. Started by root, the servers run as the system user `nexus-assets` from
`/var/lib/nexus-assets/<hash of the state folder's path>`, because that user may not be able to reach the checkout
(a clone in root's home folder). Started by anyone else, they run as that user from `<home>/servers`. No permission of
a folder that we did not make is changed.
"""

import hashlib
import itertools
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_assets.errors import ServiceError

USER = "nexus-assets"
ROOTS_FOLDER = Path("/var/lib/nexus-assets")

_USERADD_ATTEMPTS = 20
_OWNER_FILE = "state-folder"


@dataclass(frozen=True)
class Account:
    """The user that owns the servers' data and runs them."""

    name: str
    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()

    def give(self, path: Path) -> None:
        """Make this user the owner of one file or folder."""
        if not self.is_us:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def make_private_folder(self, path: Path) -> None:
        """Make a folder (mode 0700) that belongs to this user."""
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)
        self.give(path)

    def run(self, command: Sequence[str | Path], *, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a program as this user, in a session of its own so that Ctrl-C does not reach what it starts.

        The environment is a fixed, small one: a caller's PG* or LD_* variables must not steer the servers.

        Raises:
            ServiceError: the program cannot be executed, or takes longer than `timeout` seconds.
        """
        who = {} if self.is_us else {"user": self.uid, "group": self.gid, "extra_groups": []}
        argv = [str(part) for part in command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
        try:
            return subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                cwd="/",
                start_new_session=True,
                umask=0o077,
                timeout=timeout,
                check=False,
                **who,
            )
        except OSError as error:
            raise ServiceError(
                f"{argv[0]} cannot be run as {self.name}: {error}.",
                next_step="Look whether the file is there and its file system allows programs (noexec).",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ServiceError(
                f"{Path(argv[0]).name} did not finish within {timeout:.0f} s.",
                next_step="Run `nexus up` again; it continues where this stopped.",
            ) from error


def find_account() -> Account | None:
    """The user to run servers as: ourselves, or for root the system user, None while there is none.

    Raises:
        ServiceError: our user id has no name.
    """
    if os.geteuid() != 0:
        return _ourselves()
    entry = _system_user()
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry else None


def make_account(progress: Callable[[str], None]) -> Account:
    """As find_account; the system user is made when missing.

    Raises:
        ServiceError: we are root and no user can be made, or our user id has no name.
    """
    found = find_account()
    if found is not None:
        return found
    progress(f"Making the system user {USER}, because PostgreSQL does not run as root")
    entry = _make_system_user()
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def servers_folder(home: Path, account: Account) -> Path:
    """Make (once) and return the real path of the folder with the servers' programs and data.

    `<home>/servers` is that folder, or for root a link to it.

    Raises:
        ServiceError: the folder was made by another user.
    """
    link = home / "servers"
    if link.is_symlink() and os.geteuid() == 0:
        target = link.readlink()
        _make_root_folder(target, account)
        return target.resolve()
    if link.exists():
        owner = link.stat().st_uid
        if owner != os.geteuid():
            raise ServiceError(
                f"{link} belongs to the user with id {owner}; this process runs as {os.geteuid()}.",
                next_step="Run as that user, or set NEXUS_HOME to another folder.",
            )
        if os.geteuid() != 0:
            return link.resolve()
        raise ServiceError(
            f"{link} is a folder, but as root it must be a link to a folder under {ROOTS_FOLDER}.",
            next_step=f"Remove {link} and run `nexus up` again, or set NEXUS_HOME to another folder.",
        )
    if account.is_us:
        link.mkdir(mode=0o700)
        return link.resolve()
    digest = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    # A project that was deleted at this place may have left its folder, for whose data nobody has the passwords.
    names = itertools.chain([digest], (f"{digest}-{number}" for number in itertools.count(2)))
    target = next(ROOTS_FOLDER / name for name in names if not (ROOTS_FOLDER / name).exists())
    _make_root_folder(target, account)
    link.symlink_to(target)
    return target.resolve()


def abandoned_folders(home: Path, folder: Path) -> list[Path]:
    """Folders under /var/lib that an earlier project with the same state folder left; `folder` is recorded as ours.

    A project that was moved since is told apart as soon as it was started at its new place.
    """
    if folder.parent != ROOTS_FOLDER.resolve():
        return []
    (folder / _OWNER_FILE).write_text(str(home), encoding="utf-8")
    found = []
    for other in ROOTS_FOLDER.iterdir():
        try:
            same = other != folder and (other / _OWNER_FILE).read_text(encoding="utf-8") == str(home)
        except OSError:
            continue
        if same:
            found.append(other)
    return found


def make_public_folder(path: Path) -> None:
    """Make a folder of ours that every user may pass through, whatever the umask is."""
    if not path.is_dir():
        path.mkdir()
        path.chmod(0o755)


def make_readable(tree: Path) -> None:
    """Let every user read a tree of programs that we made (a wheel may be installed under umask 077)."""
    for folder, _, files in os.walk(tree):
        os.chmod(folder, 0o755)
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def _make_root_folder(target: Path, account: Account) -> None:
    """Root keeps the folder and the programs in it; the servers' user may only pass through."""
    if target.is_dir():
        return
    make_public_folder(ROOTS_FOLDER)
    target.mkdir(mode=0o750)
    os.chown(target, 0, account.gid)
    target.chmod(0o750)


def _ourselves() -> Account:
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise ServiceError(
            f"The user id {os.geteuid()} has no entry in /etc/passwd, and PostgreSQL does not start without one.",
            next_step="Run as a user that has a name, or set NEXUS_DATABASE_URL to a server of your own.",
        ) from error
    return Account(entry.pw_name, entry.pw_uid, os.getegid())


def _system_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def _make_system_user() -> pwd.struct_passwd:
    program = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    if program is None:
        raise _no_user("this system has no useradd")
    command = [program, "--system", "--user-group", "--no-create-home", "--home-dir", str(ROOTS_FOLDER)]
    command += ["--shell", "/usr/sbin/nologin", USER]
    answer = ""
    for _ in range(_USERADD_ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        entry = _system_user()
        if entry is not None:
            return entry
        answer = done.stderr.strip()
        if "lock" not in answer:
            break
        # Another program is editing /etc/passwd.
        time.sleep(0.25)
    raise _no_user(answer or "useradd made no user")


def _no_user(reason: str) -> ServiceError:
    return ServiceError(
        f"PostgreSQL does not run as root, and the system user {USER} cannot be made: {reason}.",
        next_step="Run as an ordinary user, or set NEXUS_DATABASE_URL to a server of your own.",
    )
