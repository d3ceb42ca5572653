-- What a slice followed from besides rows: a change of the calendar, or of the order of providers, makes it stale.

ALTER TABLE nexus.slices ADD COLUMN inputs text NOT NULL DEFAULT '';

COMMENT ON COLUMN nexus.slices.inputs IS
    'Fingerprint of the calendar, the providers'' order and the settings that the rows follow from; empty where they '
    'follow from other tables alone.';
