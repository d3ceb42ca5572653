-- Views and functions over market.*. CREATE OR REPLACE only, applied at every migration; a migration that changes the
-- columns of a view drops it first.

CREATE OR REPLACE FUNCTION market.bar_length(timeframe text) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE timeframe
    WHEN '1m' THEN INTERVAL '1 minute'
    WHEN '5m' THEN INTERVAL '5 minutes'
    WHEN '15m' THEN INTERVAL '15 minutes'
    WHEN '1h' THEN INTERVAL '1 hour'
    WHEN '4h' THEN INTERVAL '4 hours'
    WHEN '1d' THEN INTERVAL '24 hours'
END;
COMMENT ON FUNCTION market.bar_length(text) IS 'Nominal length of a bar; NULL for an unknown timeframe.';

CREATE OR REPLACE FUNCTION market.bar_day(timeframe text, ts timestamptz) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ((ts AT TIME ZONE 'UTC') + market.bar_length(timeframe) - INTERVAL '1 microsecond')::date;
COMMENT ON FUNCTION market.bar_day(text, timestamptz) IS
    'The UTC day that a bar belongs to: the one in which it ends, an end at 00:00 counting to the day before.';

-- Its former name.
DROP VIEW IF EXISTS market.raw_ohlc_newest;

CREATE OR REPLACE VIEW market.raw_ohlc_as_corrected AS
SELECT newest.*
FROM (
    -- Descending throughout, so that the primary key is read backwards without a sort.
    SELECT DISTINCT ON (symbol, timeframe, ts, provider) *
    FROM market.raw_ohlc
    ORDER BY symbol DESC, timeframe DESC, ts DESC, provider DESC, delivery_id DESC
) AS newest
WHERE NOT newest.withdrawn;
COMMENT ON VIEW market.raw_ohlc_as_corrected IS
    'Raw bars as corrected: the newest revision of each symbol, timeframe, ts and provider; withdrawn bars are left out.';

CREATE OR REPLACE FUNCTION market.raw_ohlc_as_known(instant timestamptz, assume_published interval DEFAULT NULL)
RETURNS SETOF market.raw_ohlc
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT newest.*
    FROM (
        SELECT DISTINCT ON (symbol, timeframe, ts, provider) *
        FROM market.raw_ohlc
        WHERE known_at <= instant OR (backfilled AND ts + market.bar_length(timeframe) + assume_published <= instant)
        ORDER BY symbol DESC, timeframe DESC, ts DESC, provider DESC, delivery_id DESC
    ) AS newest
    WHERE NOT newest.withdrawn;
END;
COMMENT ON FUNCTION market.raw_ohlc_as_known(timestamptz, interval) IS
    'Raw bars as they were known at an instant: of each symbol, timeframe, ts and provider the newest revision that had '
    'been learned by then. With assume_published, bars that were first delivered long after their end count as learned '
    'that long after it.';

CREATE OR REPLACE FUNCTION market.raw_ohlc_as_served(latency interval, assume_published interval DEFAULT NULL)
RETURNS SETOF market.raw_ohlc
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT newest.*
    FROM (
        SELECT DISTINCT ON (symbol, timeframe, ts, provider) *
        FROM market.raw_ohlc
        WHERE known_at <= ts + market.bar_length(timeframe) + latency OR (backfilled AND assume_published <= latency)
        ORDER BY symbol DESC, timeframe DESC, ts DESC, provider DESC, delivery_id DESC
    ) AS newest
    WHERE NOT newest.withdrawn;
END;
COMMENT ON FUNCTION market.raw_ohlc_as_served(interval, interval) IS
    'Raw bars as they were known at their own decision time, the end of the bar and a latency: of each symbol, '
    'timeframe, ts and provider the newest revision that had been learned by then. assume_published as for '
    'raw_ohlc_as_known.';

CREATE OR REPLACE VIEW market.bars_latest AS
WITH RECURSIVE series AS (
    -- From one key to the next by index, never over all rows.
    (SELECT symbol, timeframe FROM market.bars ORDER BY symbol, timeframe LIMIT 1)
    UNION ALL
    SELECT following.symbol, following.timeframe
    FROM series
    CROSS JOIN LATERAL (
        SELECT b.symbol, b.timeframe
        FROM market.bars AS b
        WHERE (b.symbol, b.timeframe) > (series.symbol, series.timeframe)
            -- The same once more: an index needs the first form, a columnstore the second.
            AND b.symbol >= series.symbol AND (b.symbol > series.symbol OR b.timeframe > series.timeframe)
        ORDER BY b.symbol, b.timeframe
        LIMIT 1
    ) AS following
)
SELECT newest.*
FROM series
CROSS JOIN LATERAL (
    SELECT b.*
    FROM market.bars AS b
    WHERE b.symbol = series.symbol AND b.timeframe = series.timeframe
    ORDER BY b.ts DESC
    LIMIT 1
) AS newest;
COMMENT ON VIEW market.bars_latest IS 'The newest bar of each symbol and timeframe.';

