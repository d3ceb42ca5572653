"""The leak prober: it finds planted look-ahead of every kind, and none in the project's own features."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.errors import ProbeError
from nexus_assets.leak_subjects import project_features
from nexus_assets.leaks import FeatureFunction, LeakReport, probe
from nexus_assets.settings import load_settings
from nexus_assets_tests.transforms.feature_bars import real, walk

FIRST, END = date(2024, 2, 26), date(2024, 3, 22)
"""New York's clock is changed on 10 March."""


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return walk("EURUSD", FIRST, END)


def probed(function: FeatureFunction, bars: pd.DataFrame, trials: int = 30) -> LeakReport:
    return probe(function, bars, timeframe="1h", trials=trials, seed=4)


def returns(bars: pd.DataFrame) -> pd.Series:
    return bars["close"].pct_change()


def one(bars: pd.DataFrame, feature: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"ts": bars["ts"], "feature": feature})


def resampled_too_early(bars: pd.DataFrame) -> pd.DataFrame:
    """The close of the 4h bar that holds the hour, before that bar is over."""
    holder = trading_calendar.bar_open_of(pd.DatetimeIndex(bars["ts"]), "4h")
    return one(bars, bars.groupby(holder)["close"].transform("last"))


def in_the_week_of_the_switch_only(bars: pd.DataFrame) -> pd.DataFrame:
    shifted = bars["close"].shift(-1)
    within = bars["ts"].between(datetime(2024, 3, 10, tzinfo=UTC), datetime(2024, 3, 11, 6, tzinfo=UTC))
    return one(bars, bars["close"].where(~within, shifted))


PLANTED: dict[str, FeatureFunction] = {
    "the next close": lambda b: one(b, b["close"].shift(-1)),
    "a centred mean": lambda b: one(b, b["close"].rolling(5, center=True).mean()),
    "a z-score over the whole sample": lambda b: one(b, (b["close"] - b["close"].mean()) / b["close"].std()),
    "a gap filled from the future": lambda b: one(b, b["close"].where(b.index % 5 > 0).bfill()),
    "a longer bar that is still open": resampled_too_early,
    "a rank among all bars": lambda b: one(b, b["close"].rank(pct=True)),
    "the next bar's volume": lambda b: one(b, b["volume"].shift(-1)),
    "only around the change of clocks": in_the_week_of_the_switch_only,
    "that there is a next bar": lambda b: one(b, b["ts"].diff().shift(-1).dt.total_seconds().fillna(0.0)),
}


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_a_planted_leak_is_found(bars: pd.DataFrame, planted: str) -> None:
    report = probed(PLANTED[planted], bars, trials=40)
    (leak,) = report.leaks
    own_end = leak.ts + pd.Timedelta(hours=1)
    assert own_end <= leak.instant
    assert leak.before != leak.after
    assert leak.sees_ahead > pd.Timedelta(0)


def test_how_far_a_leak_sees_ahead_is_measured(bars: pd.DataFrame) -> None:
    middle = bars.iloc[100:160].reset_index(drop=True)  # no weekend within
    for ahead in (1, 3):
        (leak,) = probed(lambda b, ahead=ahead: one(b, b["close"].shift(-ahead)), middle).leaks
        assert leak.sees_ahead == pd.Timedelta(hours=ahead)


