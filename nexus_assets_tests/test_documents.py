"""What the pages for people name is there: files, commands, options, make targets, settings, tables."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from nexus_assets.cli import app
from nexus_assets.schemas import TABLES
from nexus_assets_tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_relative_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_commands_and_their_options_exist(page: Path) -> None:
    commands: dict = get_command(app).commands  # type: ignore[attr-defined]
    # In code only: a sentence may say `nexus` and go on.
    named = re.findall(
        r"(?:`|bin/|^|exec code )nexus ([a-z]+)([^`\n#]*)", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    for command, arguments in named:
        assert command in commands, command
        found = commands[command]
        inner = getattr(found, "commands", {}).get(arguments.split(maxsplit=1)[0] if arguments.split() else "")
        options = {option for parameter in (inner or found).params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)\[?(--[a-z-]+)", arguments)) <= options, arguments


def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets


def test_settings_are_explained_somewhere(page: Path) -> None:
    explained = (ROOT / ".env.example").read_text() + (ROOT / "deploy" / "compose.env.example").read_text()
    named = set(re.findall(r"\bNEXUS_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8"))) - {"NEXUS_TEST_HOME"}
    assert {name for name in named if not re.search(rf"\b{name}=", explained)} == set()


def test_the_picture_of_the_graph_holds_every_asset_and_the_dictionary_every_table() -> None:
    picture = (ROOT / "README.md").read_text(encoding="utf-8").split("```mermaid")[1].split("```")[0]
    dictionary = (ROOT / "docs" / "data-dictionary.md").read_text(encoding="utf-8")
    for table in TABLES:
        assert f"\n## {table.qualified}\n" in dictionary
        if table.schema in ("market", "features", "analytics") and table.name not in ("deliveries", "market_sessions"):
            assert re.search(rf"\b{table.name}\b", picture), table.qualified
