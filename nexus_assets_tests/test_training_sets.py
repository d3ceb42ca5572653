"""Training sets over a stored market, against an oracle that looks each value up by itself, row by row."""

import hashlib
import json
import struct
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import polars
import pytest
from pyarrow import parquet

from nexus_assets import trading_calendar
from nexus_assets.errors import NexusError, TrainingSetError
from nexus_assets.exports import export, verify
from nexus_assets.instruments import instrument
from nexus_assets.market_store import MarketStore
from nexus_assets.schemas import CORRELATION_MATRIX, DATASET_SPLITS, INDICATOR_ROWS, LABELS
from nexus_assets.services import ServiceState
from nexus_assets.settings import Settings, load_settings
from nexus_assets.training_request import TimeSplit, request
from nexus_assets.training_sets import TrainingSet, assemble
from nexus_assets.transforms import correlations, indicators, labels, splits
from nexus_assets.transforms.folds import overlaps
from nexus_assets_tests.conftest import DatabaseMaker
from nexus_assets_tests.graphs import graph
from nexus_assets_tests.transforms.feature_bars import walk

SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")
HISTORY, FIRST_DAY, END_DAY = date(2024, 1, 2), date(2024, 3, 1), date(2024, 4, 24)
"""Both New York's and Europe's change of clocks and Good Friday lie in the range."""
FEATURES = ["rsi_14", "natr_14@4h", "mfi_14", "bb_width@4h", "correlation@XAUUSD", "sma_50"]


@pytest.fixture(scope="module")
def config() -> Settings:
    return load_settings(symbols=SYMBOLS, start_day=HISTORY, database_url="postgresql://nobody@127.0.0.1:1/nothing")


@pytest.fixture(scope="module")
def market(store: MarketStore) -> MarketStore:
    """Three symbols at two timeframes with everything that is derived from them; gold lacks some hours and days."""
    bars = {}
    for symbol in SYMBOLS:
        for timeframe in ("1h", "4h"):
            known = walk(symbol, HISTORY, END_DAY, timeframe)
            if symbol == "XAUUSD":
                known = known.drop(known.index[1100:1180]).reset_index(drop=True) if timeframe == "1h" else known
            bars[symbol, timeframe] = known
    for (symbol, timeframe), rows in bars.items():
        item = instrument(symbol)
        made = {
            INDICATOR_ROWS: indicators.compute(
                rows, instrument=item, timeframe=timeframe, first_day=FIRST_DAY, end_day=END_DAY
            ),
            LABELS: labels.compute(
                rows, instrument=item, timeframe=timeframe, first_day=FIRST_DAY, end_day=END_DAY
            ).labels,
        }
        for table, frame in made.items():
            store.replace(table, frame, symbol=symbol, timeframes=[timeframe], first_day=FIRST_DAY, end_day=END_DAY)
    closes = pd.concat([bars[symbol, "1h"] for symbol in SYMBOLS])[["symbol", "ts", "close", "known_at"]]
    for number in range((END_DAY - FIRST_DAY).days):
        day = FIRST_DAY + timedelta(days=number)
        frame = correlations.correlate(closes, day=day, timeframe="1h", window=100)
        store.replace(CORRELATION_MATRIX, frame, symbol=None, first_day=day, end_day=day + timedelta(days=1))
    store.replace_all(DATASET_SPLITS, splits.split(store.read_labels(SYMBOLS, "1h")))
    return store


def ask(market: MarketStore, config: Settings, **changes: Any) -> TrainingSet:
    wanted: dict[str, Any] = {
        "symbols": ("EURUSD", "GBPUSD"), "start": FIRST_DAY, "end": END_DAY, "features": FEATURES,
        "label": "forward_return_24h", "split": None, "timeframe": "1h", "as_known": None,
    }  # fmt: skip
    return assemble(market, request(**{**wanted, **changes}, config=config), config)


