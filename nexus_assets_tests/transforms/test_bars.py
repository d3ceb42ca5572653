"""Raw rows to bars: quarantine, choice of provider, doubts, roll-ups, on invented rows."""

import math
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nexus_assets.errors import PartitionError
from nexus_assets.schemas import DISAGREEMENTS, QUARANTINE_RULES
from nexus_assets_tests.transforms.raw_rows import bars_of, expected_rows, made, raw_rows

WEDNESDAY = date(2024, 1, 10)


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def one(ts: str = "2024-01-10 12:00", symbol: str = "EURUSD", **columns: Any) -> pd.DataFrame:
    return raw_rows([utc(ts)], symbol, **columns)


def judged(row: pd.DataFrame, day: date = WEDNESDAY) -> list[str]:
    result = made(row, day, rolled_up=())
    assert len(result.bars) + len(result.quarantined) == 1
    return result.quarantined["rule"].tolist()


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"close": math.nan}, "not_finite"),
        ({"high": math.inf}, "not_finite"),
        ({"open": 0.0, "high": 0.0, "low": 0.0, "close": 0.0}, "not_positive"),
        ({"low": -1.0}, "not_positive"),
        ({"high": 1.0999}, "high_low"),
        ({"low": 1.1001}, "high_low"),
        ({"open": 110_000.0, "high": 110_200.0, "low": 109_900.0, "close": 110_100.0}, "price_band"),
        ({"low": 0.19}, "price_band"),
        ({"high": 1.099 * math.exp(0.7001)}, "range"),
    ],
)
def test_a_row_that_breaks_a_rule_is_quarantined_under_its_name(columns: dict[str, Any], rule: str) -> None:
    assert judged(one(**columns)) == [rule]


@pytest.mark.parametrize("ts", ["2024-01-10 12:30", "2024-01-10 12:00:05", "2024-01-10 12:00:00.000001"])
def test_a_row_off_the_grid_is_quarantined(ts: str) -> None:
    assert judged(one(ts)) == ["off_grid"]


@pytest.mark.parametrize(
    ("ts", "symbol", "rules"),
    [
        ("2024-01-12 21:00", "EURUSD", []),
        ("2024-01-12 22:00", "EURUSD", ["outside_session"]),
        ("2024-01-13 12:00", "EURUSD", ["outside_session"]),
        ("2024-01-14 21:00", "EURUSD", ["outside_session"]),
        ("2024-01-14 22:00", "EURUSD", []),
        ("2024-07-12 21:00", "EURUSD", ["outside_session"]),
        ("2024-07-14 21:00", "EURUSD", []),
        ("2024-01-10 22:00", "XAUUSD", ["outside_session"]),
        ("2024-01-10 23:00", "XAUUSD", []),
        ("2024-01-13 12:00", "BTCUSD", []),
    ],
)
def test_a_bar_after_friday_17_new_york_is_quarantined(ts: str, symbol: str, rules: list[str]) -> None:
    price = {"EURUSD": 1.1, "XAUUSD": 2_000.0, "BTCUSD": 40_000.0}[symbol]
    row = one(ts, symbol, open=price, high=price, low=price, close=price)
    assert judged(row, utc(ts).date()) == rules


def test_a_bar_inside_a_holiday_is_accepted_and_not_expected() -> None:
    result = made(one("2024-12-25 12:00"), date(2024, 12, 25), rolled_up=())
    assert result.bars["bars_expected"].tolist() == [0]
    assert result.bars["bars_present"].tolist() == [1]


def test_a_true_extreme_is_accepted() -> None:
    assert judged(one(symbol="EURCHF", open=1.2, high=1.2, low=0.85, close=1.0)) == []


def test_the_first_rule_in_the_declared_order_is_named() -> None:
    weekend = "2024-01-13 12:30"
    assert judged(one(weekend, high=0.0, close=math.nan), date(2024, 1, 13)) == ["not_finite"]
    assert judged(one(weekend, high=0.0), date(2024, 1, 13)) == ["not_positive"]
    assert judged(one(weekend, high=1.0), date(2024, 1, 13)) == ["high_low"]
    assert judged(one(weekend, low=0.1), date(2024, 1, 13)) == ["off_grid"]
    assert judged(one("2024-01-13 12:00", low=0.1), date(2024, 1, 13)) == ["outside_session"]
    assert judged(one(low=0.1), WEDNESDAY) == ["price_band"]
    assert list(QUARANTINE_RULES)[-7:] == [
        *("not_finite", "not_positive", "high_low", "off_grid", "outside_session", "price_band", "range")
    ]


