-- Validated bars.

CREATE TABLE market.bars (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision,
    spread double precision,
    provider text NOT NULL,
    price_kind text NOT NULL,
    volume_kind text NOT NULL,
    instrument_kind text NOT NULL,
    known_at timestamptz NOT NULL,
    bars_expected smallint NOT NULL,
    bars_present smallint NOT NULL,
    suspect text,
    CONSTRAINT bars_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT bars_price_kind_check CHECK (price_kind IN ('mid', 'bid', 'ask', 'last')),
    CONSTRAINT bars_volume_kind_check CHECK (volume_kind IN ('ticks', 'lots', 'contracts', 'none')),
    CONSTRAINT bars_instrument_kind_check CHECK (instrument_kind IN ('spot', 'cfd', 'future', 'cash_index')),
    CONSTRAINT bars_prices_check CHECK (low > 0 AND high >= greatest(open, close, low) AND low <= least(open, close)),
    CONSTRAINT bars_present_check CHECK (bars_present >= 1 AND bars_expected >= 0),
    CONSTRAINT bars_pkey PRIMARY KEY (symbol, timeframe, ts)
);

-- All symbols at one ts. One symbol over a range, and its latest bars, are served by the primary key.
CREATE INDEX bars_by_ts ON market.bars (ts, timeframe);

COMMENT ON TABLE market.bars IS
    'One valid bar per symbol, timeframe and ts: the base timeframe and those rolled up from it.';
COMMENT ON COLUMN market.bars.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN market.bars.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN market.bars.ts IS
    'Open of the bar, UTC, inclusive; the bar covers [ts, ts + timeframe).';
COMMENT ON COLUMN market.bars.open IS
    'First price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.bars.high IS
    'Highest price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.bars.low IS
    'Lowest price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.bars.close IS
    'Last price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.bars.volume IS
    'Volume in the unit of volume_kind; NULL where the provider has none.';
COMMENT ON COLUMN market.bars.spread IS
    'Ask less bid, where the provider tells. [quote currency or index points]';
COMMENT ON COLUMN market.bars.provider IS
    'Who delivered the bar: files, synthetic, or an API''s name.';
COMMENT ON COLUMN market.bars.price_kind IS
    'Which price the bar is of.';
COMMENT ON COLUMN market.bars.volume_kind IS
    'What volume counts.';
COMMENT ON COLUMN market.bars.instrument_kind IS
    'What was priced.';
COMMENT ON COLUMN market.bars.known_at IS
    'Latest known_at of the bars this row was computed from.';
COMMENT ON COLUMN market.bars.bars_expected IS
    'Base bars that the calendar expects in this bar. [bars]';
COMMENT ON COLUMN market.bars.bars_present IS
    'Accepted base bars in this bar. [bars]';
COMMENT ON COLUMN market.bars.suspect IS
    'Names of the doubts about this bar, separated by commas: large_move, stale, before_gap. NULL for none.';
