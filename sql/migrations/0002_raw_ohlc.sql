-- What providers delivered: the deliveries, the bar values, and the rows that were kept out.

CREATE SEQUENCE market.delivery_number AS bigint;
COMMENT ON SEQUENCE market.delivery_number IS
    'Numbers of deliveries; taken under the lock of the symbol, so ascending per symbol.';

CREATE TABLE market.deliveries (
    delivery_id bigint DEFAULT nextval('market.delivery_number') NOT NULL,
    symbol text NOT NULL,
    timeframe text NOT NULL,
    provider text NOT NULL,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL,
    known_at timestamptz NOT NULL,
    delivered bigint NOT NULL,
    new bigint NOT NULL,
    changed bigint NOT NULL,
    unchanged bigint NOT NULL,
    quarantined bigint NOT NULL,
    backfilled boolean NOT NULL,
    run_id text,
    CONSTRAINT deliveries_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT deliveries_accounting_check CHECK (delivered = new + changed + unchanged + quarantined),
    CONSTRAINT deliveries_counts_check CHECK (least(delivered, new, changed, unchanged, quarantined) >= 0),
    CONSTRAINT deliveries_range_check CHECK (range_start <= range_end),
    CONSTRAINT deliveries_pkey PRIMARY KEY (delivery_id)
);

-- The newest delivery of a symbol: its known_at is the floor of the next one's.
CREATE INDEX deliveries_by_symbol ON market.deliveries (symbol, known_at);

COMMENT ON TABLE market.deliveries IS
    'One answer of a provider: delivered = new + changed + unchanged + quarantined, always.';
COMMENT ON COLUMN market.deliveries.delivery_id IS
    'Number of the delivery, ascending.';
COMMENT ON COLUMN market.deliveries.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN market.deliveries.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN market.deliveries.provider IS
    'Who delivered the bar: files, synthetic, or an API''s name.';
COMMENT ON COLUMN market.deliveries.range_start IS
    'Start of the asked range, inclusive.';
COMMENT ON COLUMN market.deliveries.range_end IS
    'End of the asked range, exclusive.';
COMMENT ON COLUMN market.deliveries.known_at IS
    'When this system learned the value: one database clock value per delivery.';
COMMENT ON COLUMN market.deliveries.delivered IS
    'Rows that the provider delivered for the range. [rows]';
COMMENT ON COLUMN market.deliveries.new IS
    'Rows of a key not known before. [rows]';
COMMENT ON COLUMN market.deliveries.changed IS
    'Rows that differ from the newest known revision. [rows]';
COMMENT ON COLUMN market.deliveries.unchanged IS
    'Rows equal to the newest known revision, or to an earlier row of the delivery. [rows]';
COMMENT ON COLUMN market.deliveries.quarantined IS
    'Rows kept out of raw_ohlc; see quarantined_bars. [rows]';
COMMENT ON COLUMN market.deliveries.backfilled IS
    'Asked for long after the range was over.';
COMMENT ON COLUMN market.deliveries.run_id IS
    'The Dagster run that asked.';

CREATE TABLE market.raw_ohlc (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    provider text NOT NULL,
    delivery_id bigint NOT NULL,
    known_at timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    spread double precision,
    price_kind text NOT NULL,
    volume_kind text NOT NULL,
    instrument_kind text NOT NULL,
    backfilled boolean NOT NULL,
    withdrawn boolean NOT NULL,
    CONSTRAINT raw_ohlc_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT raw_ohlc_price_kind_check CHECK (price_kind IN ('mid', 'bid', 'ask', 'last')),
    CONSTRAINT raw_ohlc_volume_kind_check CHECK (volume_kind IN ('ticks', 'lots', 'contracts', 'none')),
    CONSTRAINT raw_ohlc_instrument_kind_check CHECK (instrument_kind IN ('spot', 'cfd', 'future', 'cash_index')),
    CONSTRAINT raw_ohlc_pkey PRIMARY KEY (symbol, timeframe, ts, provider, delivery_id)
);

-- The newest revision of each key is read backwards from the primary key: it ends in the delivery's number.
-- No foreign key on delivery_id: it would be checked row by row during COPY; the writer proves the accounting instead.

COMMENT ON TABLE market.raw_ohlc IS
    'Every bar value that a provider delivered, once, with when it was learned. Append-only: a value that '
    'differs from the newest known one is a new revision.';
COMMENT ON COLUMN market.raw_ohlc.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN market.raw_ohlc.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN market.raw_ohlc.ts IS
    'Open of the bar, UTC, inclusive; the bar covers [ts, ts + timeframe).';
