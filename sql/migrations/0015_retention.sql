-- How long rows are kept, and the training sets for whose sake they stay.

CREATE TABLE nexus.retention (
    table_name text NOT NULL,
    days bigint,
    dropped_before date,
    made_from date,
    changed_at timestamptz NOT NULL,
    CONSTRAINT retention_days_check CHECK (days >= 1),
    CONSTRAINT retention_pkey PRIMARY KEY (table_name)
);

COMMENT ON TABLE nexus.retention IS
    'How long the rows of a table are kept, and what was dropped.';
COMMENT ON COLUMN nexus.retention.table_name IS
    'schema.table.';
COMMENT ON COLUMN nexus.retention.days IS
    'The setting that was last accepted; NULL for ever. [days]';
COMMENT ON COLUMN nexus.retention.dropped_before IS
    'Earlier days were dropped, at least in part; NULL where none was.';
COMMENT ON COLUMN nexus.retention.made_from IS
    'Earlier days are not made again: they, or what they are made from, were dropped; NULL where none was.';
COMMENT ON COLUMN nexus.retention.changed_at IS
    'When this row last changed.';

CREATE TABLE nexus.pinned_sets (
    name text NOT NULL,
    symbols text NOT NULL,
    range_start timestamptz NOT NULL,
    range_end timestamptz NOT NULL,
    as_known timestamptz,
    prices_from date NOT NULL,
    features_from date,
    query text NOT NULL,
    content_hash text,
    pinned_at timestamptz NOT NULL,
    CONSTRAINT pinned_sets_range_check CHECK (range_start < range_end),
    CONSTRAINT pinned_sets_reads_check CHECK (as_known IS NOT NULL OR features_from IS NOT NULL),
    CONSTRAINT pinned_sets_pkey PRIMARY KEY (name)
);

COMMENT ON TABLE nexus.pinned_sets IS
    'Training sets that must stay possible to make again: no row that one of them reads is dropped.';
COMMENT ON COLUMN nexus.pinned_sets.name IS
    'As it was given to nexus export --pin.';
COMMENT ON COLUMN nexus.pinned_sets.symbols IS
    'Symbols whose rows it reads, separated by spaces.';
COMMENT ON COLUMN nexus.pinned_sets.range_start IS
    'First ts, inclusive.';
COMMENT ON COLUMN nexus.pinned_sets.range_end IS
    'End of ts, exclusive.';
COMMENT ON COLUMN nexus.pinned_sets.as_known IS
    'The instant as of which it is made; NULL for the newest corrections.';
COMMENT ON COLUMN nexus.pinned_sets.prices_from IS
    'First day of market.raw_ohlc that it is made from, warm-up included.';
COMMENT ON COLUMN nexus.pinned_sets.features_from IS
    'First day of the stored features, labels and correlations that it reads; NULL where it is made from prices alone.';
COMMENT ON COLUMN nexus.pinned_sets.query IS
    'The request as JSON, as in the manifest.';
COMMENT ON COLUMN nexus.pinned_sets.content_hash IS
    'As in the manifest; NULL where the export has not ended.';
COMMENT ON COLUMN nexus.pinned_sets.pinned_at IS
    'When it was pinned.';
