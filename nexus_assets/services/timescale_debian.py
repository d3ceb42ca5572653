"""TimescaleDB (Apache edition) for PostgreSQL 17 from Debian packages."""

import shutil
from pathlib import Path

from nexus_assets.errors import ServiceError
from nexus_assets.services.accounts import Account
from nexus_assets.services.debian_packages import DebianUnavailable, is_elf, make_runnable, unpack
from nexus_assets.services.installation import Installation, Progress, control_version, postgres_version

MAJOR = 17

_PACKAGES = (f"postgresql-{MAJOR}-timescaledb", f"postgresql-client-{MAJOR}")


def unpack_timescaledb(programs: Path, cache: Path | None, account: Account, progress: Progress) -> Installation:
    """Download and unpack the server below `programs` (110 MB, 5 to 30 s), unless it is there already.

    Args:
        cache: as for debian_packages.unpack.

    Raises:
        DebianUnavailable: this machine cannot do that, with the reason.
    """
    # Debian's PostgreSQL reads the system's time zone files.
    if not Path("/usr/share/zoneinfo/America/New_York").exists():
        raise DebianUnavailable("the machine has no time zone files (package tzdata)")
    tree = unpack("TimescaleDB", _PACKAGES, programs, cache, progress)
    # Byte code for the just-in-time compiler, which is not unpacked.
    shutil.rmtree(tree / f"usr/lib/postgresql/{MAJOR}/lib/bitcode", ignore_errors=True)
    return timescaledb_in(tree, account)


def timescaledb_in(tree: Path, account: Account) -> Installation:
    """The programs of an unpacked tree, mended if the tree was moved.

    Raises:
        DebianUnavailable: they do not run here.
    """
    bin_dir = tree / f"usr/lib/postgresql/{MAJOR}/bin"
    try:
        programs = sorted(filter(is_elf, bin_dir.iterdir()), key=lambda path: path.name != "postgres")
        make_runnable(tree, programs, account)
        version = postgres_version(bin_dir, account)
    except (OSError, ServiceError) as error:
        raise DebianUnavailable(f"the unpacked server does not run: {error}") from error
    return Installation("debian", bin_dir, version, control_version(tree / f"usr/share/postgresql/{MAJOR}"))
