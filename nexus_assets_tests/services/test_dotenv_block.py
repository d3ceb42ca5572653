"""The block in `.env`: what is ours, what is the user's, and that every reader sees the same values."""

import stat
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from nexus_assets.errors import ServiceError
from nexus_assets.services import ServiceState, own_url, read_env_block, remove_env_block, write_env
from nexus_assets.services.dotenv_block import BEGIN, END, update_env_block

STATE = ServiceState(
    home=Path(".nexus"),
    database_url="postgresql://nexus:secret@127.0.0.1:20001/nexus",
    dagster_url="postgresql+psycopg2://dagster:other@127.0.0.1:20001/dagster",
    redis_url="redis://:third@127.0.0.1:20002/0",
    admin_url=None,
    postgres="embedded",
    redis="wheel",
    edition="PostgreSQL",
)


def test_the_block_has_the_addresses_and_what_dagster_needs(tmp_path: Path) -> None:
    assert write_env(tmp_path, STATE)
    assert read_env_block(tmp_path) == {
        "NEXUS_DATABASE_URL": STATE.database_url,
        "NEXUS_DAGSTER_URL": STATE.dagster_url,
        "NEXUS_REDIS_URL": STATE.redis_url,
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
    }
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert not write_env(tmp_path, STATE)


def test_the_users_lines_stay_as_they_are(tmp_path: Path) -> None:
    users = "# mine\nNEXUS_SYMBOLS = EURUSD,XAUUSD   # few\r\n\nexport OTHER='a b'\nLAST=without newline"
    path = tmp_path / ".env"
    path.write_bytes(users.encode())
    path.chmod(0o644)
    write_env(tmp_path, STATE)
    text = path.read_bytes().decode()
    assert text.startswith(users + "\n" + BEGIN)
    path.write_bytes((text + "AFTER=1\n").encode())
    write_env(tmp_path, STATE)
    assert path.read_bytes().decode() == text + "AFTER=1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert remove_env_block(tmp_path)
    assert path.read_bytes().decode() == users + "\nAFTER=1\n"


@pytest.mark.parametrize("folder", ["plain", "with space", "with 'quote", "with # hash", "with = sign", "Zürich"])
def test_sh_and_dotenv_read_the_same_values(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    root.mkdir()
    write_env(root, STATE)
    names = list(read_env_block(root))
    script = "set -a; . ./.env; for name in " + " ".join(names) + '; do eval "printf \'%s\\n\' \\"\\$$name\\""; done'
    by_sh = subprocess.run(["sh", "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
    assert dict(zip(names, by_sh.splitlines(), strict=True)) == dotenv_values(root / ".env") == read_env_block(root)
    assert read_env_block(root)["DAGSTER_HOME"] == str(root)


def test_a_path_that_readers_would_understand_differently_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "costs $5"
    root.mkdir()
    with pytest.raises(ServiceError, match="DAGSTER_HOME"):
        write_env(root, STATE)
    assert not (root / ".env").exists()


def test_what_the_user_sets_outside_is_left_out_of_the_block(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DAGSTER_HOME=/somewhere\nNEXUS_REDIS_URL=redis://mine:6379/0\n")
    write_env(tmp_path, STATE)
    assert dotenv_values(tmp_path / ".env")["DAGSTER_HOME"] == "/somewhere"
    assert set(read_env_block(tmp_path)) == {"NEXUS_DATABASE_URL", "NEXUS_DAGSTER_URL", "DAGSTER_EVENT_BATCH_SIZE"}


def test_a_url_that_stands_only_in_the_block_is_not_the_users_own(tmp_path: Path) -> None:
    write_env(tmp_path, STATE)
    loaded = dict(read_env_block(tmp_path))
    assert own_url("NEXUS_DATABASE_URL", tmp_path, loaded) is None
    assert own_url("NEXUS_DATABASE_URL", tmp_path, {"NEXUS_DATABASE_URL": "postgresql://theirs/x"}) == (
        "postgresql://theirs/x"
    )
    assert own_url("NEXUS_DATABASE_URL", tmp_path, {}) is None
    with (tmp_path / ".env").open("a") as file:
        file.write("NEXUS_DATABASE_URL=postgresql://in-file/x\n")
    assert own_url("NEXUS_DATABASE_URL", tmp_path, loaded) == "postgresql://in-file/x"


def test_new_addresses_replace_old_ones_and_no_block_is_made_for_them(tmp_path: Path) -> None:
    assert not update_env_block(tmp_path, {"NEXUS_REDIS_URL": "redis://new"})
    assert not (tmp_path / ".env").exists()
    write_env(tmp_path, STATE)
    assert update_env_block(tmp_path, {"NEXUS_REDIS_URL": "redis://new", "UNKNOWN": "x"})
    assert read_env_block(tmp_path)["NEXUS_REDIS_URL"] == "redis://new"
    assert read_env_block(tmp_path)["NEXUS_DATABASE_URL"] == STATE.database_url
    assert "UNKNOWN" not in read_env_block(tmp_path)


def test_a_block_that_lost_its_end_is_mended(tmp_path: Path) -> None:
    write_env(tmp_path, STATE)
    path = tmp_path / ".env"
    path.write_text(path.read_text().replace(END, "# the user's comment"))
    write_env(tmp_path, STATE)
    text = path.read_text()
    assert (text.count(BEGIN), text.count(END), text.count("NEXUS_REDIS_URL")) == (1, 1, 1)
    assert text.endswith("# the user's comment\n")


def test_a_file_that_held_only_the_block_goes_with_it(tmp_path: Path) -> None:
    write_env(tmp_path, STATE)
    assert remove_env_block(tmp_path)
    assert not (tmp_path / ".env").exists()
    assert not remove_env_block(tmp_path)
