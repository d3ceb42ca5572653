"""Which PostgreSQL a new data folder is made with, and the programs of one that exists."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus_assets.errors import ServiceError, SettingsError
from nexus_assets.services.accounts import Account
from nexus_assets.services.debian_packages import DebianUnavailable
from nexus_assets.services.installation import Installation, Progress, copy_embedded, find_installed
from nexus_assets.services.state import PostgresRecord
from nexus_assets.services.timescale_debian import timescaledb_in, unpack_timescaledb

CHOICES = ("auto", "installed", "debian", "embedded")

_HOW_TO_GET_HYPERTABLES = "To get them, install TimescaleDB or set NEXUS_DATABASE_URL to a server that has it."


@dataclass(frozen=True)
class Options:
    """NEXUS_POSTGRES (one of CHOICES) and NEXUS_CACHE (folder that keeps downloaded packages), validated."""

    postgres: str = "auto"
    cache: Path | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Options":
        """
        Raises:
            SettingsError: NEXUS_POSTGRES is none of its values.
        """
        postgres = environment.get("NEXUS_POSTGRES") or "auto"
        if postgres not in CHOICES:
            raise SettingsError(
                f"NEXUS_POSTGRES is {postgres!r}.", next_step=f"Set it to one of {', '.join(CHOICES)}, or leave it out."
            )
        cache = environment.get("NEXUS_CACHE")
        return cls(postgres, Path(cache).expanduser().resolve() if cache else None)


def choose(options: Options, programs: Path, account: Account, progress: Progress, notes: list[str]) -> Installation:
    """The first that works of: TimescaleDB on the machine, TimescaleDB from Debian packages, the embedded wheel.

    Args:
        programs: folder below which programs are unpacked or copied.
        notes: what the user should know about the choice is appended here.

    Raises:
        ServiceError: the one that NEXUS_POSTGRES names does not work, or none does.
    """
    wanted = options.postgres
    if wanted in ("auto", "installed"):
        found = find_installed(account)
        if found is not None:
            return found
        if wanted == "installed":
            raise ServiceError(
                "NEXUS_POSTGRES is `installed`, but no PostgreSQL with TimescaleDB was found on this machine.",
                next_step="Install TimescaleDB, or leave NEXUS_POSTGRES out.",
            )
    reason = "NEXUS_POSTGRES asks for the embedded PostgreSQL."
    if wanted in ("auto", "debian"):
        try:
            return unpack_timescaledb(programs, options.cache, account, progress)
        except DebianUnavailable as error:
            if wanted == "debian":
                raise ServiceError(
                    f"NEXUS_POSTGRES is `debian`, but TimescaleDB cannot be unpacked: {error}.",
                    next_step="Leave NEXUS_POSTGRES out to use what works here.",
                ) from error
            reason = f"TimescaleDB could not be had from Debian packages: {error}."
    notes.append(f"Hypertables are off: this is plain PostgreSQL. {reason} {_HOW_TO_GET_HYPERTABLES}")
    progress("Copying the embedded PostgreSQL")
    return copy_embedded(programs, account)


def programs_for(
    record: PostgresRecord, folder: Path, options: Options, account: Account, progress: Progress
) -> Installation:
    """The programs that can serve an existing data folder: those it was made with, or the same major version again.

    Raises:
        ServiceError: there are none any more.
    """
    major = int(record.version.split(".")[0])
    try:
        if record.kind == "debian":
            tree = (folder / record.bin_dir).parents[4]
            if tree.is_dir():
                found = timescaledb_in(tree, account)
            else:
                found = unpack_timescaledb(folder / "programs", options.cache, account, progress)
        elif record.kind == "embedded":
            found = copy_embedded(folder / "programs", account)
        else:
            found = find_installed(account)
        if found is not None and found.major == major and (record.timescaledb is None or found.timescaledb):
            return found
        reason = f"{found.describe()} cannot read it" if found else "it is not on this machine any more"
    except (DebianUnavailable, ServiceError) as error:
        reason = str(error)
    if (folder / record.bin_dir / "postgres").is_file():
        return Installation(record.kind, folder / record.bin_dir, record.version, record.timescaledb)
    raise ServiceError(
        f"The data were made with PostgreSQL {record.version} ({record.kind}), but {reason}.",
        next_step="Bring that version back, or remove the data with `nexus down --purge`.",
    )