def oracle(market: MarketStore, symbol: str, features: list[str], start: date, end: date) -> list[dict[str, Any]]:
    """The rows of one symbol, every value looked up by itself."""
    own = {row["ts"]: row for row in market.database.rows(
        "SELECT * FROM features.indicators WHERE symbol = %s AND timeframe = '1h'", (symbol,))}  # fmt: skip
    higher = market.database.rows(
        "SELECT * FROM features.indicators WHERE symbol = %s AND timeframe = '4h' ORDER BY ts", (symbol,)
    )
    ends = [e.to_pydatetime() for e in trading_calendar.bar_end(pd.DatetimeIndex([r["ts"] for r in higher]), "4h")]
    pairs = market.database.rows(
        "SELECT day, correlation, known_at FROM analytics.correlation_matrix "
        "WHERE symbol_a = least(%s, 'XAUUSD') AND symbol_b = greatest(%s, 'XAUUSD') ORDER BY day", (symbol, symbol),
    )  # fmt: skip
    rows = []
    for label in market.database.rows(
        "SELECT * FROM features.labels WHERE symbol = %s AND timeframe = '1h' AND ts >= %s AND ts < %s "
        "AND forward_return_24h IS NOT NULL ORDER BY ts", (symbol, start, end),
    ):  # fmt: skip
        bar = own.get(label["ts"])
        if bar is None or bar["slice_start"] is None:
            continue
        row: dict[str, Any] = {"symbol": symbol, "ts": label["ts"]}
        known = [label["known_at"], bar["known_at"]]
        for name in features:
            column, _, source = name.partition("@")
            if not source:
                row[name] = bar[column]
                continue
            seen = None
            if source == "4h":
                for candidate, end_of_bar in zip(higher, ends, strict=True):
                    if end_of_bar <= label["entry_at"] and label["entry_at"] - end_of_bar < timedelta(days=7):
                        seen = candidate
            else:
                for candidate in pairs:
                    over = datetime.combine(candidate["day"] + timedelta(days=1), datetime.min.time(), UTC)
                    if over <= label["entry_at"] and label["entry_at"] - over < timedelta(days=7):
                        seen = candidate
            row[name] = seen and seen[column]
            known += [seen["known_at"]] if seen else []
        row["forward_return_24h"] = label["forward_return_24h"]
        row |= {name: label[name] for name in ("entry_at", "t1", "horizon_end")}
        row["known_at"] = max(known)
        rows.append(row)
    return rows


def test_every_value_is_the_one_an_oracle_looks_up_row_by_row(market: MarketStore, config: Settings) -> None:
    data = ask(market, config)
    wanted = [row for symbol in ("EURUSD", "GBPUSD") for row in oracle(market, symbol, FEATURES, FIRST_DAY, END_DAY)]
    assert len(wanted) > 900
    # The first hour is decided before the first 4h bar of the range is over.
    assert [row["ts"] for row in wanted if row["natr_14@4h"] is None] == [datetime(2024, 3, 1, tzinfo=UTC)] * 2
    assert sum(row["correlation@XAUUSD"] is None for row in wanted) < 100
    assert data.arrow.select(list(wanted[0])).to_pylist() == wanted


def test_a_rolled_up_bar_is_seen_from_its_end_on_and_not_before(market: MarketStore, config: Settings) -> None:
    frame = ask(market, config, symbols=["EURUSD"], features=["sma_15@4h"]).pandas()
    at = dict(zip(frame["entry_at"].dt.strftime("%m-%d %H"), frame["sma_15@4h"], strict=True))
    # New York's clock was changed on 10 March: until then a 4h bar ends at 22:00 UTC, afterwards at 21:00.
    assert at["03-07 22"] != at["03-07 21"]
    assert at["03-12 22"] == at["03-12 21"]
    assert at["03-12 21"] != at["03-12 20"]


def test_a_correlation_is_seen_from_the_end_of_its_day_on(market: MarketStore, config: Settings) -> None:
    frame = ask(market, config, symbols=["EURUSD"], features=["correlation@GBPUSD"]).pandas().set_index("entry_at")
    stored = {
        row["day"]: row["correlation"]
        for row in market.database.rows(
            "SELECT day, correlation FROM analytics.correlation_matrix "
            "WHERE symbol_a = 'EURUSD' AND symbol_b = 'GBPUSD'"
        )
    }
    values = frame["correlation@GBPUSD"]
    assert values.loc["2024-03-13 23:00"] == stored[date(2024, 3, 12)]
    assert values.loc["2024-03-14 00:00"] == stored[date(2024, 3, 13)]