def test_a_quarantined_row_is_kept_whole_with_the_values_that_broke_the_rule() -> None:
    quarantined = made(one(low=0.19, volume=math.nan), WEDNESDAY).quarantined.iloc[0]
    assert (quarantined["stage"], quarantined["origin"]) == ("validation", "delivery 7")
    assert quarantined["low"] == 0.19
    assert quarantined["content"] == (
        '{"ts": "2024-01-10T12:00:00+00:00", "open": 1.1, "high": 1.102, "low": 0.19, "close": 1.101, '
        '"volume": null, "spread": 0.0002, "price_kind": "mid", "volume_kind": "ticks", "instrument_kind": "spot", '
        '"backfilled": true}'
    )
    assert "low 0.19" in quarantined["detail"]
    assert "0.2 to 5" in quarantined["detail"]


def test_the_hash_of_a_quarantined_row_follows_its_content_and_its_delivery() -> None:
    hashes = [
        made(row, WEDNESDAY).quarantined["row_hash"].iloc[0]
        for row in (one(low=0.19), one(low=0.19), one(low=0.18), one(low=0.19, delivery_id=8))
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_quarantined_rows_of_the_evening_before_belong_to_the_day_before() -> None:
    evening = one("2024-01-09 23:00", low=0.19)
    assert len(made(evening, WEDNESDAY).quarantined) == 0
    assert len(made(evening, date(2024, 1, 9)).quarantined) == 1


def test_a_withdrawn_row_is_no_bar() -> None:
    assert len(made(one(withdrawn=True), WEDNESDAY).bars) == 0


def test_no_raw_rows_make_no_bars() -> None:
    result = made(one("2023-01-10 12:00"), WEDNESDAY)
    assert (len(result.bars), len(result.quarantined), result.other_provider_rows) == (0, 0, 0)


def test_rows_of_another_symbol_are_refused() -> None:
    mixed = pd.concat([one(), one(symbol="GBPUSD")], ignore_index=True)
    with pytest.raises(PartitionError, match="GBPUSD"):
        made(mixed, WEDNESDAY)


# Choice of provider


def two_providers() -> pd.DataFrame:
    """`files` has Wednesday's trading day only in one bar; `api` and `best` have it all."""
    api = expected_rows(WEDNESDAY, date(2024, 1, 11), provider="api")
    few = raw_rows([utc("2024-01-10 12:00"), utc("2024-01-13 12:00")], provider="files", close=1.1015)
    return pd.concat([api, few], ignore_index=True)


def test_the_first_provider_with_a_valid_row_leads_its_trading_day_and_another_fills_its_holes() -> None:
    result = made(two_providers(), WEDNESDAY, priority=("files", "api"))
    providers = bars_of(result, "1h")["provider"]
    # The evening is of the next trading day, in which `files` has no valid row.
    assert providers[lambda p: p == "files"].index.tolist() == [utc("2024-01-10 12:00")]
    assert len(providers) == 24
    assert result.other_provider_rows == 1
    # A rolled-up bar names the provider of its trading day, whoever filled its holes.
    assert bars_of(result, "4h")["provider"].tolist() == ["files"] * 6
    assert result.leaders.tolist() == ["files"] * 22 + ["api"] * 2


@pytest.mark.parametrize(
    "changes", [{"price_kind": "bid"}, {"instrument_kind": "cfd"}, {"provider": "synthetic"}], ids=str
)
def test_a_row_of_another_kind_or_an_invented_one_fills_no_hole(changes: dict[str, Any]) -> None:
    raw = two_providers()
    api = raw["provider"] == "api"
    for name, value in changes.items():
        raw.loc[api, name] = value
    bars = bars_of(made(raw, WEDNESDAY, priority=("files", "api", "synthetic")), "1h")
    assert bars[:"2024-01-10 21:00"].index.tolist() == [utc("2024-01-10 12:00")]


def test_a_quarantined_row_is_a_hole_that_another_provider_fills() -> None:
    whole = [expected_rows(WEDNESDAY, date(2024, 1, 11), provider=name) for name in ("files", "api")]
    raw = pd.concat(whole, ignore_index=True)
    raw.loc[(raw["provider"] == "files") & (raw["ts"] == utc("2024-01-10 03:00")), "low"] = 0.0
    result = made(raw, WEDNESDAY, priority=("files", "api"))
    assert bars_of(result, "1h")["provider"][lambda p: p == "api"].index.tolist() == [utc("2024-01-10 03:00")]
    assert result.quarantined["rule"].tolist() == ["not_positive"]


def test_a_row_that_the_day_s_provider_is_not_expected_to_have_fills_nothing() -> None:
    christmas = date(2023, 12, 25)
    open_hours = [utc("2023-12-25 22:00"), utc("2023-12-25 23:00")]
    api = raw_rows([utc("2023-12-25 12:00"), *open_hours], provider="api")
    files = raw_rows([utc("2023-12-25 11:00"), open_hours[0]], provider="files")
    bars = bars_of(made(pd.concat([files, api]), christmas, priority=("files", "api")), "1h")
    assert bars["provider"].to_dict() == {
        utc("2023-12-25 11:00"): "files", open_hours[0]: "files", open_hours[1]: "api",
    }  # fmt: skip


def test_closes_that_lie_three_spreads_apart_are_recorded() -> None:
    files, api = (expected_rows(WEDNESDAY, date(2024, 1, 11), provider=name) for name in ("files", "api"))
    near, far = utc("2024-01-10 05:00"), utc("2024-01-10 06:00")
    for ts, apart in ((near, 0.00059), (far, 0.00061)):
        api.loc[api["ts"] == ts, "close"] += apart
    result = made(pd.concat([files, api], ignore_index=True), WEDNESDAY, priority=("files", "api"))
    found = result.disagreements
    DISAGREEMENTS.pandera.validate(found)
    assert found[["ts", "provider", "other_provider"]].values.tolist() == [[far, "files", "api"]]
    assert found["tolerance"].item() == pytest.approx(0.0006)
    assert (found["other_close"] - found["close"]).item() == pytest.approx(0.00061)


def test_without_a_spread_ten_basis_points_apart_are_recorded_and_futures_are_never_compared() -> None:
    files, api = (expected_rows(WEDNESDAY, date(2024, 1, 11), provider=name) for name in ("files", "api"))
    prices = ["open", "high", "low", "close"]
    api[prices] *= 1.0011
    raw = pd.concat([files, api], ignore_index=True).assign(spread=math.nan)
    assert len(made(raw, WEDNESDAY, priority=("files", "api")).disagreements) == 24
    raw.loc[raw["provider"] == "api", "instrument_kind"] = "future"
    assert made(raw, WEDNESDAY, priority=("files", "api")).disagreements.empty


def test_providers_without_a_priority_come_last_by_name() -> None:
    assert set(made(two_providers(), WEDNESDAY, priority=("api",)).bars["provider"]) == {"api"}
    assert set(made(two_providers(), WEDNESDAY, priority=()).bars["provider"]) == {"api"}


def test_a_provider_whose_rows_are_all_broken_is_not_chosen() -> None:
    raw = two_providers()
    raw.loc[raw["provider"] == "files", "close"] = math.nan
    result = made(raw, WEDNESDAY, priority=("files", "api"))
    assert set(result.bars["provider"]) == {"api"}
    assert result.quarantined["provider"].tolist() == ["files"]


def test_only_the_first_provider_may_quote_another_kind_of_instrument() -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11), provider="futures", instrument_kind="future")
    refused = made(raw, WEDNESDAY, priority=("files", "futures"))
    assert (len(refused.bars), refused.other_provider_rows) == (0, 24)
    assert len(bars_of(made(raw, WEDNESDAY, priority=("futures",)), "1h")) == 24


