-- Columnstore: needs the community edition of TimescaleDB. Applied at every migration; does nothing where it is done
-- already. Only raw_ohlc, which is append-only: the other tables are overwritten by slice. No retention policy: raw
-- revisions and bars are kept for ever.

DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM timescaledb_information.hypertables
        WHERE hypertable_schema = 'market' AND hypertable_name = 'raw_ohlc' AND compression_enabled
    ) THEN
        ALTER TABLE market.raw_ohlc SET (
            timescaledb.enable_columnstore = true,
            timescaledb.segmentby = 'symbol, timeframe, provider',
            timescaledb.orderby = 'ts DESC, delivery_id DESC'
        );
        CALL add_columnstore_policy('market.raw_ohlc', after => INTERVAL '180 days');
    END IF;
END
$$;