def test_a_value_that_is_a_week_old_is_missing(market: MarketStore, config: Settings, fresh_store: MarketStore) -> None:
    for table in (INDICATOR_ROWS, LABELS):
        rows = market.read_slice(table, symbol="EURUSD", first_day=FIRST_DAY, end_day=END_DAY)
        if table is INDICATOR_ROWS:
            rows = rows[(rows["timeframe"] == "1h") | (rows["ts"] < pd.Timestamp("2024-03-08", tz="UTC"))]
        fresh_store.replace(table, rows, symbol="EURUSD", timeframes=("1h", "4h"), first_day=FIRST_DAY, end_day=END_DAY)
    values = ask(fresh_store, config, symbols=["EURUSD"], features=["sma_15@4h"]).pandas().set_index("entry_at")
    # The last 4h bar ends on Friday 8 March at 02:00.
    assert values["sma_15@4h"].loc["2024-03-01 02:00":"2024-03-15 01:00"].notna().all()
    assert values["sma_15@4h"].loc["2024-03-15 02:00":].isna().all()


def test_rows_that_are_left_out_are_counted_by_reason(market: MarketStore, config: Settings) -> None:
    data = ask(market, config, symbols=["EURUSD", "XAUUSD"], features=["rsi_14"])
    stored = market.database.rows(
        "SELECT count(*) AS all, count(forward_return_24h) AS labelled FROM features.labels "
        "WHERE symbol IN ('EURUSD', 'XAUUSD') AND timeframe = '1h'"
    )[0]
    assert data.dropped["label is NULL"] == stored["all"] - stored["labelled"] > 0
    assert len(data) + data.dropped.total() == stored["all"]
    assert data.manifest()["left_out"] == dict(data.dropped)


def test_a_part_of_the_split_holds_exactly_its_stored_rows(market: MarketStore, config: Settings) -> None:
    parts = market.database.rows("SELECT split, symbol, ts FROM features.dataset_splits WHERE symbol <> 'XAUUSD'")
    counts = Counter(row["split"] for row in parts)
    for name in ("train", "validation", "test"):
        data = ask(market, config, features=["rsi_14"], split=name)
        assert set(zip(*(data.arrow[c].to_pylist() for c in ("symbol", "ts")), strict=True)) == {
            (row["symbol"], row["ts"]) for row in parts if row["split"] == name
        }
        assert len(data) == counts[name] > 90
    every = ask(market, config, features=["rsi_14"], split="all")
    assert Counter(every.arrow["split"].to_pylist()) == counts
    assert counts["purged"] > 0
    assert counts["embargoed"] > 0


def test_the_weights_of_a_part_are_those_of_the_stored_split(market: MarketStore, config: Settings) -> None:
    stored = {
        (row["symbol"], row["ts"]): row["uniqueness"]
        for row in market.database.rows("SELECT symbol, ts, uniqueness FROM features.dataset_splits")
    }
    for name in ("train", "all"):
        data = ask(market, config, features=["rsi_14"], split=name).arrow.select(["symbol", "ts", "weight"])
        assert all(stored[row["symbol"], row["ts"]] == row["weight"] for row in data.to_pylist())
    alone = ask(market, config, symbols=["EURUSD"], features=["rsi_14"]).pandas()
    # In the middle of a gapless series each bar is covered by 24 labels.
    assert alone["weight"].iloc[300] == pytest.approx(1 / 24)
    assert alone["weight"].iloc[0] > 3 / 24


def test_folds_of_a_training_set_never_train_on_what_is_tested(market: MarketStore, config: Settings) -> None:
    data = ask(market, config, symbols=SYMBOLS, features=["rsi_14"])
    frame = data.pandas().assign(timeframe="1h")
    folds = list(data.folds(groups=5, test_groups=2))
    assert len(folds) == 10
    for fold in folds:
        assert overlaps(frame.iloc[fold.train], frame.iloc[fold.test]).empty
        assert len(fold.train) > 100


