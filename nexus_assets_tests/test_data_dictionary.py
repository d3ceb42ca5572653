"""docs/data-dictionary.md says what schemas.py says."""

import os
import re
import subprocess
import sys

from nexus_assets import data_dictionary
from nexus_assets.indicator_table import INDICATORS
from nexus_assets.schemas import QUARANTINE_RULES, TABLES
from nexus_assets_tests.conftest import ROOT

PAGE = ROOT / "docs" / "data-dictionary.md"


def test_the_page_is_what_the_command_in_it_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "nexus_assets.data_dictionary"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()
    assert PAGE.read_text(encoding="utf-8") == printed, (
        "Run: python -m nexus_assets.data_dictionary > docs/data-dictionary.md"
    )


def test_every_column_stands_once_under_its_table_with_its_type_and_unit() -> None:
    sections = {part.split("\n", 1)[0]: part for part in PAGE.read_text(encoding="utf-8").split("\n## ")}
    for table in TABLES:
        rows = re.findall(
            r"^\| `(\w+)` \| (\S.*?) \| (yes|no) \|.*\| (.*) \|$", sections[table.qualified], re.MULTILINE
        )
        assert [(name, kind, null) for name, kind, null, _ in rows] == [
            (column.name, column.sql_type, "yes" if column.nullable else "no") for column in table.columns
        ]
        for column, (*_, meaning) in zip(table.columns, rows, strict=True):
            assert not column.unit or f"[{column.unit}]" in meaning


def test_every_indicator_has_its_formula_and_every_rule_its_meaning() -> None:
    page = PAGE.read_text(encoding="utf-8")
    calls = page.split("### How each indicator is computed")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", calls, re.MULTILINE) == [indicator.name for indicator in INDICATORS]
    rules = page.split("## Quarantine rules")[1]
    assert re.findall(r"^\| `(\w+)` \|", rules, re.MULTILINE) == list(QUARANTINE_RULES)


def test_a_bar_within_a_cell_does_not_end_the_cell() -> None:
    for block in re.findall(r"(?:^\|.*\n)+", data_dictionary.markdown(), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
