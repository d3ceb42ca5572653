"""Bars to indicators to labels, correlations and the as-of join, beside what people use for it otherwise.

    .venv/bin/python benchmarks/features.py [--json]

One run, one machine, one process: only the ratios mean something elsewhere. Each time is the shortest of several. With
NEXUS_REAL_DATA the bars are recorded minutes and hours, else invented ones.
"""

import argparse
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars
from rich.console import Console
from rich.table import Table

from nexus_assets.instruments import instrument
from nexus_assets.providers.interface import Request
from nexus_assets.providers.synthetic import SyntheticProvider
from nexus_assets.schemas import BARS
from nexus_assets.trading_calendar import bar_end
from nexus_assets.transforms import correlations, indicators, labels
from nexus_assets.transforms.hourly_correlations import hourly_correlations
from nexus_assets.transforms.training_sets import join_features

EURUSD = instrument("EURUSD")
YEAR = (date(2018, 1, 1), date(2019, 1, 1))


@dataclass
class Line:
    """One measurement: seconds, and how many times those of the section's first line that is."""

    section: str
    what: str
    seconds: float
    ratio: float = math.nan
    note: str = ""


def timed(work: Callable[[], object], repeat: int = 3) -> float:
    """The shortest of several runs after one that does not count (numba compiles in it)."""
    work()
    times = []
    for _ in range(repeat):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def once(work: Callable[[], object]) -> float:
    """One run, for what takes long."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def as_bars(symbol: str, timeframe: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of market.bars around prices."""
    rows = rows.drop_duplicates("ts").sort_values("ts", ignore_index=True)
    ts = pd.DatetimeIndex(rows["ts"]).as_unit("us")
    frame = rows[["open", "high", "low", "close", "volume"]].astype("float64").assign(
        symbol=symbol, timeframe=timeframe, ts=ts, spread=math.nan, provider="benchmark", price_kind="mid",
        volume_kind="ticks", instrument_kind="spot", known_at=bar_end(ts, timeframe), bars_expected=1, bars_present=1,
        suspect=None,
    )  # fmt: skip
    return frame[BARS.column_names]


def minutes(real: Path | None) -> pd.DataFrame:
    """A year of minutes of EURUSD."""
    if real is not None:
        return as_bars("EURUSD", "1m", pd.read_parquet(real / "histdata_m1" / "EURUSD_2018.parquet"))
    asked = Request("EURUSD", "1m", datetime(2018, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC))
    return as_bars("EURUSD", "1m", SyntheticProvider().fetch(asked).bars)


def hours(real: Path | None) -> pd.DataFrame:
    """A year of hourly closes of 20 symbols."""
    parts = []
    start, end = datetime(2020, 12, 20, tzinfo=UTC), datetime(2022, 1, 1, tzinfo=UTC)
    if real is not None:
        for file in sorted((real / "oanda_h1").glob("*.parquet"))[:20]:
            rows = pd.read_parquet(file)
            parts.append(rows[(rows["ts"] >= start) & (rows["ts"] < end)].assign(symbol=file.stem))
    else:
        from nexus_assets.instruments import DEFAULT_SYMBOLS

        for symbol in DEFAULT_SYMBOLS[:20]:
            rows = SyntheticProvider().fetch(Request(symbol, "1h", start, end)).bars
            parts.append(rows.assign(symbol=symbol))
    return pd.concat(parts, ignore_index=True)[["symbol", "ts", "close"]]


def graph_section(bars: pd.DataFrame) -> Iterator[Line]:
    """The compute of a symbol-year of minutes; the goal is 2 s on 2 cores."""
    chosen = {"instrument": EURUSD, "timeframe": "1m"}
    made = timed(lambda: indicators.compute(bars, **chosen, first_day=YEAR[0], end_day=YEAR[1]))
    labelled = timed(lambda: labels.compute(bars, **chosen, first_day=YEAR[0], end_day=YEAR[1]))
    name = f"symbol-year of minutes ({len(bars):,} bars)"
    yield Line(name, "indicators and labels", made + labelled, note="goal: 2 s")
    yield Line(name, "  32 indicators, each day on its own 250 bars", made)
    yield Line(name, "  labels: return, direction, triple barrier", labelled)


