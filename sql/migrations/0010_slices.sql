-- What was written when.

CREATE TABLE nexus.slices (
    table_name text NOT NULL,
    symbol text NOT NULL,
    day date NOT NULL,
    written_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    rows bigint NOT NULL,
    complete boolean NOT NULL,
    code_version smallint NOT NULL,
    CONSTRAINT slices_pkey PRIMARY KEY (table_name, symbol, day)
);

COMMENT ON TABLE nexus.slices IS
    'What was written when: one row per table, symbol and day. Backfills and healing decide from it.';
COMMENT ON COLUMN nexus.slices.table_name IS
    'schema.table of the asset.';
COMMENT ON COLUMN nexus.slices.symbol IS
    'The symbol; empty for tables that hold all symbols of a day.';
COMMENT ON COLUMN nexus.slices.day IS
    'The UTC day.';
COMMENT ON COLUMN nexus.slices.written_at IS
    'When the slice was last written, or found unchanged.';
COMMENT ON COLUMN nexus.slices.changed_at IS
    'When the content of the slice last changed.';
COMMENT ON COLUMN nexus.slices.rows IS
    'Rows in the slice. [rows]';
COMMENT ON COLUMN nexus.slices.complete IS
    'False while the day is not over, or labels wait for their horizon.';
COMMENT ON COLUMN nexus.slices.code_version IS
    'Version of the code that wrote it.';
