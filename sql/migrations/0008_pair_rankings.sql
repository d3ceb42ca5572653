-- Pairs ranked by correlation, by day.

CREATE TABLE analytics.pair_rankings (
    day date NOT NULL,
    timeframe text NOT NULL,
    rank smallint NOT NULL,
    symbol_a text NOT NULL,
    symbol_b text NOT NULL,
    correlation double precision NOT NULL,
    standard_error double precision NOT NULL,
    change_7d double precision,
    category text NOT NULL,
    reason text NOT NULL,
    known_at timestamptz NOT NULL,
    code_version smallint NOT NULL,
    CONSTRAINT pair_rankings_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT pair_rankings_category_check CHECK (category IN ('uncorrelated', 'negative', 'moderate', 'high')),
    CONSTRAINT pair_rankings_order_check CHECK (symbol_a < symbol_b),
    CONSTRAINT pair_rankings_rank_check CHECK (rank >= 1),
    CONSTRAINT pair_rankings_pkey PRIMARY KEY (day, timeframe, symbol_a, symbol_b)
);

COMMENT ON TABLE analytics.pair_rankings IS
    'Pairs ranked from the best diversifier to the worst, with a category and a reason in words.';
COMMENT ON COLUMN analytics.pair_rankings.day IS
    'UTC day of the correlations.';
COMMENT ON COLUMN analytics.pair_rankings.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN analytics.pair_rankings.rank IS
    '1 is the pair with the smallest absolute correlation.';
COMMENT ON COLUMN analytics.pair_rankings.symbol_a IS
    'First symbol of the pair, in alphabetical order.';
COMMENT ON COLUMN analytics.pair_rankings.symbol_b IS
    'Second symbol of the pair.';
COMMENT ON COLUMN analytics.pair_rankings.correlation IS
    'As in correlation_matrix. [fraction]';
COMMENT ON COLUMN analytics.pair_rankings.standard_error IS
    'As in correlation_matrix. [fraction]';
COMMENT ON COLUMN analytics.pair_rankings.change_7d IS
    'Correlation less that of the newest row at least 7 days older. [fraction]';
COMMENT ON COLUMN analytics.pair_rankings.category IS
    'uncorrelated (diversification), negative (hedging), moderate, high (avoid).';
COMMENT ON COLUMN analytics.pair_rankings.reason IS
    'The category in words, with the numbers behind it.';
COMMENT ON COLUMN analytics.pair_rankings.known_at IS
    'Latest known_at of the bars this row was computed from.';
COMMENT ON COLUMN analytics.pair_rankings.code_version IS
    'Version of the code that computed the row.';
