"""The data dictionary, written from the schemas: `python -m nexus_assets.data_dictionary > docs/data-dictionary.md`.

What belongs here: how a table is shown to people. What stands in it is in schemas.py and indicator_table.py.
"""

from collections.abc import Iterator

from nexus_assets.indicator_table import INDICATORS, INDICATORS_VERSION, WARMUP_BARS, Indicator
from nexus_assets.schemas import ASSET_TABLES, INDICATOR_ROWS, QUARANTINE_RULES, TABLES, Column, Table

_HEAD = """# Data dictionary

Written by `python -m nexus_assets.data_dictionary`; do not edit.

Instants are UTC. `ts` is the open of a bar, inclusive; the bar covers [`ts`, `ts` + `timeframe`), and a row belongs to
the UTC day in which its bar ends. A missing number is NULL, never NaN. Returns are fractions, volatility is annualised.
The unit stands in brackets; the same text is the column's comment in the database.
"""


def markdown() -> str:
    """The whole page, ending in a line feed."""
    return "\n".join([_HEAD, *_contents(), *(line for table in TABLES for line in _table(table)), *_rules()]) + "\n"


def _contents() -> Iterator[str]:
    yield "| table | asset | content |"
    yield "|---|---|---|"
    for table in TABLES:
        asset = f"`{'/'.join(table.asset_key)}`" if table in ASSET_TABLES else ""
        yield f"| [`{table.qualified}`](#{table.schema}{table.name}) | {asset} | {_cell(table.description)} |"
    yield ""


def _table(table: Table) -> Iterator[str]:
    yield f"## {table.qualified}"
    yield ""
    yield table.description
    yield ""
    yield f"Key: {', '.join(f'`{name}`' for name in table.key)}."
    if table.time_column:
        yield f"With TimescaleDB a hypertable by `{table.time_column}`."
    yield ""
    yield "| column | type | null | bounds or values | meaning |"
    yield "|---|---|---|---|---|"
    for column in table.columns:
        null = "yes" if column.nullable else "no"
        yield f"| `{column.name}` | {column.sql_type} | {null} | {_limits(column)} | {_cell(column.comment)} |"
    yield ""
    if table is INDICATOR_ROWS:
        yield from _indicators()


def _indicators() -> Iterator[str]:
    yield "### How each indicator is computed"
    yield ""
    yield (
        f"Version {INDICATORS_VERSION}. The rows of a day are computed on the last {WARMUP_BARS} accepted bars that "
        f"end at or before the day's 00:00 UTC, and the day's own bars. With fewer than {WARMUP_BARS} bars before "
        "the day every column is NULL. The start of that slice stands in `slice_start`."
    )
    yield ""
    yield "| column | call | of | needs | NULL although warm | version | source |"
    yield "|---|---|---|---|---|---|---|"
    for indicator in INDICATORS:
        yield (
            f"| `{indicator.name}` | {_call(indicator)} | {', '.join(indicator.inputs)} | {indicator.warm_up} bars | "
            f"{_when_null(indicator)} | {indicator.version} | {_cell(indicator.source)} |"
        )
    yield ""


def _rules() -> Iterator[str]:
    yield "## Quarantine rules"
    yield ""
    yield "A row that breaks several is kept under the first of them."
    yield ""
    yield "| rule | what it means |"
    yield "|---|---|"
    for name, meaning in QUARANTINE_RULES.items():
        yield f"| `{name}` | {_cell(meaning)} |"


def _limits(column: Column) -> str:
    if column.values:
        return ", ".join(f"`{value}`" for value in column.values)
    low, high = column.bounds
    if low is None and high is None:
        return ""
    if high is None:
        return f"at least {low:g}"
    if low is None:
        return f"at most {high:g}"
    return f"{low:g} to {high:g}"


def _call(indicator: Indicator) -> str:
    parameters = ", ".join(f"{name}={value:g}" for name, value in indicator.parameters.items())
    return f"`{indicator.call}({parameters})`"


def _when_null(indicator: Indicator) -> str:
    reasons = []
    if indicator.flat:
        what = {"bar": "highs and lows", "close": "closes", "typical": "typical prices", "true_range": "true ranges"}
        reasons.append(f"{indicator.flat.bars} bars of equal {what[indicator.flat.values]}")
    if "volume" in indicator.inputs:
        reasons.append("no volume, or of two kinds")
    return "; ".join(reasons)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(markdown(), end="")
