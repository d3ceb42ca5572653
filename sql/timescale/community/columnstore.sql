-- Columnstore: needs the community edition of TimescaleDB. Applied at every migration; does nothing where it is done
-- already, and leaves alone what somebody set otherwise.
-- These tables grow with every bar. A correction unpacks only the batches that hold its rows, at most 1,000 rows of one
-- symbol and timeframe each, so rows of any age can be corrected: raw_ohlc by appending, the others by overwriting
-- slices. 31 days of a symbol at all six timeframes are at most 70,000 unpacked rows; the edition refuses more than
-- 100,000 in one statement. The policy packs again what was unpacked, and leaves the last 180 days as they are.

DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('market.raw_ohlc', 'symbol, timeframe, provider', 'ts DESC, delivery_id DESC'),
            ('market.bars', 'symbol, timeframe', 'ts DESC'),
            ('features.indicators', 'symbol, timeframe', 'ts DESC'),
            ('features.labels', 'symbol, timeframe', 'ts DESC')
        ) AS tables (name, segmentby, orderby)
        WHERE NOT EXISTS (
            SELECT FROM timescaledb_information.hypertables
            WHERE hypertable_schema || '.' || hypertable_name = tables.name AND compression_enabled
        )
    LOOP
        EXECUTE format(
            'ALTER TABLE %s SET (timescaledb.enable_columnstore = true, timescaledb.segmentby = %L, '
            'timescaledb.orderby = %L)',
            wanted.name, wanted.segmentby, wanted.orderby
        );
        CALL add_columnstore_policy(wanted.name::regclass, after => INTERVAL '180 days');
    END LOOP;
END
$$;