def test_only_the_leaking_column_is_accused(bars: pd.DataFrame) -> None:
    def several(b: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(
            {"ts": b["ts"], "clean": returns(b).rolling(10).std(), "leaking": returns(b).shift(-2), "constant": 1.0}
        )

    report = probed(several, bars)
    assert {name: verdict.verdict for name, verdict in report.columns.items()} == {
        "clean": "clean", "leaking": "leaks", "constant": "not proven",
    }  # fmt: skip
    assert not report.clean


def test_honest_features_are_clean_also_where_they_hold_nan_and_signed_zeros(bars: pd.DataFrame) -> None:
    def honest(b: pd.DataFrame) -> pd.DataFrame:
        change = b["close"].diff()
        return pd.DataFrame(
            {
                "ts": b["ts"],
                "mean": b["close"].rolling(24).mean(),
                "sign": np.sign(change) * 0.0 + change.where(change > 0),
                "volume": b["volume"].ewm(span=5).mean(),
            }
        )

    assert probed(honest, bars).clean


def test_rows_of_a_longer_timeframe_count_from_the_end_of_their_own_bar(bars: pd.DataFrame) -> None:
    def four_hours(b: pd.DataFrame, only_finished: bool) -> pd.DataFrame:
        holder = trading_calendar.bar_open_of(pd.DatetimeIndex(b["ts"]), "4h")
        rows = b.groupby(holder)["close"].last().rename("close4").rename_axis("ts").reset_index()
        over = trading_calendar.bar_end(pd.DatetimeIndex(rows["ts"]), "4h") <= b["ts"].iloc[-1] + pd.Timedelta(hours=1)
        return rows.assign(timeframe="4h")[over] if only_finished else rows.assign(timeframe="1h")

    assert probed(lambda b: four_hours(b, True), bars).clean
    # Said to be of 1h, the same rows claim to be known three hours too early.
    assert probed(lambda b: four_hours(b, False), bars).leaks


@pytest.mark.parametrize(
    ("symbol", "first", "end"),
    [("EURUSD", date(2021, 1, 10), date(2021, 4, 2)), ("USDJPY", date(2020, 8, 20), date(2020, 11, 10))],
)
def test_the_projects_own_features_do_not_leak_through_a_change_of_clocks(
    real_data: Path, symbol: str, first: date, end: date
) -> None:
    config = load_settings()
    given = real(real_data, symbol, first, end)[["ts", "open", "high", "low", "close", "volume"]]
    report = probe(project_features(symbol, config), given, timeframe="1h", trials=15, seed=1)
    assert {name: v.verdict for name, v in report.columns.items() if v.verdict != "clean"} == {}
    assert len(report.columns) == 64


def test_the_probe_has_the_power_to_find_a_broken_join(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nexus_assets.transforms import training_sets

    def one_bar_too_new(decided_at: np.ndarray, available_at: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(available_at, decided_at, side="right"), len(available_at) - 1)

    monkeypatch.setattr(training_sets, "join_features", one_bar_too_new)
    given = real(real_data, "EURUSD", date(2021, 1, 10), date(2021, 4, 2))
    report = probe(project_features("EURUSD", load_settings()), given, timeframe="1h", trials=6, seed=1)
    assert {leak.column for leak in report.leaks} == {name for name in report.columns if name.endswith("@4h")}


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda b: b[["close"]], "without a column ts"),
        (lambda b: 1 / 0, "failed on the true bars: ZeroDivisionError"),
        (lambda b: one(b, pd.Series(np.random.default_rng().normal(size=len(b)))), "something else for the same bars"),
        (lambda b: pd.concat([one(b, b["close"])] * 2), "the same ts twice"),
        (lambda b: one(b.iloc[:0], b["close"].iloc[:0]), "have no row"),
    ],
)
def test_a_function_that_cannot_be_probed_is_refused(
    bars: pd.DataFrame, function: FeatureFunction, sentence: str
) -> None:
    with pytest.raises(ProbeError, match=sentence):
        probed(function, bars)


def test_the_command_tells_of_a_leak_and_ends_with_1(bars: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def features(bars):\n"
        "    return bars[['ts']].assign(honest=bars['close'].diff(), leaking=bars['close'].shift(-1))\n"
    )
    bars[["ts", "open", "high", "low", "close", "volume"]].to_csv(tmp_path / "bars.csv", index=False)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nexus_assets", "probe", "leaks", "--bars", "bars.csv", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    told = run("--function", "mine:features", "--trials", "10", "--json")
    assert told.returncode == 1, told.stderr
    found = {row["column"]: row for row in json.loads(told.stdout)["columns"]}
    assert found["honest"]["verdict"] == "clean"
    assert found["leaking"]["verdict"] == "leaks"
    missing = run("--function", "mine:nothing")
    assert missing.returncode == 1
    assert "mine:nothing cannot be imported" in missing.stderr
