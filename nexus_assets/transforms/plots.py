"""Small PNG plots for the metadata of a materialisation, each under 60 kB. matplotlib is imported only when drawing."""

import base64
import io
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BYTES = 60_000
"""Largest PNG that the plots may make; larger metadata slows Dagster's event log and UI."""

_DPI = 80
_MOST_POINTS = 1500
_MOST_TICKS = 12
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.9, 0.2, 0.72, 0.32
_SCALE, _SCALE_WIDTH = 1.1, 0.14


def as_markdown(png: bytes, alt: str) -> str:
    """A PNG as a markdown image that carries its own data; `alt` is the text for readers who do not see it."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def price_plot(bars: pd.DataFrame) -> bytes:
    """Closes of one symbol and timeframe over time, with suspect bars marked.

    The line is broken where more than four bars are missing. Long series are thinned to every n-th close; suspect
    bars are always drawn.

    Args:
        bars: Columns symbol, timeframe, ts, close, suspect, by ts; may be empty.
    """
    figure, axes = _figure(8.0, 3.0)
    title = "no bars"
    if len(bars):
        thin = bars.iloc[:: -(-len(bars) // _MOST_POINTS)]
        ts = thin["ts"].dt.tz_localize(None)
        step = ts.diff()
        close = thin["close"].mask(step > 4 * step.median())
        axes.plot(ts, close, linewidth=1.0, color="tab:blue")
        suspects = bars.loc[bars["suspect"].notna()]
        if len(suspects):
            marks = suspects["ts"].dt.tz_localize(None)
            axes.plot(
                marks, suspects["close"], "o", markersize=4, color="tab:red", label=f"suspect ({len(suspects):,} bars)"
            )
            axes.legend(loc="best", fontsize=8)
        title = f"{bars['symbol'].iloc[0]}, {len(bars):,} bars of {bars['timeframe'].iloc[0]}"
    _dates(axes)
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("close, quote currency\nor index points", fontsize=8)
    axes.set_xlabel("bar open, UTC", fontsize=8)
    axes.grid(alpha=0.3)
    return _png(figure)


def coverage_plot(coverage: pd.DataFrame) -> bytes:
    """A grid of symbols by days, coloured by the share of expected bars that are there.

    Args:
        coverage: One row per symbol and day: symbol, day, present, expected (bars). A day on which no bar is expected
            is drawn grey. May be empty.
    """
    present, expected = (
        coverage.pivot_table(index="symbol", columns="day", values=name, aggfunc="sum", sort=True)
        for name in ("present", "expected")
    )
    figure, axes = _figure(8.0, 1.2 + 0.19 * max(len(present), 4), right=_SCALE)
    share = (present / expected.where(expected > 0)).clip(upper=1.0)
    if share.size:
        _grid(figure, axes, share.to_numpy(dtype=float), "RdYlGn", 0.0, 1.0, "bars present / expected")
        _ticks(axes, list(share.index), [str(day) for day in share.columns])
    axes.set_title("Coverage by symbol and UTC day" if share.size else "no bars", fontsize=10)
    axes.set_xlabel("UTC day", fontsize=8)
    axes.set_ylabel("symbol", fontsize=8)
    return _png(figure)


def gap_plot(bars: pd.DataFrame, gaps: pd.DataFrame, days: Sequence[date]) -> bytes:
    """A grid of UTC days by hours, coloured by the worst state of the hour's bars in the gap ledger.

    Args:
        bars: Base bars of the days: ts.
        gaps: Columns of schemas.GAPS.
        days: The days, ascending; at most a month.
    """
    states = ["present", "holiday", "healed", "quarantined", "missing"]
    rank = np.full((24, len(days)), np.nan)
    place = {day: number for number, day in enumerate(days)}
    hours = pd.DatetimeIndex(bars["ts"])
    marked = [(hours, "present")]
    for ts, ends_at, state in zip(gaps["ts"], gaps["ends_at"], gaps["state"], strict=True):
        marked.append((pd.date_range(ts.floor("h"), ends_at, freq="h", inclusive="left"), state))
    for instants, state in marked:
        columns = [place.get(day, -1) for day in instants.date]
        inside = np.array(columns, dtype=int) >= 0
        where = (instants.hour[inside], np.array(columns, dtype=int)[inside])
        rank[where] = np.fmax(rank[where], states.index(state))
    figure, axes = _figure(1.8 + 0.19 * max(len(days), 16), 3.6, right=_SCALE)
    from matplotlib.colors import ListedColormap

    axes.set_facecolor("whitesmoke")
    colours = ListedColormap(["#2e7d32", "#bdbdbd", "#81d4fa", "#fb8c00", "#c62828"])
    image = axes.imshow(np.ma.masked_invalid(rank), cmap=colours, vmin=-0.5, vmax=4.5, aspect="auto")
    bar = figure.colorbar(image, cax=_beside(figure, axes), ticks=range(5))
    bar.ax.set_yticklabels(states, fontsize=7)
    _ticks(axes, [f"{hour:02d}" for hour in range(24)], [str(day) for day in days], every_row=3)
    axes.set_title("Bars by UTC day and hour", fontsize=10)
    axes.set_xlabel("UTC day", fontsize=8)
    axes.set_ylabel("hour, UTC", fontsize=8)
    return _png(figure)


def heatmap(correlations: pd.DataFrame) -> bytes:
    """The square matrix of one day's correlations, symbols on both axes.

    Args:
        correlations: Columns day, timeframe, symbol_a, symbol_b, correlation of one day, one row per pair; may be
            empty. A pair without a correlation is drawn grey.
    """
    symbols = sorted({*correlations["symbol_a"], *correlations["symbol_b"]})
    square = np.full((len(symbols), len(symbols)), np.nan)
    np.fill_diagonal(square, 1.0)
    a, b = (np.searchsorted(symbols, list(correlations[name])) for name in ("symbol_a", "symbol_b"))
    square[a, b] = square[b, a] = correlations["correlation"]
    side = 2.2 + 0.19 * max(len(symbols), 6)
    figure, axes = _figure(side + 0.8, side, right=_SCALE)
    title = "no correlations"
    if len(symbols):
        _grid(figure, axes, square, "RdBu_r", -1.0, 1.0, "correlation of log returns")
        axes.set_xticks(range(len(symbols)), symbols, rotation=90, fontsize=7)
        axes.set_yticks(range(len(symbols)), symbols, fontsize=7)
        title = (
            f"Correlations of {correlations['timeframe'].iloc[0]} returns at the end of {correlations['day'].iloc[0]}"
        )
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("symbol", fontsize=8)
    axes.set_ylabel("symbol", fontsize=8)
    return _png(figure)


def split_plot(rows: pd.DataFrame) -> bytes:
    """Rows of each part of a split over time.

    Args:
        rows: Columns entry_at and split, at least one row.
    """
    figure, axes = _figure(8.0, 2.6, bottom=0.85)
    colours = {"train": "tab:blue", "validation": "tab:orange", "test": "tab:green", "purged": "tab:red"}
    colours["embargoed"] = "tab:grey"
    entered = rows["entry_at"].dt.tz_localize(None)
    edges = pd.date_range(entered.min(), entered.max(), periods=121)
    parts = [entered[rows["split"] == name] for name in colours]
    labels = [f"{name} ({len(part):,})" for name, part in zip(colours, parts, strict=True)]
    axes.hist(parts, bins=list(edges), stacked=True, color=list(colours.values()), label=labels)  # pyright: ignore
    _dates(axes)
    axes.set_title(f"{len(rows):,} labels by where they may be used", fontsize=10)
    axes.set_ylabel("labels", fontsize=8)
    axes.set_xlabel("entry, UTC", fontsize=8)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=5, fontsize=7, frameon=False)
    return _png(figure)


def _figure(width: float, height: float, *, right: float = _RIGHT, bottom: float = _BOTTOM) -> "tuple[Figure, Axes]":
    """A figure of its own (not pyplot's, whose global state is not safe between threads) with fixed margins, in inches.

    Matplotlib's layout engines measure every text several times, which takes as long as the drawing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI)
    across, up = width - _LEFT - right, height - bottom - _TOP
    axes = figure.add_axes((_LEFT / width, bottom / height, across / width, up / height))
    axes.tick_params(labelsize=8)
    return figure, axes


def _beside(figure: "Figure", axes: "Axes") -> "Axes":
    """Axes for a colour scale in the right margin."""
    place, width = axes.get_position(), figure.get_figwidth()
    return figure.add_axes((place.x1 + 0.15 / width, place.y0, _SCALE_WIDTH / width, place.height))


def _dates(axes: "Axes") -> None:
    """Few, short date labels."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=4, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _grid(
    figure: "Figure", axes: "Axes", values: np.ndarray, colours: str, lowest: float, highest: float, label: str
) -> None:
    """A coloured grid with its scale; missing cells are grey."""
    axes.set_facecolor("lightgrey")
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=lowest, vmax=highest, aspect="auto", interpolation="nearest"
    )
    bar = figure.colorbar(image, cax=_beside(figure, axes))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _ticks(axes: "Axes", rows: list[str], columns: list[str], *, every_row: int = 1) -> None:
    """The rows' names, and at most _MOST_TICKS of the columns'."""
    every = -(-len(columns) // _MOST_TICKS)
    axes.set_yticks(range(0, len(rows), every_row), rows[::every_row], fontsize=7)
    axes.set_xticks(range(0, len(columns), every), columns[::every], rotation=30, ha="right", fontsize=7)


def _png(figure: "Figure") -> bytes:
    """The figure with 128 colours: a third of the bytes, and no difference that the eye sees."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image  # matplotlib writes its own PNGs with it

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # The method that keeps rare colours: a few red dots on a long blue line.
    image = image.quantize(colors=128, method=Image.Quantize.MAXCOVERAGE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
