# One image for the webserver, the daemon, the code server and the migration.
FROM python:3.11.13-slim-bookworm

RUN useradd --system --create-home --home-dir /app --uid 10001 nexus
WORKDIR /app
COPY requirements.lock pyproject.toml README.md ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY nexus_assets nexus_assets
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && rm -rf nexus_assets build
COPY sql sql
COPY dagster.yaml sources.toml ./
COPY deploy/workspace.yaml deploy/workspace.yaml
RUN mkdir state && chown nexus state

ENV DAGSTER_HOME=/app NEXUS_ROOT=/app NEXUS_HOME=/app/state PYTHONUNBUFFERED=1
USER nexus
EXPOSE 3000 4000
CMD ["nexus", "--help"]
