-- Weights by uniqueness. The table is rebuilt as a whole, so its rows get them at the next run.

ALTER TABLE features.dataset_splits
    ADD COLUMN uniqueness double precision,
    ADD CONSTRAINT dataset_splits_uniqueness_check CHECK (uniqueness > 0 AND uniqueness <= 1 + 1e-9);

COMMENT ON COLUMN features.dataset_splits.uniqueness IS
    'Weight of the label: mean of 1 / number of labels of the same symbol, timeframe and split that cover a bar, over '
    'its bars. [fraction]';
