-- The gap ledger: what became of every expected bar that is not simply present, who failed to answer, and where
-- providers disagree.

CREATE TABLE market.gaps (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    bars bigint NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    provider text NOT NULL,
    known_at timestamptz,
    CONSTRAINT gaps_bars_check CHECK (bars >= 1),
    CONSTRAINT gaps_range_check CHECK (ts < ends_at),
    CONSTRAINT gaps_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT gaps_state_check CHECK (state IN ('missing', 'quarantined', 'healed', 'holiday')),
    CONSTRAINT gaps_pkey PRIMARY KEY (symbol, timeframe, ts)
);

COMMENT ON TABLE market.gaps IS
    'Every bar of the base timeframe that is not simply present: stretches of neighbouring bars in one state, cut'
    ' at 00:00 UTC. A bar that is over, expected and in no row here is in market.bars.';
COMMENT ON COLUMN market.gaps.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN market.gaps.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN market.gaps.ts IS
    'Open of the first bar of the stretch.';
COMMENT ON COLUMN market.gaps.ends_at IS
    'End of its last bar.';
COMMENT ON COLUMN market.gaps.bars IS
    'Bars in the stretch. [bars]';
COMMENT ON COLUMN market.gaps.state IS
    'What became of them.';
COMMENT ON COLUMN market.gaps.reason IS
    'missing: why; quarantined: the rule; holiday: its name; healed: the way.';
COMMENT ON COLUMN market.gaps.provider IS
    'missing: who answered without them a day or more after their end, by comma; healed: who delivered; '
    'quarantined: whose rows; holiday: empty.';
COMMENT ON COLUMN market.gaps.known_at IS
    'When the state was learned: of the last answer, or of the delivery; NULL where nobody was asked.';

-- What healing and backfills ask for again.
CREATE INDEX gaps_missing ON market.gaps (symbol, timeframe, ts) WHERE state = 'missing';

CREATE TABLE market.disagreements (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    provider text NOT NULL,
    other_provider text NOT NULL,
    close double precision NOT NULL,
    other_close double precision NOT NULL,
    tolerance double precision NOT NULL,
    known_at timestamptz NOT NULL,
    CONSTRAINT disagreements_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT disagreements_pkey PRIMARY KEY (symbol, timeframe, ts, provider, other_provider)
);

COMMENT ON TABLE market.disagreements IS
    'Bars whose close lies further from another provider''s than 3 times the hour''s median spread, or than 10 '
    'basis points where no spread is known.';
COMMENT ON COLUMN market.disagreements.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN market.disagreements.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN market.disagreements.ts IS
    'Open of the bar, UTC, inclusive; the bar covers [ts, ts + timeframe).';
COMMENT ON COLUMN market.disagreements.provider IS
    'Who delivered the bar: files, synthetic, or an API''s name.';
COMMENT ON COLUMN market.disagreements.other_provider IS
    'Who says otherwise.';
COMMENT ON COLUMN market.disagreements.close IS
    'Close of the bar. [quote currency or index points]';
COMMENT ON COLUMN market.disagreements.other_close IS
    'The other provider''s close. [quote currency or index points]';
COMMENT ON COLUMN market.disagreements.tolerance IS
    'What the two may differ by. [quote currency or index points]';
COMMENT ON COLUMN market.disagreements.known_at IS
    'When the later of the two was learned.';

CREATE TABLE market.failed_requests (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    provider text NOT NULL,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    transient boolean NOT NULL,
    message text NOT NULL,
    run_id text,
    CONSTRAINT failed_requests_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT failed_requests_pkey PRIMARY KEY (symbol, timeframe, provider, failed_at)
);

COMMENT ON TABLE market.failed_requests IS
    'Requests that a provider did not answer.';
COMMENT ON COLUMN market.failed_requests.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN market.failed_requests.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN market.failed_requests.provider IS
    'Who delivered the bar: files, synthetic, or an API''s name.';
COMMENT ON COLUMN market.failed_requests.range_start IS
    'Start of the asked range, inclusive.';
COMMENT ON COLUMN market.failed_requests.range_end IS
    'End of the asked range, exclusive.';
COMMENT ON COLUMN market.failed_requests.failed_at IS
    'When it failed.';
COMMENT ON COLUMN market.failed_requests.transient IS
    'Whether the same request may work later.';
COMMENT ON COLUMN market.failed_requests.message IS
    'What went wrong.';
COMMENT ON COLUMN market.failed_requests.run_id IS
    'The Dagster run that asked.';

-- Who was asked about a stretch of time: ranges are few and short beside the history, and most questions are about its
-- end.
CREATE INDEX deliveries_by_range ON market.deliveries (symbol, timeframe, range_end);
CREATE INDEX failed_requests_by_range ON market.failed_requests (symbol, timeframe, range_end);