# Doubts


def suspects(raw: pd.DataFrame, day: date = WEDNESDAY, timeframe: str = "1h") -> dict[str, str]:
    flagged = bars_of(made(raw, day), timeframe)["suspect"].dropna()
    return {f"{ts:%H:%M}": text for ts, text in flagged.items()}


def test_a_quiet_day_has_no_doubts() -> None:
    assert suspects(expected_rows(WEDNESDAY, date(2024, 1, 11))) == {}


def test_a_move_of_more_than_50_medians_is_a_doubt_here_and_in_the_rolled_up_bars() -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11))
    at_noon = raw["ts"] == utc("2024-01-10 12:00")
    raw.loc[at_noon, ["high", "close"]] = 1.16
    assert suspects(raw) == {"12:00": "large_move", "13:00": "large_move"}
    assert suspects(raw, timeframe="4h") == {"10:00": "large_move"}
    raw.loc[at_noon, ["high", "close"]] = 1.14
    assert suspects(raw) == {}


def test_three_identical_bars_in_a_row_are_stale_and_two_are_not() -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11))
    prices = ["open", "high", "low", "close"]
    for hour in (4, 5, 6):
        raw.loc[raw["ts"] == utc(f"2024-01-10 {hour:02}:00"), prices] = [1.1, 1.102, 1.099, 1.1]
    assert suspects(raw) == {"04:00": "stale", "05:00": "stale", "06:00": "stale"}
    raw.loc[raw["ts"] == utc("2024-01-10 06:00"), "high"] = 1.103
    assert suspects(raw) == {}