def indicator_section(bars: pd.DataFrame) -> Iterator[Line]:
    """The same columns, computed once over the whole series by others, who promise no bits."""
    chosen = {"instrument": EURUSD, "timeframe": "1m", "first_day": YEAR[0], "end_day": YEAR[1]}
    yield Line(
        "indicators", "nexus_assets, 32 columns by day slices", timed(lambda: indicators.compute(bars, **chosen))
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pandas_ta_classic as ta

            high, low, close, volume = (bars[name] for name in ("high", "low", "close", "volume"))
            calls = {
                "sma": lambda: [ta.sma(close, n, talib=False) for n in (15, 30, 50)],
                "ema": lambda: [ta.ema(close, n, talib=False) for n in (12, 26)],
                "macd": lambda: ta.macd(close, talib=False),
                "adx": lambda: ta.adx(high, low, close, talib=False),
                "rsi": lambda: ta.rsi(close, talib=False),
                "stoch": lambda: ta.stoch(high, low, close, talib=False),
                "cci": lambda: ta.cci(high, low, close, length=20, talib=False),
                "willr": lambda: ta.willr(high, low, close, talib=False),
                "roc, mom": lambda: [ta.roc(close, talib=False), ta.mom(close, talib=False)],
                "mfi": lambda: ta.mfi(high, low, close, volume + 1.0, talib=False),
                "uo": lambda: ta.uo(high, low, close, talib=False),
                "atr, natr": lambda: [ta.atr(high, low, close, talib=False), ta.natr(high, low, close, talib=False)],
                "bbands": lambda: ta.bbands(close, length=20, talib=False),
            }  # fmt: skip
            spent = {name: once(call) for name, call in calls.items()}
        slowest = max(spent, key=lambda name: spent[name])
        note = f"without TA-Lib; slowest: {slowest} {spent[slowest]:.2f} s; lacks hv, z-score, Aroon"
        yield Line("indicators", "pandas-ta-classic, 26 columns", sum(spent.values()), note=note)
    except ImportError:
        yield Line("indicators", "pandas-ta-classic", math.nan, note="not installed (extra: test)")
    frame = polars.from_pandas(bars[["high", "low", "close"]])
    yield Line("indicators", "polars expressions, 15 columns", timed(lambda: frame.select(polars_columns())))


def polars_columns() -> list[polars.Expr]:
    """What is easily said in polars."""
    close, high, low = polars.col("close"), polars.col("high"), polars.col("low")
    change = close.log().diff()
    gain, loss = close.diff().clip(lower_bound=0), (-close.diff()).clip(lower_bound=0)
    wilder = {"alpha": 1 / 14, "adjust": False}
    strength = gain.ewm_mean(**wilder) / loss.ewm_mean(**wilder)
    middle, deviation = close.rolling_mean(20), close.rolling_std(20, ddof=0)
    columns = [close.rolling_mean(n).alias(f"sma_{n}") for n in (15, 30, 50)]
    columns += [close.ewm_mean(span=n, adjust=False).alias(f"ema_{n}") for n in (12, 26)]
    columns += [(100 - 100 / (1 + strength)).alias("rsi"), change.alias("log_return"), close.diff(10).alias("mom")]
    columns += [(middle + 2 * deviation).alias("up"), middle.alias("mid"), (middle - 2 * deviation).alias("low_band")]
    columns += [change.rolling_std(n).alias(f"hv_{n}") for n in (20, 50)]
    lowest, highest = low.rolling_min(14), high.rolling_max(14)
    columns += [((highest - close) / (highest - lowest) * -100).alias("willr")]
    return [*columns, ((change - change.rolling_mean(50)) / change.rolling_std(50)).alias("z")]


def barrier_section(bars: pd.DataFrame) -> Iterator[Line]:
    """Three barriers at several widths, the goal being 0.7 s at any, and a loop as people write it."""
    name = f"triple barrier ({len(bars):,} minutes)"
    for width in (4.0, 0.5, 1.0, 20.0, 100.0, 1000.0):
        seconds = timed(
            lambda width=width: labels.triple_barrier(bars, instrument=EURUSD, timeframe="1m", profit=width, loss=width)
        )
        yield Line(name, f"nexus_assets, width {width:g}", seconds, note="goal: 0.7 s" if width == 4 else "")
    sample = 300
    seconds = once(lambda: pandas_barriers(bars, 20.0, sample)) * len(bars) / sample
    yield Line(name, "pandas loop, width 20", seconds, note=f"extrapolated from {sample} labels")


def pandas_barriers(bars: pd.DataFrame, width: float, sample: int) -> list[float]:
    """The loop of the textbooks: a slice of the path for each label, and the first index beyond a barrier."""
    close = bars.set_index("ts")["close"]
    volatility = close.pct_change().rolling(50).std()
    found = []
    for ts in close.index[60 : 60 + sample]:
        path = close.loc[ts : ts + pd.Timedelta(hours=24)] / close[ts] - 1
        up = path[path > width * volatility[ts]].index.min()
        down = path[path < -width * volatility[ts]].index.min()
        first = min((t for t in (up, down) if not pd.isna(t)), default=path.index[-1])
        found.append(path[first])
    return found


def correlation_section(closes: pd.DataFrame) -> Iterator[Line]:
    """A matrix at every hour of a year; the goal is 3 times one Gram pass of numpy."""
    wide = closes.pivot(index="ts", columns="symbol", values="close").ffill().dropna()
    returns = np.log(wide.to_numpy()[1:] / wide.to_numpy()[:-1])

    def gram() -> np.ndarray:
        out = np.empty((len(returns) - 99, returns.shape[1], returns.shape[1]))
        for last in range(99, len(returns)):
            window = returns[last - 99 : last + 1]
            out[last - 99] = window.T @ window
        return out

    name = f"hourly correlations ({wide.shape[1]} symbols, {len(wide):,} hours)"
    yield Line(name, "numpy: one Gram product per hour", timed(gram, 5), note="no common bars, no means, no scale")
    yield Line(
        name, "nexus_assets, on each pair's common bars", timed(lambda: hourly_correlations(closes), 5), note="goal: 3"
    )
    yield Line(name, "pandas rolling(100).corr(), plain returns", timed(lambda: wide.pct_change().rolling(100).corr()))
    known = closes.assign(known_at=closes["ts"])
    day = date(2021, 6, 15)
    one = timed(lambda: correlations.correlate(known, day=day, timeframe="1h", window=100))
    yield Line(name, "nexus_assets, one stored day", one, note="fixed order of sums: bits independent of grouping")


def join_section(bars: pd.DataFrame) -> Iterator[Line]:
    """The last complete hour of each minute."""
    ends = pd.DatetimeIndex(bars["ts"]).as_unit("us") + pd.Timedelta(minutes=1)
    hourly = pd.DataFrame({"over": pd.date_range(ends[0].ceil("h"), ends[-1], freq="h", unit="us")})
    for number in range(8):
        hourly[f"f{number}"] = np.arange(len(hourly)) + float(number)
    minutely = pd.DataFrame({"decided": ends})
    values = hourly.drop(columns="over").to_numpy()

    def ours() -> np.ndarray:
        position = join_features(ends.asi8, pd.DatetimeIndex(hourly["over"]).asi8)
        return values[position]

    def theirs() -> pd.DataFrame:
        return pd.merge_asof(minutely, hourly, left_on="decided", right_on="over")

    left, right = polars.from_pandas(minutely), polars.from_pandas(hourly)
    yield Line("as-of join of 8 columns", "nexus_assets", timed(ours, 5))
    yield Line("as-of join of 8 columns", "pandas merge_asof", timed(theirs, 5))
    asof = timed(lambda: left.join_asof(right, left_on="decided", right_on="over"), 5)
    yield Line("as-of join of 8 columns", "polars join_asof", asof)


def measure(real: Path | None) -> list[Line]:
    """Every section; ratios against the first line of each."""
    bars, closes = minutes(real), hours(real)
    lines: list[Line] = []
    for section in (graph_section, indicator_section, barrier_section):
        lines += section(bars)
    lines += correlation_section(closes)
    lines += join_section(bars)
    first = {line.section: line.seconds for line in reversed(lines)}
    for line in lines:
        line.ratio = line.seconds / first[line.section]
    return lines


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    folder = os.environ.get("NEXUS_REAL_DATA")
    lines = measure(Path(folder) if folder else None)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    prices = "recorded prices" if folder else "invented prices (NEXUS_REAL_DATA is not set)"
    if as_json:
        print(json.dumps({"machine": machine, "prices": prices, "lines": [asdict(line) for line in lines]}, indent=2))
        return
    table = Table("section", "what", "seconds", "ratio", "note", title=f"{machine}; {prices}")
    seen = ""
    for line in lines:
        shown = line.section if line.section != seen else ""
        seen = line.section
        table.add_row(shown, line.what, f"{line.seconds:.3f}", f"{line.ratio:.2f}", line.note)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
