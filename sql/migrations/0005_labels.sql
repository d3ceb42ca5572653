-- What happened after each bar.

CREATE TABLE features.labels (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    entry_at timestamptz NOT NULL,
    t1 timestamptz,
    horizon_end timestamptz NOT NULL,
    forward_return_24h double precision,
    missing_reason text,
    known_at timestamptz NOT NULL,
    code_version smallint NOT NULL,
    CONSTRAINT labels_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT labels_missing_reason_check CHECK (missing_reason IN ('no_exit_bar')),
    CONSTRAINT labels_horizon_check CHECK (entry_at > ts AND horizon_end >= entry_at AND t1 <= horizon_end),
    CONSTRAINT labels_reason_check CHECK (forward_return_24h IS NULL OR missing_reason IS NULL),
    CONSTRAINT labels_pkey PRIMARY KEY (symbol, timeframe, ts)
);

-- All symbols at one ts.
CREATE INDEX labels_by_ts ON features.labels (ts, timeframe);

COMMENT ON TABLE features.labels IS
    'What happened in the 24 open market hours after each bar. A row exists only once its whole horizon has passed.';
COMMENT ON COLUMN features.labels.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN features.labels.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN features.labels.ts IS
    'Open of the bar, UTC, inclusive; the bar covers [ts, ts + timeframe).';
COMMENT ON COLUMN features.labels.entry_at IS
    'When the position would be opened: ts + timeframe.';
COMMENT ON COLUMN features.labels.t1 IS
    'End of the bar that decided the label; purging uses [entry_at, t1].';
COMMENT ON COLUMN features.labels.horizon_end IS
    'entry_at advanced by 24 open hours; the label is visible from then on.';
COMMENT ON COLUMN features.labels.forward_return_24h IS
    'Exit close / entry close - 1. [fraction]';
COMMENT ON COLUMN features.labels.missing_reason IS
    'Why forward_return_24h is NULL.';
COMMENT ON COLUMN features.labels.known_at IS
    'Latest known_at of the bars this row was computed from.';
COMMENT ON COLUMN features.labels.code_version IS
    'Version of the code that computed the row.';