COMMENT ON COLUMN market.raw_ohlc.provider IS
    'Who delivered the bar: files, synthetic, or an API''s name.';
COMMENT ON COLUMN market.raw_ohlc.delivery_id IS
    'The delivery that brought the row; see market.deliveries.';
COMMENT ON COLUMN market.raw_ohlc.known_at IS
    'When this system learned the value: one database clock value per delivery.';
COMMENT ON COLUMN market.raw_ohlc.open IS
    'First price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.raw_ohlc.high IS
    'Highest price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.raw_ohlc.low IS
    'Lowest price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.raw_ohlc.close IS
    'Last price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.raw_ohlc.volume IS
    'Volume in the unit of volume_kind; NULL where the provider has none.';
COMMENT ON COLUMN market.raw_ohlc.spread IS
    'Ask less bid, where the provider tells. [quote currency or index points]';
COMMENT ON COLUMN market.raw_ohlc.price_kind IS
    'Which price the bar is of.';
COMMENT ON COLUMN market.raw_ohlc.volume_kind IS
    'What volume counts.';
COMMENT ON COLUMN market.raw_ohlc.instrument_kind IS
    'What was priced.';
COMMENT ON COLUMN market.raw_ohlc.backfilled IS
    'Delivered long after the bar closed, so known_at says nothing of the market.';
COMMENT ON COLUMN market.raw_ohlc.withdrawn IS
    'A tombstone: the provider took the bar back.';

CREATE TABLE market.quarantined_bars (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    provider text NOT NULL,
    rule text NOT NULL,
    stage text NOT NULL,
    row_hash text NOT NULL,
    delivery_id bigint NOT NULL,
    known_at timestamptz NOT NULL,
    open double precision,
    high double precision,
    low double precision,
    close double precision,
    volume double precision,
    spread double precision,
    origin text NOT NULL,
    content text NOT NULL,
    detail text NOT NULL,
    CONSTRAINT quarantined_bars_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT quarantined_bars_rule_check CHECK (rule IN (
        'unusable_key',
        'conflicting_repeat',
        'granularity',
        'not_finite',
        'not_positive',
        'high_low',
        'off_grid',
        'outside_session',
        'price_band',
        'range'
    )),
    CONSTRAINT quarantined_bars_stage_check CHECK (stage IN ('delivery', 'validation')),
    CONSTRAINT quarantined_bars_pkey PRIMARY KEY (symbol, timeframe, ts, provider, rule, row_hash)
);

-- What was stopped by one rule, and when.
CREATE INDEX quarantined_bars_by_rule ON market.quarantined_bars (rule, ts);

COMMENT ON TABLE market.quarantined_bars IS
    'Rows kept out of market.bars, whole, with the rule they broke.';
COMMENT ON COLUMN market.quarantined_bars.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN market.quarantined_bars.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN market.quarantined_bars.ts IS
    'Open of the bar, UTC; where it is unusable, that of the nearest earlier readable row, or the start of the asked range.';
COMMENT ON COLUMN market.quarantined_bars.provider IS
    'Who delivered the bar: files, synthetic, or an API''s name.';
COMMENT ON COLUMN market.quarantined_bars.rule IS
    'The first rule that the row broke.';
COMMENT ON COLUMN market.quarantined_bars.stage IS
    'Where it was stopped: delivery (before raw_ohlc) or validation (before bars).';
COMMENT ON COLUMN market.quarantined_bars.row_hash IS
    'Hash of the row''s origin and content; tells two rows of one ts and rule apart.';
COMMENT ON COLUMN market.quarantined_bars.delivery_id IS
    'The delivery that brought the row; see market.deliveries.';
COMMENT ON COLUMN market.quarantined_bars.known_at IS
    'When this system learned the value: one database clock value per delivery.';
COMMENT ON COLUMN market.quarantined_bars.open IS
    'First price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.quarantined_bars.high IS
    'Highest price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.quarantined_bars.low IS
    'Lowest price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.quarantined_bars.close IS
    'Last price of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.quarantined_bars.volume IS
    'Volume in the unit of volume_kind; NULL where the provider has none.';
COMMENT ON COLUMN market.quarantined_bars.spread IS
    'Ask less bid, where the provider tells. [quote currency or index points]';
COMMENT ON COLUMN market.quarantined_bars.origin IS
    'File and line, or the request, that the row came from.';
COMMENT ON COLUMN market.quarantined_bars.content IS
    'The row as it was delivered.';
COMMENT ON COLUMN market.quarantined_bars.detail IS
    'The values that broke the rule.';
