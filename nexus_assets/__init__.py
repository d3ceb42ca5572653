"""Market data as a Dagster asset graph: raw prices, validated bars, indicators, labels, correlations."""
