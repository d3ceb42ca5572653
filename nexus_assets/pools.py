"""The pool that bounds how many runs write at a time. Imported by every process of Dagster, so it imports nothing."""

WRITERS = "market_writers"
"""The pool of every run that writes to the market's tables; dagster.yaml says how many of them work at a time."""
