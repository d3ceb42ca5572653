"""A year of hours of twenty pairs, read back from the rehearsal page by page, against the real price files."""

from datetime import timedelta
from pathlib import Path

import pandas as pd
import requests

from nexus_assets.rehearsal import FrameBook, Rehearsal
from nexus_assets_tests.rehearsal.market import instant

START, END = instant("2020-01-01"), instant("2021-01-01")
PAGE = 5000


def real_hours(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """Hours of 2020 by symbol, as OANDA delivered them."""
    frames = {}
    for path in sorted((folder / "oanda_h1").iterdir()):
        hours = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, parse_dates=["ts"])
        hours = hours.loc[(hours["ts"] >= START) & (hours["ts"] < END)].reset_index(drop=True)
        frames[str(hours["symbol"].iloc[0]), "1h"] = hours
    return frames


def test_a_real_year_of_twenty_pairs_is_read_back_bit_for_bit_within_the_limits(real_data: Path) -> None:
    frames = real_hours(real_data)
    assert len(frames) >= 20
    pages = 0
    with Rehearsal(FrameBook(frames), now=lambda: END) as server, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {server.keys['oanda']}"
        for (symbol, _), frame in frames.items():
            candles = []
            start = START
            while start < END:
                params = {"granularity": "H1", "count": str(PAGE), "from": start.isoformat()}
                url = f"{server.urls['oanda']}/v3/instruments/{symbol[:3]}_{symbol[3:]}/candles"
                page = session.get(url, params=params, timeout=30).json()["candles"]
                pages += 1
                candles += page
                # A page that starts in closed hours is one candle short.
                if len(page) < PAGE - 1:
                    break
                start = pd.Timestamp(page[-1]["time"]).to_pydatetime() + timedelta(hours=1)
            assert [pd.Timestamp(c["time"]) for c in candles] == frame["ts"].tolist()
            for key, name in (("o", "open"), ("h", "high"), ("l", "low"), ("c", "close")):
                assert [float(c["mid"][key]) for c in candles] == frame[name].tolist()
            assert [c["volume"] for c in candles] == frame["volume"].tolist()
        # Every pair has between 5,000 and 10,000 hours a year.
        assert pages == len(server.calls) == 2 * len(frames)
        assert server.violations == []
        assert len({call.client for call in server.calls}) == 1
