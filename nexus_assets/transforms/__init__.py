"""The arithmetic: pure functions on frames and arrays; no Dagster, no I/O, no clock."""