def test_flat_minutes_are_not_stale() -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11), timeframe="1m", high=1.102, open=1.1, close=1.1)
    assert made(raw, WEDNESDAY).bars["suspect"].isna().all()


def test_the_bar_before_a_missing_one_is_a_doubt_and_the_last_of_the_day_is_not() -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11))
    missing = [utc("2024-01-10 08:00"), utc("2024-01-10 09:00"), utc("2024-01-10 23:00")]
    kept = raw[~raw["ts"].isin(missing)]
    assert suspects(kept) == {"07:00": "before_gap"}
    # In a rolled-up bar a missing bar is counted instead.
    assert suspects(kept, timeframe="4h") == {}
    counts = bars_of(made(kept, WEDNESDAY), "4h").loc[utc("2024-01-10 06:00"), ["bars_present", "bars_expected"]]
    assert counts.tolist() == [2, 4]


def test_the_break_of_gold_is_no_gap() -> None:
    day = {"open": 2000.0, "low": 1990.0, "close": 2000.5, "high": 2001.0 + 0.01 * np.arange(25)}
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11), "XAUUSD")
    raw = raw.assign(**{name: np.resize(np.asarray(value), len(raw)) for name, value in day.items()})
    assert suspects(raw) == {}


# Roll-ups


def test_a_rolled_up_bar_has_the_first_open_the_extremes_the_last_close_and_the_sum() -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11))
    of_bar = raw["ts"].between(utc("2024-01-10 10:00"), utc("2024-01-10 13:00"))
    raw.loc[of_bar, "open"] = [1.1000, 1.1010, 1.1020, 1.1030]
    raw.loc[of_bar, "close"] = [1.1010, 1.1020, 1.1030, 1.1005]
    raw.loc[of_bar, "high"] = [1.1011, 1.1055, 1.1031, 1.1032]
    raw.loc[of_bar, "low"] = [1.0999, 1.1001, 1.0950, 1.1000]
    raw.loc[of_bar, "volume"] = [1.0, 2.0, 4.0, 8.0]
    raw.loc[of_bar, "spread"] = [0.1, 0.2, math.nan, 0.9]
    raw.loc[of_bar, "known_at"] = pd.to_datetime(["2024-03-01", "2024-03-09", "2024-03-02", "2024-03-03"], utc=True)
    bar = bars_of(made(raw, WEDNESDAY), "4h").loc[utc("2024-01-10 10:00")]
    assert bar[["open", "high", "low", "close", "volume"]].tolist() == [1.1, 1.1055, 1.095, 1.1005, 15.0]
    assert bar["spread"] == pytest.approx(0.2)
    assert bar["known_at"] == utc("2024-03-09")
    assert (bar["bars_expected"], bar["bars_present"]) == (4, 4)


