"""Plots: PNGs that stay small, whatever is drawn, and markdown that carries them."""

import base64
import io
import subprocess
import sys
from datetime import date

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nexus_assets.instruments import INSTRUMENTS
from nexus_assets.schemas import GAPS
from nexus_assets.transforms import plots
from nexus_assets_tests.transforms.feature_bars import walk

SYMBOLS = [instrument.symbol for instrument in INSTRUMENTS]


def pixels(png: bytes) -> np.ndarray:
    """The picture as rows x columns x RGB; fails on anything but a PNG."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def reddish(png: bytes) -> int:
    red, green, blue = np.moveaxis(pixels(png), 2, 0)
    return int(((red > 150) & (green < 80) & (blue < 80)).sum())


def coverage(days: int) -> pd.DataFrame:
    random = np.random.default_rng(1)
    grid = pd.MultiIndex.from_product(
        [SYMBOLS, pd.date_range("2023-01-01", periods=days).date], names=["symbol", "day"]
    ).to_frame(index=False)
    return grid.assign(present=random.integers(0, 25, len(grid)), expected=24)


def correlations(symbols: list[str]) -> pd.DataFrame:
    a, b = np.triu_indices(len(symbols), k=1)
    names = np.array(sorted(symbols))
    values = np.random.default_rng(2).uniform(-1, 1, len(a))
    return pd.DataFrame(
        {"day": date(2024, 3, 14), "timeframe": "1h", "symbol_a": names[a], "symbol_b": names[b], "correlation": values}
    )


@pytest.mark.parametrize("timeframe", ["1h", "1m"])
def test_a_price_plot_stays_small(timeframe):
    bars = walk("EURUSD", date(2024, 1, 1), date(2024, 3, 1), timeframe)
    png = plots.price_plot(bars)
    assert pixels(png).shape == (240, 640, 3)
    assert len(png) < plots.MAX_BYTES


def test_suspect_bars_are_marked_even_where_the_line_is_thinned():
    bars = walk("EURUSD", date(2024, 1, 1), date(2024, 3, 1), "1m")
    marked = bars.assign(suspect=bars["suspect"].mask(bars.index == 1001, "large_move"))
    assert reddish(plots.price_plot(bars)) == 0
    assert reddish(plots.price_plot(marked)) > 20


def test_a_coverage_grid_of_every_symbol_and_400_days_stays_small():
    png = plots.coverage_plot(coverage(400))
    assert len(png) < plots.MAX_BYTES
    assert pixels(png).shape[1] == 640


def test_days_on_which_nothing_is_expected_are_grey_and_not_red():
    empty = coverage(10).assign(present=0)
    closed = empty.assign(expected=0)
    assert reddish(plots.coverage_plot(empty)) > 20_000
    assert reddish(plots.coverage_plot(closed)) < 5_000


def test_a_heatmap_of_every_symbol_stays_small():
    png = plots.heatmap(correlations(SYMBOLS))
    assert len(png) < plots.MAX_BYTES


def test_a_heatmap_is_symmetric():
    png = plots.heatmap(correlations(SYMBOLS[:6]).assign(correlation=lambda f: np.linspace(-1, 1, len(f))))
    flipped = plots.heatmap(
        correlations(SYMBOLS[:6])
        .assign(correlation=lambda f: np.linspace(-1, 1, len(f)))
        .rename(columns={"symbol_a": "symbol_b", "symbol_b": "symbol_a"})
    )
    assert png == flipped


def test_nothing_to_draw_is_drawn_as_nothing():
    bars = walk("EURUSD", date(2024, 1, 1), date(2024, 1, 4))
    assert len(plots.price_plot(bars.iloc[:0])) < 10_000
    assert len(plots.price_plot(bars.iloc[:1])) < 10_000
    assert len(plots.coverage_plot(coverage(3).iloc[:0])) < 10_000
    assert len(plots.heatmap(correlations(SYMBOLS[:2]).iloc[:0])) < 10_000


def test_markdown_carries_the_picture():
    markdown = plots.as_markdown(b"\x89PNG picture", "prices of EURUSD")
    data = base64.b64encode(b"\x89PNG picture").decode("ascii")
    assert markdown == f"![prices of EURUSD](data:image/png;base64,{data})"


def test_matplotlib_is_not_imported_with_the_module():
    program = "import sys, nexus_assets.transforms.plots; print('matplotlib' in sys.modules, 'PIL' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.split() == ["False", "False"]


def test_the_plot_of_a_split_shows_every_part_and_stays_small():
    entered = pd.date_range("2020-01-01", periods=5000, freq="h", tz="UTC", unit="us")
    parts = ["train"] * 3000 + ["purged"] * 24 + ["embargoed"] * 50 + ["validation"] * 900 + ["test"] * 1026
    png = plots.split_plot(pd.DataFrame({"entry_at": entered, "split": parts}))
    assert len(png) < plots.MAX_BYTES
    colours = pixels(png).reshape(-1, 3)
    # train, validation, test, purged, embargoed
    for wanted in ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (127, 127, 127)):
        assert np.abs(colours - wanted).sum(axis=1).min() < 30


def test_the_plot_of_gaps_shows_the_worst_state_of_an_hour_and_stays_small() -> None:
    days = [day.date() for day in pd.date_range("2024-03-01", periods=31)]
    bars = walk("EURUSD", days[0], date(2024, 4, 1), "1m")
    minute = bars["ts"].iloc[5000]
    one = {"symbol": "EURUSD", "timeframe": "1m", "bars": 1, "provider": "", "known_at": pd.NaT}
    missing = {
        **one,
        "ts": minute,
        "ends_at": minute + pd.Timedelta(1, "min"),
        "state": "missing",
        "reason": "not_asked",
    }
    healed = {**missing, "state": "healed", "reason": "late"}
    plain, red = (plots.gap_plot(bars, pd.DataFrame([row]), days) for row in (healed, missing))
    assert reddish(red) > reddish(plain)
    assert len(red) < plots.MAX_BYTES
    assert pixels(plots.gap_plot(bars.iloc[:0], GAPS.empty(), days)).size
