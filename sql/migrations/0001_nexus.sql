-- Schemas, and what the migrations themselves keep.

CREATE SCHEMA nexus;
COMMENT ON SCHEMA nexus IS 'What this installation is: applied migrations and facts that may not change.';
CREATE SCHEMA market;
COMMENT ON SCHEMA market IS 'Prices: as delivered, validated, quarantined.';
CREATE SCHEMA features;
COMMENT ON SCHEMA features IS 'What a model is trained on and served with.';
CREATE SCHEMA analytics;
COMMENT ON SCHEMA analytics IS 'Relations between symbols.';

CREATE TABLE nexus.schema_migrations (
    version integer NOT NULL,
    file text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schema_migrations_pkey PRIMARY KEY (version),
    CONSTRAINT schema_migrations_version_check CHECK (version >= 1)
);
COMMENT ON TABLE nexus.schema_migrations IS 'Migrations that were applied, with the checksum of the file.';
COMMENT ON COLUMN nexus.schema_migrations.version IS 'Number that the file name starts with.';
COMMENT ON COLUMN nexus.schema_migrations.file IS 'File name in sql/migrations.';
COMMENT ON COLUMN nexus.schema_migrations.checksum IS 'SHA-256 of the file, line ends as LF [hex]';
COMMENT ON COLUMN nexus.schema_migrations.applied_at IS 'When it was applied, by the database clock.';

CREATE TABLE nexus.meta (
    key text NOT NULL,
    value text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT meta_pkey PRIMARY KEY (key),
    CONSTRAINT meta_key_check CHECK (key IN ('first_day', 'symbols'))
);
COMMENT ON TABLE nexus.meta IS 'Facts that partitions depend on: the first day, which moves only backwards, and the '
    'order of the symbols, which is only appended to.';
COMMENT ON COLUMN nexus.meta.key IS 'first_day (ISO date) or symbols (names in the order of the partitions).';
COMMENT ON COLUMN nexus.meta.value IS 'The fact as text.';
COMMENT ON COLUMN nexus.meta.changed_at IS 'When it last changed, by the database clock.';