def test_other_boundaries_than_the_stored_ones_split_anew(market: MarketStore, config: Settings) -> None:
    train_end, validation_end = datetime(2024, 3, 14, tzinfo=UTC), datetime(2024, 3, 25, tzinfo=UTC)
    train = ask(market, config, split=TimeSplit("train", train_end, validation_end)).pandas()
    later = ask(market, config, split=TimeSplit("validation", train_end, validation_end)).pandas()
    assert train["t1"].max() < pd.Timestamp(train_end)
    # An embargo of 50 open hours follows the boundary.
    assert later["entry_at"].min() == pd.Timestamp("2024-03-18 02:00", tz="UTC")
    assert later["t1"].max() < pd.Timestamp(validation_end)


@pytest.mark.parametrize(
    ("label", "end"),
    [("barrier_label", "barrier_t1"), ("barrier_return", "barrier_t1"), ("direction_24h", "t1")],
)
def test_each_label_comes_with_its_own_end(market: MarketStore, config: Settings, label: str, end: str) -> None:
    data = ask(market, config, symbols=["EURUSD"], features=["rsi_14"], label=label)
    stored = market.database.rows(
        f"SELECT ts, {label}, {end} FROM features.labels "
        "WHERE symbol = 'EURUSD' AND timeframe = '1h' AND barrier IS NOT NULL ORDER BY ts"
    )
    assert data.arrow.select(["ts", label, "t1"]).to_pylist() == [
        {"ts": row["ts"], label: row[label], "t1": row[end]} for row in stored
    ]
    assert len(data) > 500


def test_it_comes_as_arrow_pandas_and_polars_with_the_same_values(market: MarketStore, config: Settings) -> None:
    data = ask(market, config)
    pandas, frame = data.pandas(), data.polars()
    assert isinstance(frame, polars.DataFrame)
    assert frame.to_arrow().cast(data.arrow.schema).equals(data.arrow)
    assert str(pandas["ts"].dtype) == "datetime64[us, UTC]"
    assert list(pandas.columns) == frame.columns == data.arrow.column_names
    np.testing.assert_array_equal(pandas["rsi_14"], frame["rsi_14"].to_numpy())
    assert data.arrow.schema.field("natr_14@4h").metadata == {
        b"description": b"atr_14 as a percentage of the close.", b"unit": b"percent",
    }  # fmt: skip


def test_the_order_of_the_symbols_asked_for_changes_nothing(market: MarketStore, config: Settings) -> None:
    assert ask(market, config, symbols=["GBPUSD", "EURUSD", "GBPUSD"]).arrow.equals(ask(market, config).arrow)


def test_all_32_indicators_are_the_default(market: MarketStore, config: Settings) -> None:
    data = ask(market, config, features=None)
    assert len(data.feature_names) == 32
    assert data.arrow.num_columns == 32 + 8


def test_the_hashes_are_those_of_the_values_whatever_the_chunks(market: MarketStore, config: Settings) -> None:
    data = ask(market, config, features=["rsi_14", "mfi_14"])
    hashes = data.manifest()["hashes"]
    values = data.arrow["mfi_14"].to_pylist()
    nulls = hashlib.sha256(bytes(value is None for value in values))
    numbers = hashlib.sha256(b"".join(struct.pack("<d", value or 0.0) for value in values))
    by_hand = hashlib.sha256(nulls.digest() + numbers.digest())
    assert hashes["columns"]["mfi_14"] == by_hand.hexdigest()
    again = TrainingSet(data.arrow.combine_chunks(), data.request)
    assert again.manifest()["hashes"] == hashes


def test_one_changed_bit_changes_its_column_s_hash_and_no_other(market: MarketStore, config: Settings) -> None:
    data = ask(market, config, features=["rsi_14", "mfi_14"])
    values = data.arrow["rsi_14"].to_numpy().copy()
    values[17] = np.nextafter(values[17], np.inf)
    position = data.arrow.schema.get_field_index("rsi_14")
    changed = data.arrow.set_column(position, data.arrow.schema.field(position), [values])
    before, after = data.manifest()["hashes"], TrainingSet(changed, data.request).manifest()["hashes"]
    assert before["content_hash"] != after["content_hash"]
    assert before["row_hash"] == after["row_hash"]
    assert {name for name in before["columns"] if before["columns"][name] != after["columns"][name]} == {"rsi_14"}


