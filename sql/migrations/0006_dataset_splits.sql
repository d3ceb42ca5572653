-- Which labels belong to training, validation and test.

CREATE TABLE features.dataset_splits (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    entry_at timestamptz NOT NULL,
    t1 timestamptz NOT NULL,
    split text NOT NULL,
    known_at timestamptz NOT NULL,
    code_version smallint NOT NULL,
    CONSTRAINT dataset_splits_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT dataset_splits_split_check CHECK (split IN ('train', 'validation', 'test', 'purged', 'embargoed')),
    CONSTRAINT dataset_splits_entry_check CHECK (entry_at > ts),
    CONSTRAINT dataset_splits_pkey PRIMARY KEY (symbol, timeframe, ts)
);

-- All symbols of one split, in time.
CREATE INDEX dataset_splits_by_split ON features.dataset_splits (timeframe, split, ts);

COMMENT ON TABLE features.dataset_splits IS
    'Which labels belong to training, validation and test, purged and embargoed.';
COMMENT ON COLUMN features.dataset_splits.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN features.dataset_splits.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN features.dataset_splits.ts IS
    'Open of the bar, UTC, inclusive; the bar covers [ts, ts + timeframe).';
COMMENT ON COLUMN features.dataset_splits.entry_at IS
    'As in features.labels.';
COMMENT ON COLUMN features.dataset_splits.t1 IS
    'As in features.labels.';
COMMENT ON COLUMN features.dataset_splits.split IS
    'Where the label may be used.';
COMMENT ON COLUMN features.dataset_splits.known_at IS
    'Latest known_at of the bars this row was computed from.';
COMMENT ON COLUMN features.dataset_splits.code_version IS
    'Version of the code that computed the row.';
