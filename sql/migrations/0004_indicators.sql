-- Indicators, one row per bar.

CREATE TABLE features.indicators (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    ts timestamptz NOT NULL,
    sma_15 double precision,
    sma_30 double precision,
    sma_50 double precision,
    ema_12 double precision,
    ema_26 double precision,
    macd double precision,
    macd_signal double precision,
    macd_hist double precision,
    adx_14 double precision,
    plus_di_14 double precision,
    minus_di_14 double precision,
    aroon_osc_25 double precision,
    rsi_14 double precision,
    stoch_k double precision,
    stoch_d double precision,
    cci_20 double precision,
    willr_14 double precision,
    roc_10 double precision,
    mom_10 double precision,
    mfi_14 double precision,
    ultosc double precision,
    hv_20 double precision,
    hv_50 double precision,
    atr_14 double precision,
    natr_14 double precision,
    bb_upper double precision,
    bb_middle double precision,
    bb_lower double precision,
    bb_width double precision,
    bb_percent_b double precision,
    log_return double precision,
    return_zscore_50 double precision,
    slice_start timestamptz,
    known_at timestamptz NOT NULL,
    code_version smallint NOT NULL,
    CONSTRAINT indicators_timeframe_check CHECK (timeframe IN ('1m', '5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT indicators_pkey PRIMARY KEY (symbol, timeframe, ts)
);

-- All symbols at one ts. One symbol over a range, and its latest rows, are served by the primary key.
CREATE INDEX indicators_by_ts ON features.indicators (ts, timeframe);

COMMENT ON TABLE features.indicators IS
    '32 indicators per bar, each day computed on exactly the 250 accepted bars before it plus its own.';
COMMENT ON COLUMN features.indicators.symbol IS
    'Generic instrument name, such as EURUSD.';
COMMENT ON COLUMN features.indicators.timeframe IS
    'Length of the bar.';
COMMENT ON COLUMN features.indicators.ts IS
    'Open of the bar, UTC, inclusive; the bar covers [ts, ts + timeframe).';
COMMENT ON COLUMN features.indicators.sma_15 IS
    'Mean of the last 15 closes. [price]';
COMMENT ON COLUMN features.indicators.sma_30 IS
    'Mean of the last 30 closes. [price]';
COMMENT ON COLUMN features.indicators.sma_50 IS
    'Mean of the last 50 closes. [price]';
COMMENT ON COLUMN features.indicators.ema_12 IS
    'Exponential mean of closes, span 12. [price]';
COMMENT ON COLUMN features.indicators.ema_26 IS
    'Exponential mean of closes, span 26. [price]';
COMMENT ON COLUMN features.indicators.macd IS
    'Exponential mean of 12 closes less that of 26. [price]';
COMMENT ON COLUMN features.indicators.macd_signal IS
    'Exponential mean of 9 values of macd. [price]';
COMMENT ON COLUMN features.indicators.macd_hist IS
    'macd less macd_signal. [price]';
COMMENT ON COLUMN features.indicators.adx_14 IS
    'Strength of a trend, whatever its direction. [index]';
COMMENT ON COLUMN features.indicators.plus_di_14 IS
    'Upward directional movement as a share of the true range. [index]';
COMMENT ON COLUMN features.indicators.minus_di_14 IS
    'Downward directional movement as a share of the true range. [index]';
COMMENT ON COLUMN features.indicators.aroon_osc_25 IS
    'Bars since the highest high against bars since the lowest low, over 25 bars. [index]';
COMMENT ON COLUMN features.indicators.rsi_14 IS
    'Mean gain as a share of mean gain and mean loss, 14 bars, Wilder''s smoothing. [index]';
COMMENT ON COLUMN features.indicators.stoch_k IS
    'Close within the range of 14 bars, smoothed over 3. [index]';
COMMENT ON COLUMN features.indicators.stoch_d IS
    'Mean of 3 values of stoch_k. [index]';
COMMENT ON COLUMN features.indicators.cci_20 IS
    'Typical price less its mean of 20, in multiples of 0.015 mean absolute deviations. [index]';
COMMENT ON COLUMN features.indicators.willr_14 IS
    'Distance of the close below the highest high of 14 bars, as a share of their range. [index]';
COMMENT ON COLUMN features.indicators.roc_10 IS
    'Change over 10 bars. [percent]';
COMMENT ON COLUMN features.indicators.mom_10 IS
    'Close less the close 10 bars before. [price]';
COMMENT ON COLUMN features.indicators.mfi_14 IS
    'Share of positive money flow over 14 bars; NULL unless the bars have one kind of volume. [index]';
COMMENT ON COLUMN features.indicators.ultosc IS
    'Buying pressure over 7, 14 and 28 bars, weighted 4:2:1. [index]';
COMMENT ON COLUMN features.indicators.hv_20 IS
    'Volatility of the last 20 log returns. [annualised fraction]';
COMMENT ON COLUMN features.indicators.hv_50 IS
    'Volatility of the last 50 log returns. [annualised fraction]';
COMMENT ON COLUMN features.indicators.atr_14 IS
    'Mean true range, 14 bars. [price]';
COMMENT ON COLUMN features.indicators.natr_14 IS
    'atr_14 as a percentage of the close. [percent]';
COMMENT ON COLUMN features.indicators.bb_upper IS
    'bb_middle plus 2 standard deviations (ddof 0). [price]';
COMMENT ON COLUMN features.indicators.bb_middle IS
    'Mean of the last 20 closes. [price]';
COMMENT ON COLUMN features.indicators.bb_lower IS
    'bb_middle less 2 standard deviations (ddof 0). [price]';
COMMENT ON COLUMN features.indicators.bb_width IS
    'Width of the band relative to its middle. [fraction]';
COMMENT ON COLUMN features.indicators.bb_percent_b IS
    'Close within the band: 0 at the lower edge, 1 at the upper; NULL where the band has no width. [fraction]';
COMMENT ON COLUMN features.indicators.log_return IS
    'Log return of the bar against the accepted bar before it. [fraction]';
COMMENT ON COLUMN features.indicators.return_zscore_50 IS
    'Log return in standard deviations of the last 50; NULL where they do not vary. [index]';
COMMENT ON COLUMN features.indicators.slice_start IS
    'ts of the first bar of the slice this day was computed on.';
COMMENT ON COLUMN features.indicators.known_at IS
    'Latest known_at of the bars this row was computed from.';
COMMENT ON COLUMN features.indicators.code_version IS
    'Version of the code that computed the row.';
