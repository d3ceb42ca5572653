"""Retention: what goes, what never goes, and that what went is neither missing nor made again from nothing."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from typer.testing import CliRunner

from nexus_assets import dropping, pinned_sets, retention
from nexus_assets.as_known import KnownMarket
from nexus_assets.assets import bars, indicators, labels
from nexus_assets.cli import app
from nexus_assets.corrections import pending
from nexus_assets.database import Database
from nexus_assets.errors import MigrationError, SettingsError, TrainingSetError
from nexus_assets.exports import export, verify
from nexus_assets.loading import Extent, plan_stage
from nexus_assets.market_store import MarketStore
from nexus_assets.migrations import Level, detect_level
from nexus_assets.partitions import Slice, consecutive, days_between
from nexus_assets.planning import Ledger, stale_cells
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.resources import open_sources
from nexus_assets.schemas import BARS, GAPS, INDICATOR_ROWS, LABELS, RAW_OHLC
from nexus_assets.services import ServiceState
from nexus_assets.settings import Settings, load_settings, settings
from nexus_assets.training_request import TrainingRequest, request
from nexus_assets.training_sets import assemble
from nexus_assets_tests.conftest import ROOT, DatabaseMaker
from nexus_assets_tests.database.rows import bar_rows, no_quarantine
from nexus_assets_tests.graphs import Graph, graph

FIRST, END = date(2020, 6, 1), date(2021, 4, 2)
SET_FROM, SET_END = date(2021, 3, 9), date(2021, 4, 1)
TODAY = date(2021, 12, 1)
PRICES = ("market/raw_ohlc", "market/bars")
ONE_DAY = timedelta(days=1)


def utc(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def config(**changes: object) -> Settings:
    given = {"symbols": ("EURUSD",), "start_day": FIRST, "feature_timeframes": ("1h",), "retention_raw_ohlc": None}
    return load_settings(**{**given, **changes})


def accept(database: Database, chosen: Settings, today: date = TODAY) -> list[str]:
    return database.run(lambda connection: retention.accept(connection, chosen, today))


def deliver(store: MarketStore, first_day: date, end_day: date) -> None:
    """Hourly prices of EURUSD, a quarter at a time."""
    provider = SyntheticProvider()
    while first_day < end_day:
        until = min(first_day + timedelta(days=90), end_day)
        store.append_delivery(provider.fetch(Request("EURUSD", "1h", utc(first_day), utc(until))), run_id=None)
        first_day = until


@pytest.fixture
def prices(any_level_database: Database) -> MarketStore:
    """Ten months of prices, on each level."""
    store = MarketStore(any_level_database)
    deliver(store, FIRST, END)
    return store


def raw_days(store: MarketStore) -> pd.Series:
    """Rows of each day."""
    rows = store.database.rows(
        "SELECT (ts AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM market.raw_ohlc GROUP BY 1"
    )
    return pd.Series({row["day"]: row["n"] for row in rows}).sort_index()


def is_plain(store: MarketStore) -> bool:
    with store.database.session() as connection:
        return detect_level(connection) is Level.PLAIN


def asked(chosen: Settings, **changes: object) -> TrainingRequest:
    wanted = {
        "symbols": ["EURUSD"], "start": SET_FROM, "end": SET_END, "features": ["rsi_14", "hv_50"],
        "label": "forward_return_24h", "split": None, "timeframe": "1h", "as_known": None, **changes,
    }  # fmt: skip
    return request(**wanted, config=chosen)  # pyright: ignore[reportArgumentType]


# What must stay


def test_a_retention_shorter_than_the_warm_up_is_refused_with_the_numbers() -> None:
    # 250 bars of 4h are 8.7 weeks of 28.75 bars: 61 days, 8 more for holidays, before the 14 days that healing makes.
    with pytest.raises(SettingsError) as caught:
        load_settings(retention_bars="82 days")
    for said in ("NEXUS_RETENTION_BARS is 82 days", "market.bars", "250 bars at 4h", "at least 83 days"):
        assert said in str(caught.value)
    assert load_settings(retention_bars="83 days").retentions["bars"] == 83


def test_each_setting_has_a_least_length_of_its_own() -> None:
    # By hand: 250 daily bars are 350 days and 8 for holidays, a correlation of 1,000 hours looks back over 124 days.
    for name, days, changes in (
        ("raw_ohlc", 84, {}),
        ("raw_ohlc", 373, {"feature_timeframes": ("1h", "1d")}),
        ("bars", 372, {"feature_timeframes": ("1h", "1d")}),
        ("bars", 99, {"healing_days": 30}),
        ("bars", 138, {"feature_timeframes": ("1h",), "correlation_window": 1_000}),
        ("indicators", 50, {}),
        ("labels", 50, {}),
        ("correlation_matrix", 50, {}),
        ("pair_rankings", 14, {}),
        ("quarantined_bars", 15, {}),
    ):
        load_settings(**{f"retention_{name}": days}, **changes)
        with pytest.raises(SettingsError, match=f"at least {days} days"):
            load_settings(**{f"retention_{name}": days - 1}, **changes)


@pytest.mark.parametrize("wrong", ["some days", "0", "-1 days", "days", "1.5"])
def test_what_is_no_number_of_days_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="NEXUS_RETENTION_LABELS"):
        load_settings(retention_labels=wrong)


def test_a_new_retention_that_a_pinned_set_outlives_is_refused_with_the_set_and_the_days(prices: MarketStore) -> None:
    store, chosen = prices, config()
    pinned = pinned_sets.pin(store, asked(chosen, as_known=store.settled_until()), chosen, "q1")
    age = (TODAY - pinned.prices_from).days
    for days in (365, age):
        if days >= age:
            assert accept(store.database, config(retention_raw_ohlc=days)) == []
    with pytest.raises(MigrationError) as caught:
        accept(store.database, config(retention_raw_ohlc=age - 1))
    for said in (f"is {age - 1} days", "market.raw_ohlc", "'q1'", f"{pinned.prices_from}", f"at least {age} days"):
        assert said in str(caught.value)
    # Nobody is stopped by a set that came of age under a setting that was right when it was made.
    (sentence,) = accept(store.database, config(retention_raw_ohlc=age), TODAY + ONE_DAY)
    assert "'q1'" in sentence
    with pytest.raises(SettingsError, match="Nothing is dropped"):
        dropping.drop(store.database, config(retention_raw_ohlc=age - 1), today=TODAY)


# What goes


def test_without_a_setting_nothing_goes(prices: MarketStore) -> None:
    before = raw_days(prices)
    assert accept(prices.database, config()) == []
    assert dropping.drop(prices.database, config(), today=TODAY) == []
    assert raw_days(prices).equals(before)


def test_what_is_older_goes_and_every_row_of_a_kept_day_stays(prices: MarketStore) -> None:
    chosen = config(retention_raw_ohlc=365)
    before, kept_from = raw_days(prices), TODAY - timedelta(days=365)
    accept(prices.database, chosen)
    (planned,) = dropping.plan(prices.database, chosen, today=TODAY)
    assert raw_days(prices).equals(before)
    (went,) = dropping.drop(prices.database, chosen, today=TODAY)
    after = raw_days(prices)
    assert after[after.index >= kept_from].equals(before[before.index >= kept_from])
    assert went.rows == planned.rows == before.sum() - after.sum() > 0
    assert went.before == planned.before
    assert went.before is not None
    assert went.before <= kept_from
    if is_plain(prices):
        assert after.index[0] in {kept_from - ONE_DAY, kept_from}
    else:
        # Whole chunks of 90 days: what stays is less than one more.
        assert kept_from - after.index[0] < timedelta(days=92)
        assert went.bytes > 0
    ledger = prices.ledger(RAW_OHLC, ["EURUSD"], FIRST, END)
    assert ledger["day"].min() == went.before
    (again,) = dropping.drop(prices.database, chosen, today=TODAY)
    assert (again.rows, again.before) == (0, None)


def test_gaps_go_with_their_bars_and_an_end_of_day_cuts_no_rolled_up_bar(any_level_database: Database) -> None:
    store, chosen = MarketStore(any_level_database), config(retention_bars=365)
    kept_from = TODAY - timedelta(days=365)
    end_day = date(2021, 1, 1)
    parts = [bar_rows(FIRST, end_day, timeframe) for timeframe in ("1h", "4h", "1d")]
    every = pd.concat(parts, ignore_index=True)
    gap = {
        "symbol": "EURUSD", "timeframe": "1h", "ends_at": pd.Timestamp("2020-06-03 05:00", tz="UTC"), "bars": 2,
        "ts": pd.Timestamp("2020-06-03 03:00", tz="UTC"), "state": "missing", "reason": "not_asked", "provider": "",
    }  # fmt: skip
    late = {**gap, "ts": gap["ts"] + pd.Timedelta(200, "D"), "ends_at": gap["ends_at"] + pd.Timedelta(200, "D")}
    gaps = pd.DataFrame([gap, late]).assign(known_at=pd.Series([pd.NaT] * 2, dtype="datetime64[us, UTC]"))
    store.replace_bars(
        every, no_quarantine(), gaps=gaps, symbol="EURUSD", timeframes=("1h", "4h", "1d"),
        first_day=FIRST, end_day=end_day,
    )  # fmt: skip
    accept(store.database, chosen)
    before = store.read_slice(BARS, symbol="EURUSD", first_day=kept_from, end_day=end_day)
    (went,) = dropping.drop(store.database, chosen, today=TODAY)
    assert went.rows > 0
    assert store.read_slice(BARS, symbol="EURUSD", first_day=kept_from, end_day=end_day).equals(before)
    assert store.database.rows("SELECT count(*) AS n FROM market.gaps") == [{"n": 1}]
    # The first day of the ledger is whole: the open of its 1d bar, on the evening before, is there.
    first = went.before
    assert first is not None
    whole = store.read_slice(BARS, symbol="EURUSD", first_day=first, end_day=first + ONE_DAY)
    assert whole["timeframe"].value_counts().to_dict() == {"1h": 24, "4h": 6, "1d": 1}


# Pinned sets


def test_a_pinned_set_holds_its_prices_back_until_it_is_let_go(prices: MarketStore) -> None:
    store, today = prices, TODAY + timedelta(days=600)
    chosen = config(retention_raw_ohlc=365)
    accept(store.database, chosen)
    store.replace_bars(
        bar_rows(FIRST, END), no_quarantine(), symbol="EURUSD", timeframes=("1h",), first_day=FIRST, end_day=END
    )
    pinned = pinned_sets.pin(store, asked(chosen, as_known=store.settled_until()), chosen, "q1")
    before = raw_days(store)
    (went,) = dropping.drop(store.database, chosen, today=today)
    after = raw_days(store)
    assert went.rows > 0
    assert went.expiry.held_by is not None
    assert went.expiry.held_by.pin == "q1"
    assert after[after.index >= pinned.prices_from].equals(before[before.index >= pinned.prices_from])
    assert after.index[0] < pinned.prices_from
    pinned_sets.unpin(store, "q1")
    (went,) = dropping.drop(store.database, chosen, today=today)
    assert went.expiry.held_by is None
    assert raw_days(store).empty


def test_a_set_that_is_pinned_while_rows_are_about_to_go_keeps_them(prices: MarketStore) -> None:
    store, chosen, today = prices, config(retention_raw_ohlc=365), TODAY + timedelta(days=600)
    accept(store.database, chosen)
    before, went = raw_days(store), []
    worker = threading.Thread(target=lambda: went.extend(dropping.drop(store.database, chosen, today=today)))
    with store.database.transaction() as pinning:
        store.database.lock(pinning, pinned_sets.LOCK)
        worker.start()
        pinning.execute(
            "INSERT INTO nexus.pinned_sets VALUES ('all', 'EURUSD', now() - interval '1 day', now(), now(), %s, NULL, "
            "'{}', NULL, now())",
            (FIRST,),
        )
        worker.join(1)
        assert worker.is_alive()
    worker.join(30)
    assert [going.rows for going in went] == [0]
    assert raw_days(store).equals(before)


def test_a_set_of_the_newest_corrections_holds_features_and_labels(any_level_database: Database) -> None:
    store = MarketStore(any_level_database)
    chosen = config(retention_indicators=50, retention_labels=50)
    accept(store.database, chosen)
    pinned = pinned_sets.pin(store, asked(chosen, features=["rsi_14", "correlation@GBPUSD"]), chosen, "now")
    assert pinned.symbols == "EURUSD GBPUSD"
    # Correlations are joined from up to 9 days before.
    assert pinned.features_from == SET_FROM - timedelta(days=9)
    with store.database.session() as connection:
        kept = {e.table.name: e.kept_from for e in retention.expiries(connection, chosen, TODAY + timedelta(900))}
    assert kept == {"indicators": pinned.features_from, "labels": pinned.features_from}


def test_a_set_as_it_was_served_holds_prices_and_labels(any_level_database: Database) -> None:
    store, chosen = MarketStore(any_level_database), config()
    pinned = pinned_sets.pin(store, asked(chosen, as_served=timedelta(minutes=1)), chosen, "served")
    assert pinned.reads_from(RAW_OHLC) == pinned.prices_from < SET_FROM
    assert pinned.reads_from(LABELS) == SET_FROM
    for table, from_day in ((RAW_OHLC, pinned.prices_from), (LABELS, SET_FROM)):
        dropped = {table.qualified: from_day + ONE_DAY}
        with pytest.raises(TrainingSetError, match=table.qualified):
            pinned_sets.refuse_dropped(dropped, asked(chosen, as_served=timedelta(0)), pinned.prices_from, SET_FROM)


def test_a_name_is_pinned_once(prices: MarketStore) -> None:
    chosen = config()
    pinned_sets.pin(prices, asked(chosen), chosen, "q1")
    with pytest.raises(TrainingSetError, match="pinned as 'q1' already"):
        pinned_sets.pin(prices, asked(chosen), chosen, "q1")
    with pytest.raises(TrainingSetError, match="No training set is pinned as 'q2'"):
        pinned_sets.unpin(prices, "q2")


def test_a_warm_up_with_missing_days_reaches_further_back(any_level_database: Database) -> None:
    store, chosen = MarketStore(any_level_database), config()
    usual, _ = pinned_sets.reads_from(store, asked(chosen), chosen)
    deliver(store, FIRST, END)
    every = bar_rows(FIRST, END)
    hole = (every["ts"] > pd.Timestamp(usual, tz="UTC")) & (every["ts"] < pd.Timestamp("2021-03-05", tz="UTC"))
    for frame, further in ((every, False), (every[~hole], True)):
        store.replace_bars(frame, no_quarantine(), symbol="EURUSD", timeframes=("1h",), first_day=FIRST, end_day=END)
        found, _ = pinned_sets.reads_from(store, asked(chosen), chosen)
        assert (found < usual) is further
        start = pd.Timestamp(found, tz="UTC")
        assert ((frame["ts"] >= start) & (frame["ts"] < pd.Timestamp(SET_FROM, tz="UTC"))).sum() >= 250


# After rows went


@pytest.fixture(scope="module")
def loaded(any_level_databases: DatabaseMaker, services: ServiceState) -> Iterator[Graph]:
    """Ten months of prices and bars of a pair, features of the last weeks, through the graph; on each level."""
    url = any_level_databases.migrated()
    store = MarketStore(Database(url))
    with graph(
        store, url, services.redis_url, symbols="EURUSD", start_day=str(FIRST), feature_timeframes="1h",
        retention_raw_ohlc="365 days",
    ) as made:  # fmt: skip
        deliver(store, FIRST, END)
        pieces = [Slice("EURUSD", first, end) for first, end in consecutive(days_between(FIRST, END))]
        for stage in (make_bars, make_features):
            for piece in pieces:
                stage(store, piece)
        yield made


def make_bars(store: MarketStore, piece: Slice) -> None:
    """What the graph makes of a slice of prices, without its events."""
    now = datetime.now(UTC)
    made, _ = bars.make(store, open_sources(settings()), piece, now)
    bars.write(store, open_sources(settings()), piece, made, GAPS.empty(), now)


def make_features(store: MarketStore, piece: Slice) -> None:
    """The same of a slice of bars."""
    now = datetime.now(UTC)
    indicators.write(store, piece, indicators.compute(store, piece), now)
    labels.write(store, piece, [labels.compute(store, piece, "1h")], now)


def content_hash(store: MarketStore, chosen: Settings, wanted: TrainingRequest) -> str:
    assert wanted.as_known is not None
    reader = KnownMarket(store, wanted.as_known, priority=lambda symbol: ("synthetic",), config=chosen)
    return assemble(reader, wanted, chosen).manifest()["hashes"]["content_hash"]


def test_a_pinned_set_as_known_has_the_same_bits_after_everything_else_went(loaded: Graph, tmp_path: Path) -> None:
    store, chosen = loaded.store, settings()
    wanted = asked(chosen, as_known=store.settled_until())
    with pinned_sets.pinned(store, wanted, chosen, "q1") as outcome:
        reader = KnownMarket(store, wanted.as_known, priority=lambda symbol: ("synthetic",), config=chosen)  # pyright: ignore[reportArgumentType]
        facts = export(reader, wanted, tmp_path, chosen)
        outcome["content_hash"] = facts["hashes"]["content_hash"]
    with store.database.session() as connection:
        (pinned,) = pinned_sets.pinned_sets(connection)
    assert pinned.content_hash == content_hash(store, chosen, wanted)
    store.database.run(
        lambda c: c.execute("UPDATE nexus.retention SET days = 36500 WHERE table_name = 'market.raw_ohlc'")
    )
    accept_outlived(store, chosen)
    (went,) = dropping.drop(store.database, chosen)
    assert went.rows > 1000
    assert content_hash(store, chosen, wanted) == pinned.content_hash
    assert verify(tmp_path) == []
    earlier = replace(wanted, start=wanted.start - timedelta(days=120))
    with pytest.raises(TrainingSetError, match=r"reads market\.raw_ohlc from .* dropped by retention"):
        pinned_sets.refuse_if_dropped(store, earlier, chosen)
    with pytest.raises(TrainingSetError, match="dropped by retention"):
        pinned_sets.pin(store, earlier, chosen, "earlier")
    pinned_sets.refuse_if_dropped(store, wanted, chosen)


def accept_outlived(store: MarketStore, chosen: Settings) -> None:
    """Take the setting over as one that was right before the set was pinned."""
    store.database.run(
        lambda c: c.execute(
            "INSERT INTO nexus.retention VALUES ('market.raw_ohlc', 365, NULL, NULL, now()) "
            "ON CONFLICT (table_name) DO UPDATE SET days = 365"
        )
    )
    assert len(accept(store.database, chosen, datetime.now(UTC).date())) == 1


def test_what_went_is_not_fetched_again_and_what_was_made_of_it_stays(loaded: Graph) -> None:
    store, chosen = loaded.store, settings()
    accept_or_drop(store, chosen)
    dropped = store.days_dropped_before()["market.raw_ohlc"]
    assert store.days_made_from()["market.bars"] == dropped + ONE_DAY
    old = (FIRST + timedelta(days=10), FIRST + timedelta(days=20))
    ledger = Ledger.read(store, ["EURUSD"], FIRST, END)
    for table in (RAW_OHLC, BARS):
        stale = stale_cells(ledger, table, ["EURUSD"], FIRST, dropped, config=chosen)
        assert stale == set(), table.qualified
    extent = Extent(("EURUSD",), *old, stages=("prices",), again=True)
    assert plan_stage(store, open_sources(chosen), chosen, extent, "prices") == []
    deliveries = store.database.rows("SELECT count(*) AS n FROM market.deliveries")
    before = store.read_slice(BARS, symbol="EURUSD", first_day=FIRST, end_day=END)
    loaded.run(PRICES, ("EURUSD", "EURUSD"), *old)
    assert store.database.rows("SELECT count(*) AS n FROM market.deliveries") == deliveries
    assert store.read_slice(BARS, symbol="EURUSD", first_day=FIRST, end_day=END).equals(before)
    # Nor does anything else write over it.
    store.replace_bars(
        before.iloc[:0], no_quarantine(), symbol="EURUSD", timeframes=("1h", "4h", "1d"), first_day=dropped,
        end_day=dropped + ONE_DAY,
    )  # fmt: skip
    assert store.read_slice(BARS, symbol="EURUSD", first_day=FIRST, end_day=END).equals(before)
    assert pending(store) == set()


def accept_or_drop(store: MarketStore, chosen: Settings) -> None:
    if "market.raw_ohlc" not in store.days_dropped_before():
        accept_outlived(store, chosen)
        dropping.drop(store.database, chosen)


def test_a_correction_on_the_first_kept_day_waits_for_nobody(loaded: Graph) -> None:
    # Its bars are not made again, because the evening before went: it must not stay pending for ever.
    store = loaded.store
    accept_or_drop(store, settings())
    first = store.days_dropped_before()["market.raw_ohlc"]
    store.database.run(
        lambda c: c.execute(
            "UPDATE nexus.slices SET changed_at = now() WHERE table_name = 'market.raw_ohlc' AND day = %s", (first,)
        )
    )
    assert pending(store) <= {("EURUSD", first + ONE_DAY)}


def test_features_whose_warm_up_went_stay_and_later_ones_are_made_again(loaded: Graph) -> None:
    store = loaded.store
    chosen = load_settings(symbols=("EURUSD",), start_day=FIRST, feature_timeframes=("1h",), retention_bars=300)
    today = date(2021, 12, 15)  # keeps bars from 2021-02-18
    store.database.run(lambda c: c.execute("DELETE FROM nexus.pinned_sets"))
    accept(store.database, chosen, today)
    before = {t: store.read_slice(t, symbol="EURUSD", first_day=FIRST, end_day=END) for t in (INDICATOR_ROWS, LABELS)}
    dropping.drop(store.database, chosen, today=today)
    dropped, made_from = store.days_dropped_before()["market.bars"], store.made_from(INDICATOR_ROWS)
    assert dropped < date(2021, 2, 19)
    days = (date(2021, 1, 20), END)
    loaded.run(("features/indicators", "features/labels"), ("EURUSD", "EURUSD"), *days)
    for table, rows in before.items():
        assert store.read_slice(table, symbol="EURUSD", first_day=FIRST, end_day=END).equals(rows), table.qualified
    written = store.ledger(INDICATOR_ROWS, ["EURUSD"], *days)
    again = written[written["written_at"] == written["written_at"].max()]["day"]
    assert again.min() >= made_from
    # Exactly: the first day that is made again has its 250 bars in what is left.
    rows = before[INDICATOR_ROWS]
    starts = rows[rows["ts"] >= pd.Timestamp(made_from, tz="UTC")]["slice_start"].dropna()
    assert starts.min() >= pd.Timestamp(dropped, tz="UTC")


# Dagster


def test_the_job_tells_what_went(prices: MarketStore, services: ServiceState) -> None:
    url = str(prices.database._conninfo)
    with graph(
        prices, url, services.redis_url, symbols="EURUSD", start_day=str(FIRST), retention_raw_ohlc="365 days"
    ) as made:
        accept(prices.database, settings(), datetime.now(UTC).date())
        result = made.definitions.resolve_job_def("market_retention").execute_in_process(instance=made.instance)
        assert result.success
        events = {event.event_type_value: event for event in result.all_events}
        metadata = events["STEP_OUTPUT"].step_output_data.metadata
        told: dict[str, Any] = {name: value.value for name, value in metadata.items()}
        assert told["market.raw_ohlc"]["rows"] == told["rows"] > 5000
        observed = events["ASSET_OBSERVATION"].asset_observation_data.asset_observation
        assert observed.asset_key == dg.AssetKey(["market", "raw_ohlc"])


def test_the_schedule_rests_where_everything_is_kept_for_ever(
    fresh_store: MarketStore, database_url: str, redis_url: str
) -> None:
    for days, kind in (("", dg.SkipReason), ("365 days", dg.RunRequest)):
        with graph(fresh_store, database_url, redis_url, retention_raw_ohlc=days) as made:
            schedule = made.definitions.resolve_schedule_def("daily_retention")
            context = dg.build_schedule_context(scheduled_execution_time=utc(TODAY))
            assert isinstance(schedule(context), kind)


def test_the_command_line_pins_plans_and_lets_go(
    prices: MarketStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prices
    first, end = date(2021, 1, 4), date(2021, 2, 1)
    store.replace_bars(
        bar_rows(FIRST, END), no_quarantine(), symbol="EURUSD", timeframes=("1h",), first_day=FIRST, end_day=END
    )
    for name, value in {
        "DATABASE_URL": str(store.database._conninfo), "ROOT": str(tmp_path), "SYMBOLS": "EURUSD",
        "START_DAY": str(FIRST), "AUTOMATION": "off", "FEATURE_TIMEFRAMES": "1h", "RETENTION_RAW_OHLC": "365 days",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"NEXUS_{name}", value)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("sql", "sources.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    settings.cache_clear()

    def nexus(*words: str) -> str:
        answer = CliRunner().invoke(app, list(words))
        assert answer.exit_code == 0, (answer.output, answer.exception)
        return answer.stdout

    accept(store.database, settings(), datetime.now(UTC).date())
    planned = json.loads(nexus("retention", "plan", "--json"))["market.raw_ohlc"]
    assert planned["rows"] > 5000
    with pytest.raises(TrainingSetError, match="No row"):
        CliRunner().invoke(app, ["export", str(tmp_path / "none"), "--from", "2021-01-04", "--to", "2021-02-01",
                                 "--as-known", "2020-06-01", "--pin", "none"], catch_exceptions=False)  # fmt: skip
    assert json.loads(nexus("pins", "list", "--json")) == []
    instant = store.settled_until().isoformat()
    content = nexus(
        "export", str(tmp_path / "q1"), "--from", str(first), "--to", str(end), "--as-known", instant, "--pin", "q1"
    ).split()[-1]
    (pin,) = json.loads(nexus("pins", "list", "--json"))
    assert (pin["name"], pin["symbols"], pin["content_hash"]) == ("q1", "EURUSD", content)
    assert "q1" in nexus("pins", "list")
    held = json.loads(nexus("retention", "plan", "--json"))["market.raw_ohlc"]
    assert held["rows"] < planned["rows"]
    assert "'q1'" in held["held_by"]
    assert "market.raw_ohlc" in nexus("retention", "apply")
    nexus("pins", "remove", "q1")
    assert json.loads(nexus("retention", "plan", "--json"))["market.raw_ohlc"]["held_by"] == ""
    settings.cache_clear()
