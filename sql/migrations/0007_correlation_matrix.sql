-- Correlation of each pair of symbols, by day.

CREATE TABLE analytics.correlation_matrix (
    day date NOT NULL,
    timeframe text NOT NULL,
    symbol_a text NOT NULL,
    symbol_b text NOT NULL,
    window_bars smallint NOT NULL,
    correlation double precision,
    n smallint NOT NULL,
    standard_error double precision,
    window_start timestamptz,
    window_end timestamptz,
    known_at timestamptz NOT NULL,
    code_version smallint NOT NULL,
    CONSTRAINT correlation_matrix_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT correlation_matrix_order_check CHECK (symbol_a < symbol_b),
    CONSTRAINT correlation_matrix_bounds_check CHECK (correlation BETWEEN -1.000000002 AND 1.000000002),
    CONSTRAINT correlation_matrix_pkey PRIMARY KEY (day, timeframe, symbol_a, symbol_b)
);

COMMENT ON TABLE analytics.correlation_matrix IS
    'Correlation of hourly log returns of each pair over its last 100 common bars; pairs with symbol_a < '
    'symbol_b. The row of a day is known at the next day''s 00:00 UTC. The full matrix is the view '
    'analytics.correlation_square.';
COMMENT ON COLUMN analytics.correlation_matrix.day IS
    'UTC day at whose end the window ends.';
COMMENT ON COLUMN analytics.correlation_matrix.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN analytics.correlation_matrix.symbol_a IS
    'First symbol of the pair, in alphabetical order.';
COMMENT ON COLUMN analytics.correlation_matrix.symbol_b IS
    'Second symbol of the pair.';
COMMENT ON COLUMN analytics.correlation_matrix.window_bars IS
    'Log returns asked for. [bars]';
COMMENT ON COLUMN analytics.correlation_matrix.correlation IS
    'Pearson correlation of the log returns; NULL where the window is not full. [fraction]';
COMMENT ON COLUMN analytics.correlation_matrix.n IS
    'Log returns that were there. [bars]';
COMMENT ON COLUMN analytics.correlation_matrix.standard_error IS
    '(1 - correlation^2) / sqrt(n - 1). [fraction]';
COMMENT ON COLUMN analytics.correlation_matrix.window_start IS
    'ts of the first common close.';
COMMENT ON COLUMN analytics.correlation_matrix.window_end IS
    'ts of the last common close.';
COMMENT ON COLUMN analytics.correlation_matrix.known_at IS
    'Latest known_at of the bars this row was computed from.';
COMMENT ON COLUMN analytics.correlation_matrix.code_version IS
    'Version of the code that computed the row.';