CREATE OR REPLACE VIEW market.delivery_totals AS
SELECT
    totals.*,
    (
        SELECT count(*)
        FROM market.raw_ohlc AS r
        WHERE r.symbol = totals.symbol AND r.timeframe = totals.timeframe AND r.provider = totals.provider
            AND NOT r.withdrawn
    ) AS stored
FROM (
    SELECT
        symbol, timeframe, provider,
        count(*) AS deliveries,
        sum(delivered)::bigint AS delivered,
        sum(new)::bigint AS new,
        sum(changed)::bigint AS changed,
        sum(unchanged)::bigint AS unchanged,
        sum(quarantined)::bigint AS quarantined,
        min(known_at) AS first_known_at,
        max(known_at) AS last_known_at
    FROM market.deliveries
    GROUP BY symbol, timeframe, provider
) AS totals;
COMMENT ON VIEW market.delivery_totals IS
    'Deliveries summed by symbol, timeframe and provider. delivered = new + changed + unchanged + quarantined, and '
    'stored (rows in market.raw_ohlc) = new + changed.';

CREATE OR REPLACE VIEW market.coverage AS
SELECT
    symbol,
    timeframe,
    market.bar_day(timeframe, ts) AS day,
    count(*) AS bars,
    sum(bars_present)::bigint AS base_bars_present,
    sum(bars_expected)::bigint AS base_bars_expected,
    count(suspect) AS suspects,
    min(ts) AS first_ts,
    max(ts) AS last_ts,
    max(known_at) AS known_at
FROM market.bars
GROUP BY symbol, timeframe, market.bar_day(timeframe, ts);
COMMENT ON VIEW market.coverage IS
    'Bars per symbol, timeframe and UTC day (the day in which a bar ends). A bar that is missing altogether is not '
    'counted in base_bars_expected: only the trading calendar knows of it.';

CREATE OR REPLACE VIEW market.gap_days AS
WITH marked AS (
    SELECT
        symbol,
        timeframe,
        market.bar_day(timeframe, ts) AS day,
        coalesce(sum(bars) FILTER (WHERE state = 'missing'), 0)::bigint AS missing,
        coalesce(sum(bars) FILTER (WHERE state = 'missing' AND reason <> 'provider_has_none'), 0)::bigint AS worth_asking,
        coalesce(sum(bars) FILTER (WHERE state = 'quarantined'), 0)::bigint AS quarantined,
        coalesce(sum(bars) FILTER (WHERE state = 'healed'), 0)::bigint AS healed,
        coalesce(sum(bars) FILTER (WHERE state = 'holiday'), 0)::bigint AS holiday
    FROM market.gaps
    GROUP BY symbol, timeframe, market.bar_day(timeframe, ts)
),
there AS (
    SELECT symbol, timeframe, market.bar_day(timeframe, ts) AS day, count(*) FILTER (WHERE bars_expected > 0) AS present
    FROM market.bars AS b
    -- Gaps are kept for the timeframe that providers deliver; rolled-up bars have none of their own.
    WHERE EXISTS (SELECT FROM market.deliveries AS d WHERE d.symbol = b.symbol AND d.timeframe = b.timeframe)
    GROUP BY symbol, timeframe, market.bar_day(timeframe, ts)
)
SELECT
    symbol,
    timeframe,
    day,
    coalesce(present, 0) + coalesce(missing, 0) + coalesce(quarantined, 0) AS expected,
    coalesce(present, 0) AS present,
    coalesce(missing, 0) AS missing,
    coalesce(worth_asking, 0) AS worth_asking,
    coalesce(quarantined, 0) AS quarantined,
    coalesce(healed, 0) AS healed,
    coalesce(holiday, 0) AS holiday
FROM there FULL JOIN marked USING (symbol, timeframe, day);
COMMENT ON VIEW market.gap_days IS
    'Bars of the base timeframe per symbol and UTC day: expected = present + missing + quarantined. healed bars are '
    'among those present; worth_asking are missing bars that a provider may still have; holiday bars are not expected.';
