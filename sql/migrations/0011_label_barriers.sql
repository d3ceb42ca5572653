-- Labels by direction and by three barriers. Rows that are there get them when their slices are written again: the
-- version of the labels is raised with this migration.

ALTER TABLE features.labels
    ADD COLUMN volatility_50 double precision,
    ADD COLUMN direction_24h smallint,
    ADD COLUMN barrier text,
    ADD COLUMN barrier_label smallint,
    ADD COLUMN barrier_t1 timestamp with time zone,
    ADD COLUMN barrier_return double precision,
    ADD COLUMN barrier_net_return double precision,
    ADD COLUMN barrier_width double precision,
    ADD COLUMN barrier_ambiguous boolean,
    ADD COLUMN barrier_missing_reason text,
    ADD CONSTRAINT labels_volatility_50_check CHECK (volatility_50 >= -1e-9),
    ADD CONSTRAINT labels_direction_24h_check CHECK (direction_24h BETWEEN -1 AND 1),
    ADD CONSTRAINT labels_barrier_check CHECK (barrier IN ('profit', 'loss', 'time')),
    ADD CONSTRAINT labels_barrier_label_check CHECK (barrier_label BETWEEN -1 AND 1),
    ADD CONSTRAINT labels_barrier_width_check CHECK (barrier_width >= -1e-9),
    ADD CONSTRAINT labels_barrier_missing_reason_check CHECK (barrier_missing_reason IN ('no_volatility', 'no_exit_bar')),
    ADD CONSTRAINT labels_barrier_order_check CHECK (barrier_t1 > entry_at AND barrier_t1 <= horizon_end),
    ADD CONSTRAINT labels_barrier_reason_check CHECK (barrier IS NULL OR barrier_missing_reason IS NULL);

COMMENT ON COLUMN features.labels.volatility_50 IS
    'Standard deviation (ddof 1) of the last 50 log returns, of one bar, not annualised. [fraction]';
COMMENT ON COLUMN features.labels.direction_24h IS
    'Sign of forward_return_24h; 0 within a quarter of the volatility of the whole horizon.';
COMMENT ON COLUMN features.labels.barrier IS
    'Which barrier the price met first; profit and loss lie at the entry close x (1 + or - '
    'barrier_width).';
COMMENT ON COLUMN features.labels.barrier_label IS
    '1 for profit, -1 for loss, 0 for time.';
COMMENT ON COLUMN features.labels.barrier_t1 IS
    'End of the bar that met the barrier.';
COMMENT ON COLUMN features.labels.barrier_return IS
    'Exit price / entry close - 1: at the barrier, at the open of a bar that opens beyond it, or at the '
    'last close of the horizon. [fraction]';
COMMENT ON COLUMN features.labels.barrier_net_return IS
    'The same, bought on the ask and sold on the bid; NULL where a spread is not stored. [fraction]';
COMMENT ON COLUMN features.labels.barrier_width IS
    '4 x volatility_50. [fraction]';
COMMENT ON COLUMN features.labels.barrier_ambiguous IS
    'Both barriers lie in the deciding bar; it counts as the loss.';
COMMENT ON COLUMN features.labels.barrier_missing_reason IS
    'Why the barrier columns are NULL.';
