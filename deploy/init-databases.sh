#!/bin/bash
# Run once by the database image, on an empty volume: two roles and two databases, TimescaleDB in the market's.
set -euo pipefail
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" \
    -v nexus_password="$NEXUS_DB_PASSWORD" -v dagster_password="$DAGSTER_DB_PASSWORD" <<'SQL'
CREATE ROLE nexus LOGIN PASSWORD :'nexus_password';
CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE DATABASE nexus OWNER nexus;
CREATE DATABASE dagster OWNER dagster;
\connect nexus
CREATE EXTENSION IF NOT EXISTS timescaledb;
SQL
