-- Hypertables: needs TimescaleDB of any edition. Applied at every migration; does nothing where it is done already,
-- without taking a lock, and moves the rows of a table that was plain until now.
-- 90 days hold 37,000 hourly or 2.2 million minute rows of 24 symbols; ten years are 41 chunks. No default index: the
-- tables have their own.

SELECT create_hypertable(
    'market.raw_ohlc', by_range('ts', INTERVAL '90 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'market' AND hypertable_name = 'raw_ohlc'
);

SELECT create_hypertable(
    'market.bars', by_range('ts', INTERVAL '90 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'market' AND hypertable_name = 'bars'
);

SELECT create_hypertable(
    'market.quarantined_bars', by_range('ts', INTERVAL '365 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'market' AND hypertable_name = 'quarantined_bars'
);

SELECT create_hypertable(
    'features.indicators', by_range('ts', INTERVAL '90 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'features' AND hypertable_name = 'indicators'
);

SELECT create_hypertable(
    'features.labels', by_range('ts', INTERVAL '90 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'features' AND hypertable_name = 'labels'
);

SELECT create_hypertable(
    'features.dataset_splits', by_range('ts', INTERVAL '365 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'features' AND hypertable_name = 'dataset_splits'
);

SELECT create_hypertable(
    'analytics.correlation_matrix', by_range('day', INTERVAL '365 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'analytics' AND hypertable_name = 'correlation_matrix'
);

SELECT create_hypertable(
    'analytics.pair_rankings', by_range('day', INTERVAL '365 days'), create_default_indexes => false, migrate_data => true
)
WHERE NOT EXISTS (
    SELECT FROM timescaledb_information.hypertables
    WHERE hypertable_schema = 'analytics' AND hypertable_name = 'pair_rankings'
);