def test_the_manifest_says_how_to_make_the_same_rows_again(market: MarketStore, config: Settings) -> None:
    facts = ask(market, config, split="train").manifest()
    query = {n: value for n, value in facts["rebuild"]["query"].items() if not n.endswith("_seconds")}
    again = request(**query, config=config)
    assert assemble(market, again, config).manifest()["hashes"] == facts["hashes"]
    assert facts["rows"] == sum(symbol["rows"] for symbol in facts["by_symbol"].values())
    lock = Path(__file__).parent.parent / "requirements.lock"
    assert facts["rebuild"]["requirements_lock_sha256"] == hashlib.sha256(lock.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"features": ["rsi_15"]}, "There is no feature 'rsi_15'. Did you mean rsi_14"),
        ({"features": ["rsi_14@1d"]}, "Features and labels at 1d are not computed"),
        ({"features": ["rsi_14@2h"]}, "'2h' is no timeframe"),
        ({"features": ["rsi_14", "rsi_14"]}, "asked for twice: rsi_14"),
        ({"features": []}, "No feature was asked for"),
        ({"features": ["correlation@NOGOLD"]}, "The symbol 'NOGOLD' is unknown"),
        ({"features": ["correlation@EURUSD"]}, "correlation@EURUSD is asked for EURUSD itself"),
        ({"symbols": []}, "No symbol"),
        ({"symbols": ["EURXXX"]}, "EURXXX"),
        ({"label": "tomorrow"}, "There is no label 'tomorrow'"),
        ({"split": "training"}, "There is no split 'training'"),
        ({"split": "train", "timeframe": "4h"}, "features.dataset_splits holds 1h rows"),
        ({"start": "yesterday"}, "'yesterday' is no day"),
        ({"start": END_DAY, "end": FIRST_DAY}, "is empty"),
        ({"start": "2019-01-01", "end": "2020-01-01"}, "No row: EURUSD, GBPUSD at 1h"),
    ],
)
def test_what_does_not_exist_is_refused_with_its_name(
    market: MarketStore, config: Settings, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(NexusError, match=sentence.replace(".", r"\.")) as refused:
        ask(market, config, **changes)
    assert refused.value.next_step or isinstance(refused.value, TrainingSetError)


class TestExport:
    """Parquet files and their manifests."""

    def asked(self, config: Settings, **changes: Any):
        wanted: dict[str, Any] = {
            "symbols": ("EURUSD", "GBPUSD"), "start": FIRST_DAY, "end": END_DAY, "features": FEATURES,
            "label": "forward_return_24h", "split": "all", "timeframe": "1h", "as_known": None,
        }  # fmt: skip
        return request(**{**wanted, **changes}, config=config)

    def test_the_file_holds_the_rows_and_the_manifest_their_hashes(
        self, market: MarketStore, config: Settings, tmp_path: Path
    ) -> None:
        told: list[tuple[str, int]] = []
        facts = export(market, self.asked(config), tmp_path / "set", config, progress=lambda *seen: told.append(seen))
        whole = assemble(market, self.asked(config), config)
        assert parquet.read_table(tmp_path / "set" / "data.parquet").equals(whole.arrow)
        assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["data.parquet", "manifest.json"]
        stored = json.loads((tmp_path / "set" / "manifest.json").read_text())
        assert stored == facts
        assert stored["hashes"] == whole.manifest()["hashes"]
        assert [symbol for symbol, _ in told] == ["EURUSD", "GBPUSD"]
        assert told[-1][1] == stored["rows"] == len(whole)
        file = tmp_path / "set" / "data.parquet"
        assert stored["file"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()

    def test_the_same_request_writes_the_same_bytes(
        self, market: MarketStore, config: Settings, tmp_path: Path
    ) -> None:
        first, second = (export(market, self.asked(config), tmp_path / name, config)["file"]["sha256"] for name in "ab")
        assert first == second

    def test_an_export_is_not_overwritten_unless_asked_to(
        self, market: MarketStore, config: Settings, tmp_path: Path
    ) -> None:
        export(market, self.asked(config), tmp_path, config)
        with pytest.raises(TrainingSetError, match="holds an export already"):
            export(market, self.asked(config), tmp_path, config)
        facts = export(market, self.asked(config, features=["rsi_14"]), tmp_path, config, overwrite=True)
        assert json.loads((tmp_path / "manifest.json").read_text()) == facts
        assert verify(tmp_path) == []

    def test_an_export_that_fails_leaves_the_older_one_as_it_was(
        self, market: MarketStore, config: Settings, tmp_path: Path
    ) -> None:
        export(market, self.asked(config), tmp_path, config)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(TrainingSetError, match="No row"):
            export(market, self.asked(config, start="2019-01-01", end="2019-02-01"), tmp_path, config, overwrite=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_changed_file_is_found_out(self, market: MarketStore, config: Settings, tmp_path: Path) -> None:
        export(market, self.asked(config), tmp_path, config)
        assert verify(tmp_path) == []
        table = parquet.read_table(tmp_path / "data.parquet")
        values = table["rsi_14"].to_numpy().copy()
        values[100] += 1e-9
        position = table.schema.get_field_index("rsi_14")
        parquet.write_table(table.set_column(position, "rsi_14", [values]), tmp_path / "data.parquet")
        assert verify(tmp_path) == ["Column rsi_14 differs from the manifest."]
        parquet.write_table(table.slice(1), tmp_path / "data.parquet")
        assert any("rows; the manifest says" in sentence for sentence in verify(tmp_path))
        (tmp_path / "data.parquet").write_bytes(b"nothing")
        with pytest.raises(TrainingSetError, match="no readable export"):
            verify(tmp_path)

    def test_a_folder_that_cannot_be_made_is_named(self, market: MarketStore, config: Settings, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(TrainingSetError, match="file/set failed"):
            export(market, self.asked(config), tmp_path / "file" / "set", config)


def test_the_asset_writes_a_month_of_every_symbol_with_its_facts_in_the_ui(
    market: MarketStore, databases: DatabaseMaker, services: ServiceState, tmp_path: Path
) -> None:
    with graph(
        market, databases.url_of(market.database), services.redis_url, home=str(tmp_path), symbols=" ".join(SYMBOLS),
        start_day=str(HISTORY), training_features="rsi_14 natr_14@4h",
    ) as made:  # fmt: skip
        job = made.definitions.resolve_job_def("training_sets")
        result = job.execute_in_process(instance=made.instance, partition_key="2024-03-01")
        assert result.success
        (event,) = made.instance.fetch_materializations(dg.AssetKey(["features", "training_set"]), limit=5).records
        assert event.asset_materialization is not None
        told = event.asset_materialization.metadata
        tags = {"dagster/asset_partition_range_start": "2024-02-01", "dagster/asset_partition_range_end": "2024-03-01"}
        both = made.definitions.resolve_job_def("training_sets")
        partly = both.execute_in_process(instance=made.instance, tags=tags, raise_on_error=False)
        assert not partly.success
        (failure,) = [event for event in partly.all_events if event.is_step_failure]
        assert "2024-02-01: No row: EURUSD, GBPUSD, XAUUSD at 1h" in str(failure.step_failure_data.error_display_string)
        records = made.instance.fetch_materializations(dg.AssetKey(["features", "training_set"]), limit=5).records
        assert [r.partition_key for r in records] == ["2024-03-01", "2024-03-01"]
    folder = tmp_path / "training_sets" / "2024-03"
    facts = json.loads((folder / "manifest.json").read_text())
    rows = parquet.read_table(folder / "data.parquet")
    assert told["dagster/row_count"].value == rows.num_rows == facts["rows"] > 1300
    assert told["content_hash"].value == facts["hashes"]["content_hash"]
    # The rows of a month are those whose bars end in it.
    ends = rows["entry_at"].to_pylist()
    assert min(ends) > datetime(2024, 3, 1, tzinfo=UTC)
    assert max(ends) <= datetime(2024, 4, 1, tzinfo=UTC)
    assert set(rows["symbol"].to_pylist()) == set(SYMBOLS)


def test_a_project_root_without_a_lock_file_leaves_no_trace_in_later_manifests(
    market: MarketStore, config: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = ask(market, config, features=["rsi_14"])
    (tmp_path / "sql" / "migrations").mkdir(parents=True)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("NEXUS_ROOT", str(tmp_path))
        assert data.manifest()["rebuild"]["requirements_lock_sha256"] is None
    assert data.manifest()["rebuild"]["requirements_lock_sha256"] is not None
