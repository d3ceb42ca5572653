-- Views over analytics.*. CREATE OR REPLACE only, applied at every migration.

CREATE OR REPLACE VIEW analytics.correlation_square AS
SELECT day, timeframe, symbol_a, symbol_b, correlation, n, window_start, window_end, known_at
FROM analytics.correlation_matrix
UNION ALL
SELECT day, timeframe, symbol_b, symbol_a, correlation, n, window_start, window_end, known_at
FROM analytics.correlation_matrix
UNION ALL
SELECT
    day, timeframe, member.symbol, member.symbol,
    1.0::double precision, max(n), min(window_start), max(window_end), max(known_at)
FROM analytics.correlation_matrix
CROSS JOIN LATERAL (VALUES (symbol_a), (symbol_b)) AS member (symbol)
GROUP BY day, timeframe, member.symbol;
COMMENT ON VIEW analytics.correlation_square IS
    'The whole symmetric matrix of each day and timeframe, with its diagonal of ones (there n and window are those of '
    'the longest of the symbol''s pairs); analytics.correlation_matrix holds each pair once.';
