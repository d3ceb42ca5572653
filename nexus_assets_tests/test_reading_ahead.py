"""Asking a service for the days of a run at once, and handing them out slice by slice."""

from contextlib import ExitStack
from datetime import date, timedelta
from itertools import pairwise

import pandas as pd
import pytest

from nexus_assets import trading_calendar
from nexus_assets.errors import PermanentProviderError
from nexus_assets.partitions import Slice
from nexus_assets.providers.interface import Delivery, Request
from nexus_assets.reading_ahead import ReadingAhead
from nexus_assets.rehearsal import Fault
from nexus_assets_tests.rehearsal.market import FRAMES, instant, opens
from nexus_assets_tests.rehearsal.test_provider_contract import market

DAYS = [date(2024, 3, 1) + timedelta(days=n) for n in range(6)]
WEEK = [Slice("EURUSD", first, end) for first, end in pairwise(DAYS)]


def request(piece: Slice) -> Request:
    return Request(piece.symbol, "1h", *trading_calendar.day_range(piece.first_day, piece.end_day))


def bars_of(deliveries: list[Delivery]) -> list[pd.Timestamp]:
    return pd.concat([delivery.bars for delivery in deliveries])["ts"].tolist()


def test_a_week_is_asked_for_once_and_every_row_is_handed_out_once() -> None:
    with market("oanda", Fault("repeated_rows", bars=3)) as (server, provider):
        ahead = ReadingAhead(WEEK)
        parts = [ahead.fetch(provider, piece, request(piece)) for piece in WEEK]
        assert len(server.calls) == 1
        whole = provider.fetch(Request("EURUSD", "1h", instant("2024-03-01"), instant("2024-03-06")))
    assert (
        bars_of(parts)
        == bars_of([whole])
        == opens(FRAMES["EURUSD", "1h"], "2024-03-01", "2024-03-05T10:00")["ts"].tolist()
    )
    assert [part.request for part in parts] == [request(piece) for piece in WEEK]
    assert sum(part.delivered for part in parts) == whole.delivered
    assert [part.equal_repeats for part in parts] == [3, 0, 0, 0, 0]


def test_days_that_do_not_follow_each_other_and_other_symbols_are_asked_for_alone() -> None:
    pieces = [WEEK[0], WEEK[3], WEEK[4], Slice("XAUUSD", DAYS[3], DAYS[5])]
    with market("oanda") as (server, provider):
        ahead = ReadingAhead(pieces)
        parts = [ahead.fetch(provider, piece, request(piece)) for piece in pieces]
        assert len(server.calls) == 3
    assert [len(part.bars) for part in parts] == [22, 24, 10, 34]


def test_a_range_that_is_refused_as_a_whole_is_asked_for_slice_by_slice() -> None:
    # Alpha Vantage refuses a range that begins before its answer does.
    with market("alpha_vantage") as (server, provider):
        early = [Slice("EURUSD", date(2024, 2, 28), date(2024, 3, 1)), *WEEK]
        ahead = ReadingAhead(early)
        parts = []
        for piece in early:
            with ExitStack() as stack:
                if piece == early[0]:
                    stack.enter_context(pytest.raises(PermanentProviderError, match="does not reach back"))
                parts.append(ahead.fetch(provider, piece, request(piece)))
        assert len(bars_of(parts)) == len(opens(FRAMES["EURUSD", "1h"], "2024-03-01", "2024-03-05T10:00"))
        assert len(server.calls) == 1 + len(early)


def test_a_hole_in_a_slice_is_asked_for_alone() -> None:
    month, later = Slice("EURUSD", date(2024, 2, 1), date(2024, 3, 3)), Slice("EURUSD", date(2024, 3, 3), DAYS[5])
    hole = Request("EURUSD", "1h", instant("2024-03-01"), instant("2024-03-02"))
    with market("oanda") as (server, provider):
        ahead = ReadingAhead([month, later])
        assert len(ahead.fetch(provider, month, hole).bars) == 22
        assert len(ahead.fetch(provider, later, request(later)).bars) == 36
        assert len(server.calls) == 2
