"""The check that proves the parts of the stored split apart, on a stored split with defects."""

from datetime import date, timedelta

import dagster as dg
import pandas as pd
import pytest

from nexus_assets.checks import splits_do_not_overlap
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import DATASET_SPLITS
from nexus_assets.transforms import labels, splits
from nexus_assets_tests.transforms.feature_bars import walk


@pytest.fixture(scope="module")
def parted() -> pd.DataFrame:
    """Two symbols over two months, split at the default boundaries."""
    first, end = date(2024, 1, 8), date(2024, 4, 1)
    return splits.split(
        pd.concat([
            labels.compute(
                walk(symbol, first, end), instrument=instrument(symbol), timeframe="1h", first_day=first, end_day=end
            ).labels
            for symbol in ("EURUSD", "XAUUSD")
        ])
    )  # fmt: skip


def verdict(store: MarketStore, rows: pd.DataFrame) -> tuple[bool, str]:
    store.replace_all(DATASET_SPLITS, rows)
    result = splits_do_not_overlap(market_store=store)  # pyright: ignore[reportCallIssue]
    assert isinstance(result, dg.AssetCheckResult)
    return result.passed, str(result.metadata["wrong"].value)


def test_a_split_as_it_is_made_passes(store: MarketStore, parted: pd.DataFrame) -> None:
    assert verdict(store, parted) == (True, "")


def test_one_training_label_that_reaches_into_the_test_of_another_symbol_is_named(
    store: MarketStore, parted: pd.DataFrame
) -> None:
    rows = parted.copy()
    chosen = rows.index[(rows["symbol"] == "EURUSD") & (rows["split"] == "train")][77]
    entered = rows.loc[(rows["symbol"] == "XAUUSD") & (rows["split"] == "validation"), "entry_at"].min()
    rows.loc[chosen, "t1"] = entered
    passed, wrong = verdict(store, rows)
    assert not passed
    assert wrong.startswith(f"EURUSD {rows.loc[chosen, 'ts']} of train reaches {entered}; ")


def test_a_row_that_is_entered_within_the_embargo_is_named(store: MarketStore, parted: pd.DataFrame) -> None:
    rows = parted.copy()
    embargoed = rows.index[(rows["symbol"] == "XAUUSD") & (rows["split"] == "embargoed")]
    rows.loc[embargoed[30], ["split", "uniqueness"]] = ["validation", 0.5]
    passed, wrong = verdict(store, rows)
    assert not passed
    assert f"XAUUSD of validation is entered {rows.loc[embargoed[30], 'entry_at']}" in wrong


def test_a_boundary_that_purges_nothing_fails(store: MarketStore, parted: pd.DataFrame) -> None:
    rows = parted[parted["split"] != "embargoed"].copy()
    rows.loc[rows["split"] == "purged", ["split", "uniqueness"]] = ["train", 0.5]
    late = rows["split"].eq("train") & (rows["entry_at"] > rows.loc[rows["split"] == "validation", "entry_at"].min())
    rows = rows[~late]
    rows["t1"] += timedelta(hours=60)
    passed, wrong = verdict(store, rows)
    assert not passed
    assert "of train reaches" in wrong