@pytest.mark.parametrize("change", [{"volume": math.nan}, {"volume_kind": "lots"}])
def test_a_rolled_up_volume_is_null_where_it_cannot_be_summed(change: dict[str, Any]) -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11))
    for name, value in change.items():
        raw.loc[raw["ts"] == utc("2024-01-10 11:00"), name] = value
    volume = bars_of(made(raw, WEDNESDAY), "4h")["volume"]
    assert volume[volume.isna()].index.tolist() == [utc("2024-01-10 10:00")]
    assert set(volume.dropna()) == {40.0}


def test_rolled_up_bars_belong_to_the_day_in_which_they_end() -> None:
    raw = expected_rows(date(2024, 1, 9), date(2024, 1, 12))
    result = made(raw, WEDNESDAY)
    assert [f"{ts:%d %H}" for ts in bars_of(result, "4h").index] == [
        *("09 22", "10 02", "10 06", "10 10", "10 14", "10 18")
    ]
    assert bars_of(result, "1d").index.tolist() == [utc("2024-01-09 22:00")]
    assert bars_of(result, "1d")["bars_present"].tolist() == [24]


@pytest.mark.parametrize(
    ("day", "opens", "hours"),
    [
        (date(2024, 3, 8), "2024-03-07 22:00", 24),
        (date(2024, 3, 11), "2024-03-10 21:00", 24),
        (date(2024, 11, 1), "2024-10-31 21:00", 24),
        (date(2024, 11, 4), "2024-11-03 22:00", 24),
    ],
)
def test_daily_bars_beside_a_change_of_clock_are_whole(day: date, opens: str, hours: int) -> None:
    raw = expected_rows(day, day + pd.Timedelta(days=1))
    daily = bars_of(made(raw, day), "1d")
    assert daily.index.tolist() == [utc(opens)]
    assert daily[["bars_present", "bars_expected"]].to_numpy().tolist() == [[hours, hours]]


@pytest.mark.parametrize(("day", "hours"), [(date(2024, 3, 10), 23), (date(2024, 11, 3), 25)])
def test_a_daily_bar_of_crypto_holds_23_or_25_hours_where_the_clock_changes(day: date, hours: int) -> None:
    prices = {"open": 40_000.0, "high": 40_000.0, "low": 40_000.0, "close": 40_000.0}
    raw = expected_rows(day, day + pd.Timedelta(days=1), "BTCUSD", **prices)
    result = made(raw, day)
    assert bars_of(result, "1d")["bars_present"].tolist() == [hours]
    assert bars_of(result, "4h")["bars_present"].tolist() == [4, 4, hours - 20, 4, 4, 4]
    assert (bars_of(result, "4h")["bars_expected"] == bars_of(result, "4h")["bars_present"]).all()


def test_a_bar_that_is_not_over_does_not_exist() -> None:
    raw = expected_rows(WEDNESDAY, date(2024, 1, 11))
    result = made(raw, WEDNESDAY, complete_until=utc("2024-01-10 13:30"))
    assert bars_of(result, "1h").index.max() == utc("2024-01-10 12:00")
    assert bars_of(result, "4h").index.max() == utc("2024-01-10 06:00")
    assert len(bars_of(result, "1d")) == 0
    assert result.unfinished_rows == 11
    whole = made(raw, WEDNESDAY, complete_until=utc("2024-01-10 14:00"))
    assert bars_of(whole, "4h").index.max() == utc("2024-01-10 10:00")


def test_a_base_timeframe_on_the_session_grid_goes_to_the_day_in_which_its_bars_end() -> None:
    raw = expected_rows(date(2024, 1, 9), date(2024, 1, 13), timeframe="4h")
    result = made(raw, WEDNESDAY, rolled_up=("1d",))
    assert [f"{ts:%d %H}" for ts in bars_of(result, "4h").index] == [
        *("09 22", "10 02", "10 06", "10 10", "10 14", "10 18")
    ]
    assert bars_of(result, "1d")["bars_present"].tolist() == [6]
