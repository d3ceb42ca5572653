"""The state of every bar that is not simply present, from rows and requests of a test's choosing."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nexus_assets.instruments import instrument
from nexus_assets.schemas import GAPS
from nexus_assets.trading_calendar import day_start, expected
from nexus_assets.transforms.gaps import find_gaps
from nexus_assets_tests.transforms.raw_rows import expected_rows, made, recorded_rows

WEDNESDAY, THURSDAY = date(2024, 1, 10), date(2024, 1, 11)
LOADED = pd.Timestamp("2024-02-01", tz="UTC")


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def requests(*entries: tuple[str, pd.Timestamp, bool], first: date, end: date) -> pd.DataFrame:
    """Requests for the whole range: (provider, at, answered)."""
    rows = [(name, day_start(first), day_start(end), at, answered) for name, at, answered in entries]
    frame = pd.DataFrame(rows, columns=["provider", "range_start", "range_end", "at", "answered"])
    for name in ("range_start", "range_end", "at"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def gaps_of(
    raw: pd.DataFrame,
    first: date,
    end: date,
    asked: pd.DataFrame,
    *,
    providers: Sequence[str] = ("files",),
    until: pd.Timestamp | None = None,
    kept_out: pd.DataFrame | None = None,
) -> pd.DataFrame:
    newest = raw.sort_values("delivery_id").drop_duplicates(["ts", "provider"], keep="last")
    result = made(newest, first, end, priority=providers)
    item, timeframe = instrument(str(raw["symbol"].iloc[0])), str(raw["timeframe"].iloc[0])
    quarantined = result.quarantined[["ts", "provider", "rule", "known_at"]]
    found = find_gaps(
        result.bars.iloc[: len(result.leaders)],
        result.leaders,
        quarantined if kept_out is None else kept_out,
        asked,
        lambda ts: raw[raw["ts"].isin(ts)],
        instrument=item,
        timeframe=timeframe,
        first_day=first,
        end_day=end,
        complete_until=until or day_start(end),
        providers=providers,
    )
    GAPS.pandera.validate(found)
    return found


def states(found: pd.DataFrame) -> list[tuple[Any, ...]]:
    return [
        (f"{row.ts:%d %H:%M}", row.bars, row.state, row.reason, row.provider) for row in found.itertuples(index=False)
    ]


def without(raw: pd.DataFrame, *ts: str) -> pd.DataFrame:
    return raw[~raw["ts"].isin([utc(text) for text in ts])].reset_index(drop=True)


def wednesday() -> pd.DataFrame:
    raw = expected_rows(WEDNESDAY, THURSDAY)
    return raw[raw["ts"] >= utc("2024-01-10")].assign(known_at=lambda f: f["ts"] + pd.Timedelta(1, "h"), delivery_id=1)


def test_a_whole_day_has_no_gap() -> None:
    asked = requests(("files", LOADED, True), first=WEDNESDAY, end=THURSDAY)
    assert gaps_of(wednesday(), WEDNESDAY, THURSDAY, asked).empty


def test_neighbouring_missing_bars_are_one_gap_and_others_their_own() -> None:
    raw = without(wednesday(), "2024-01-10 03:00", "2024-01-10 04:00", "2024-01-10 23:00")
    asked = requests(("files", LOADED, True), first=WEDNESDAY, end=THURSDAY)
    found = gaps_of(raw, WEDNESDAY, THURSDAY, asked)
    assert states(found) == [
        ("10 03:00", 2, "missing", "provider_has_none", "files"),
        ("10 23:00", 1, "missing", "provider_has_none", "files"),
    ]
    assert found["ends_at"].tolist() == [utc("2024-01-10 05:00"), utc("2024-01-11 00:00")]
    assert (found["known_at"] == LOADED).all()


@pytest.mark.parametrize(
    ("entries", "reason", "confirmed"),
    [
        ([], "not_asked", ""),
        ([("files", "2024-01-10 03:30", True)], "not_asked", ""),
        ([("files", "2024-01-10 04:00", True)], "not_confirmed", ""),
        ([("files", "2024-01-11 04:00", True)], "provider_has_none", "files"),
        ([("files", "2024-01-12", False)], "provider_failed", ""),
        ([("files", "2024-01-10 05:00", True), ("files", "2024-01-12", False)], "provider_failed", ""),
        ([("files", "2024-01-12", False), ("files", "2024-01-13", True)], "provider_has_none", "files"),
        ([("files", "2024-01-13", True), ("files", "2024-01-14", False)], "provider_has_none", "files"),
    ],
    ids=["nobody asked", "asked before its end", "asked at once", "asked a day later", "failed", "answered early, "
         "then failed", "failed, then answered", "answered for good, then failed"],
)  # fmt: skip
def test_why_a_bar_is_missing_follows_from_who_was_asked_when(
    entries: list[tuple[str, str, bool]], reason: str, confirmed: str
) -> None:
    asked = requests(*((n, utc(at), ok) for n, at, ok in entries), first=WEDNESDAY, end=THURSDAY)
    found = gaps_of(without(wednesday(), "2024-01-10 03:00"), WEDNESDAY, THURSDAY, asked)
    assert states(found) == [("10 03:00", 1, "missing", reason, confirmed)]


def test_a_bar_is_given_up_only_when_every_provider_has_said_that_it_has_none() -> None:
    raw = without(wednesday(), "2024-01-10 03:00")
    for other, reason, said in (
        (("api", LOADED, True), "provider_has_none", "files,api"),
        (("api", LOADED, False), "provider_failed", "files"),
        (("third", LOADED, True), "not_asked", "files"),
    ):
        asked = requests(("files", LOADED, True), other, first=WEDNESDAY, end=THURSDAY)
        found = gaps_of(raw, WEDNESDAY, THURSDAY, asked, providers=("files", "api"))
        assert states(found) == [("10 03:00", 1, "missing", reason, said)]


def test_a_bar_that_is_not_over_is_not_missing() -> None:
    asked = requests(("files", utc("2024-01-10 12:30"), True), first=WEDNESDAY, end=THURSDAY)
    raw = wednesday()
    raw = raw[raw["ts"] < utc("2024-01-10 11:00")]
    found = gaps_of(raw, WEDNESDAY, THURSDAY, asked, until=utc("2024-01-10 12:30"))
    assert states(found) == [("10 11:00", 1, "missing", "not_confirmed", "")]


def test_a_quarantined_row_says_its_rule_and_one_beside_a_valid_bar_says_nothing() -> None:
    raw = wednesday()
    raw.loc[raw["ts"] == utc("2024-01-10 03:00"), "low"] = 0.0
    stray = pd.DataFrame(
        {"ts": [utc("2024-01-10 04:00")], "provider": "files", "rule": "conflicting_repeat", "known_at": LOADED}
    )
    asked = requests(("files", LOADED, True), first=WEDNESDAY, end=THURSDAY)
    found = gaps_of(raw, WEDNESDAY, THURSDAY, asked)
    assert states(found) == [("10 03:00", 1, "quarantined", "not_positive", "files")]
    assert gaps_of(wednesday(), WEDNESDAY, THURSDAY, asked, kept_out=stray).empty


def test_a_holiday_is_named_and_the_bars_that_a_venue_prints_in_it_are_no_gap() -> None:
    christmas, after = date(2023, 12, 25), date(2023, 12, 26)
    raw = expected_rows(christmas, after)
    asked = requests(("files", LOADED, True), first=christmas, end=after)
    assert states(gaps_of(raw, christmas, after, asked)) == [("25 00:00", 22, "holiday", "Christmas", "")]
    printed = expected_rows(WEDNESDAY, THURSDAY).assign(ts=lambda f: f["ts"] - pd.Timedelta(16, "D"))
    printed = printed[printed["ts"].between(utc("2023-12-25 05:00"), utc("2023-12-25 20:00"))]
    found = gaps_of(pd.concat([raw, printed]), christmas, after, asked)
    assert states(found) == [("25 00:00", 5, "holiday", "Christmas", ""), ("25 21:00", 1, "holiday", "Christmas", "")]


def test_a_bar_that_came_after_an_answer_without_it_is_healed() -> None:
    early, late = utc("2024-01-10 05:05"), utc("2024-01-10 09:05")
    raw = wednesday().assign(known_at=early, delivery_id=1)
    raw.loc[raw["ts"] >= utc("2024-01-10 05:00"), ["known_at", "delivery_id"]] = (late, 2)
    raw.loc[raw["ts"] == utc("2024-01-10 03:00"), ["known_at", "delivery_id"]] = (late, 2)
    asked = requests(("files", early, True), ("files", late, True), first=WEDNESDAY, end=THURSDAY)
    found = gaps_of(raw, WEDNESDAY, THURSDAY, asked)
    assert states(found) == [("10 03:00", 1, "healed", "late", "files")]
    assert found["known_at"].tolist() == [late]


def test_a_corrected_bar_was_never_a_gap_and_a_repaired_one_was() -> None:
    first, second = utc("2024-01-11 01:00"), utc("2024-01-12 01:00")
    raw = wednesday().assign(known_at=first, delivery_id=1)
    again = raw[raw["ts"].isin([utc("2024-01-10 03:00"), utc("2024-01-10 07:00")])]
    raw.loc[raw["ts"] == utc("2024-01-10 07:00"), "low"] = 0.0
    again = again.assign(known_at=second, delivery_id=2, close=again["close"] + 1e-4)
    asked = requests(("files", first, True), ("files", second, True), first=WEDNESDAY, end=THURSDAY)
    found = gaps_of(pd.concat([raw, again], ignore_index=True), WEDNESDAY, THURSDAY, asked)
    assert states(found) == [("10 07:00", 1, "healed", "late", "files")]


def test_a_hole_that_another_provider_fills_is_healed_by_it() -> None:
    raw = pd.concat([without(wednesday(), "2024-01-10 03:00"), wednesday().assign(provider="api")], ignore_index=True)
    asked = requests(("files", LOADED, True), ("api", LOADED, True), first=WEDNESDAY, end=THURSDAY)
    found = gaps_of(raw, WEDNESDAY, THURSDAY, asked, providers=("files", "api"))
    assert states(found) == [("10 03:00", 1, "healed", "another_provider", "api")]


def test_any_grouping_of_days_finds_the_same_gaps() -> None:
    first, end = date(2024, 1, 3), date(2024, 1, 13)
    raw = expected_rows(first, end)
    raw = raw[raw["ts"] >= day_start(first)]
    removed = np.random.default_rng(4).choice(len(raw), 60, replace=False)
    raw = raw[~np.isin(np.arange(len(raw)), removed)].reset_index(drop=True)
    asked = requests(
        ("files", utc("2024-01-09 12:00"), True), ("files", utc("2024-01-12"), False), first=first, end=end
    )
    whole = gaps_of(raw, first, end, asked)
    single = [
        gaps_of(raw, day, day + timedelta(days=1), asked)
        for day in (first + timedelta(days=n) for n in range((end - first).days))
    ]
    pd.testing.assert_frame_equal(whole, pd.concat([f for f in single if len(f)], ignore_index=True))
    assert whole["bars"].sum() > 60


def test_a_thousand_gaps_in_real_prices_are_all_found_and_healed_where_another_provider_has_them(
    real_data: Path,
) -> None:
    first, end = date(2019, 1, 1), date(2020, 1, 1)
    whole = recorded_rows(real_data / "oanda_h1" / "EURUSD.parquet", "EURUSD", "1h").assign(provider="oanda")
    whole = whole[whole["ts"].between(day_start(first), day_start(end), inclusive="left")].reset_index(drop=True)
    later = LOADED + pd.Timedelta(1, "min")
    asked = requests(("oanda", LOADED, True), ("api", later, True), first=first, end=end)
    before = gaps_of(whole, first, end, asked, providers=("oanda", "api"))
    # The hours that OANDA left out are listed in the calendar: the weeks in which a clock changes raise no alarm.
    assert before[before["state"] == "missing"].empty
    random = np.random.default_rng(20191231)
    # On Sundays a day may be left with bars of the other provider alone, and follows that one's calendar.
    weekdays = whole["ts"].isin(expected("fx", day_start(first), day_start(end), "1h", "oanda"))
    open_hours = whole.index[weekdays & (whole["ts"].dt.day_of_week < 5)]
    removed = np.sort(random.choice(open_hours, 1000, replace=False))
    gaps = whole["ts"].iloc[removed]
    left = whole.drop(index=list(removed))
    found = gaps_of(left, first, end, asked, providers=("oanda", "api"))
    assert _bars(found[found["state"] == "missing"]) == set(gaps)
    assert set(found.loc[found["state"] == "missing", "reason"]) == {"provider_has_none"}

    spare = whole.iloc[random.choice(removed, 600, replace=False)].assign(provider="api", known_at=later)
    healed = gaps_of(pd.concat([left, spare], ignore_index=True), first, end, asked, providers=("oanda", "api"))
    assert _bars(healed[healed["state"] == "healed"]) == set(spare["ts"])
    assert set(healed.loc[healed["state"] == "healed", "provider"]) == {"api"}
    assert _bars(healed[healed["state"] == "missing"]) == set(gaps) - set(spare["ts"])
    assert states(healed[healed["state"] == "holiday"]) == states(before)


def _bars(gaps: pd.DataFrame) -> set[pd.Timestamp]:
    return {
        ts
        for start, end in zip(gaps["ts"], gaps["ends_at"], strict=True)
        for ts in pd.date_range(start, end, freq="h", inclusive="left")
    }
