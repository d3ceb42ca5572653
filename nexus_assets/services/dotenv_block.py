"""The marked block that `nexus up` keeps in `<root>/.env`, and what in that file is the user's own.

A URL that stands only in the block is ours: it must never be taken for a server that the user named. Values are quoted
so that sh, python-dotenv and Docker Compose read the same.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from nexus_assets.errors import ServiceError
from nexus_assets.services.state import ServiceState, write_private

BEGIN = "# >>> nexus up >>> (rewritten by `nexus up`; put your own lines outside)"
END = "# <<< nexus up <<<"
EVENT_BATCH_SIZE = "1000"

_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")


def write_env(root: Path, state: ServiceState) -> bool:
    """Write the block into `<root>/.env` (mode 0600) and keep every other line. Returns whether the file changed.

    A variable that the user sets outside the block is left out of it: the last assignment would win. The URL of a
    server that the user named is not copied here either; Dagster's form of it is, where the user does not give one.

    Raises:
        ServiceError: a value cannot be written so that every reader understands it, or `.env` cannot be written.
    """
    values = {
        "NEXUS_DATABASE_URL": state.database_url,
        "NEXUS_DAGSTER_URL": state.dagster_url,
        "NEXUS_REDIS_URL": state.redis_url,
        "DAGSTER_HOME": str(root.resolve()),
        "DAGSTER_EVENT_BATCH_SIZE": EVENT_BATCH_SIZE,
    }
    before, _, after = _parts(root)
    users = _assignments(before + after).keys() | state.users_own
    return _replace(root, before, {name: value for name, value in values.items() if name not in users}, after)


def update_env_block(root: Path, addresses: Mapping[str, str]) -> bool:
    """Correct the addresses that the block names; without a block nothing is written. Returns whether it changed."""
    before, block, after = _parts(root)
    values = _assignments(block)
    changed = {name: addresses.get(name, value) for name, value in values.items()}
    return changed != values and _replace(root, before, changed, after)


def remove_env_block(root: Path) -> bool:
    """Take the block out of `<root>/.env`; a file that held nothing else is removed. Returns whether it changed."""
    before, block, after = _parts(root)
    if not block:
        return False
    if not any(line.strip() for line in before + after):
        _path(root).unlink()
        return True
    return _replace(root, before, {}, after)


def read_env_block(root: Path) -> dict[str, str]:
    """The variables of our block in `<root>/.env`, unquoted; empty where there is none."""
    return _assignments(_parts(root)[1])


def own_url(name: str, root: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """The server that the user named for NEXUS_DATABASE_URL, NEXUS_DAGSTER_URL or NEXUS_REDIS_URL, or None.

    A line of `.env` outside our block counts first, then the environment, unless it only repeats our block.
    """
    before, block, after = _parts(root)
    in_file = _assignments(before + after).get(name)
    if in_file:
        return in_file
    value = environment.get(name)
    return value if value and value != _assignments(block).get(name) else None


def _path(root: Path) -> Path:
    return (root / ".env").resolve()


def _parts(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Lines before the block, of the block (with its marks), and after it. A block without an end mark ends before
    the first line that is not an assignment."""
    try:
        lines = _path(root).read_bytes().decode("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return [], [], []
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"{root / '.env'} cannot be read: {error}.", next_step="Correct or remove it.") from error
    begin = next((i for i, line in enumerate(lines) if line.strip() == BEGIN), None)
    if begin is None:
        return lines, [], []
    for position in range(begin + 1, len(lines)):
        if lines[position].strip() == END:
            return lines[:begin], lines[begin : position + 1], lines[position + 1 :]
        if not _ASSIGNMENT.match(lines[position]):
            return lines[:begin], lines[begin:position], lines[position:]
    return lines[:begin], lines[begin:], []


def _assignments(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        match = _ASSIGNMENT.match(line)
        if match:
            value = match.group(2)
            quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
            found[match.group(1)] = value[1:-1] if quoted else re.sub(r"\s+#.*$", "", value)
    return found


def _quoted(name: str, value: str) -> str:
    if not re.search(r"['\\$`\"\n\r]", value):
        return f"'{value}'"
    if not re.search(r'[\\$`"\n\r]', value):
        return f'"{value}"'
    raise ServiceError(
        f"{name} holds a character that shells and .env files read differently.",
        next_step="Use a path without backslash, dollar sign, backquote and double quote.",
    )


def _replace(root: Path, before: list[str], values: Mapping[str, str], after: list[str]) -> bool:
    path = _path(root)
    block = [BEGIN, *(f"{name}={_quoted(name, value)}" for name, value in values.items()), END] if values else []
    if before and not before[-1].endswith("\n"):
        before = [*before[:-1], before[-1] + "\n"]
    text = "".join(before) + "".join(line + "\n" for line in block) + "".join(after)
    try:
        status = path.stat() if path.exists() else None
        if status and (status.st_mode & 0o777) == 0o600 and path.read_bytes() == text.encode():
            return False
        owner = (status.st_uid, status.st_gid) if status and os.geteuid() == 0 else None
        write_private(path, text, owner=owner)
    except OSError as error:
        raise ServiceError(
            f"{path} cannot be written: {error}.", next_step="Make it writable for this user."
        ) from error
    return True
