-- Views over features.*. CREATE OR REPLACE only, applied at every migration.

CREATE OR REPLACE VIEW features.indicators_latest AS
WITH RECURSIVE series AS (
    -- From one key to the next by index, never over all rows.
    (SELECT symbol, timeframe FROM features.indicators ORDER BY symbol, timeframe LIMIT 1)
    UNION ALL
    SELECT following.symbol, following.timeframe
    FROM series
    CROSS JOIN LATERAL (
        SELECT i.symbol, i.timeframe
        FROM features.indicators AS i
        WHERE (i.symbol, i.timeframe) > (series.symbol, series.timeframe)
            -- The same once more: an index needs the first form, a columnstore the second.
            AND i.symbol >= series.symbol AND (i.symbol > series.symbol OR i.timeframe > series.timeframe)
        ORDER BY i.symbol, i.timeframe
        LIMIT 1
    ) AS following
)
SELECT newest.*
FROM series
CROSS JOIN LATERAL (
    SELECT i.*
    FROM features.indicators AS i
    WHERE i.symbol = series.symbol AND i.timeframe = series.timeframe
    ORDER BY i.ts DESC
    LIMIT 1
) AS newest;
COMMENT ON VIEW features.indicators_latest IS 'The newest indicators of each symbol and timeframe.';
