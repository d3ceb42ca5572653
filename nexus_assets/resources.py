"""What assets, checks and sensors are given: the stored market, the feature store, the sources of prices.

What belongs here: building concrete objects from the settings, when a run needs them and not at import.
"""

from typing import TYPE_CHECKING

import dagster as dg

from nexus_assets.database import Database
from nexus_assets.errors import SettingsError
from nexus_assets.feature_store import FeatureStore
from nexus_assets.market_store import MarketStore
from nexus_assets.providers.connections import Access, Connections
from nexus_assets.providers.registry import Sources, load_sources
from nexus_assets.settings import SERVICES, Settings, project_root, settings

if TYPE_CHECKING:
    from nexus_assets.providers.http import HttpLimits


def open_market_store(config: Settings) -> MarketStore:
    """The database of NEXUS_DATABASE_URL.

    Raises:
        SettingsError: the setting is missing.
    """
    if config.database_url is None:
        raise SettingsError(
            "NEXUS_DATABASE_URL is not set.", next_step="Run `nexus up`, which writes .env, or set it yourself."
        )
    return MarketStore(Database(config.database_url.get_secret_value()))


def open_dagster_database(config: Settings) -> Database:
    """The database of NEXUS_DAGSTER_URL, for what Dagster itself has no call for.

    Raises:
        SettingsError: the setting is missing.
    """
    if config.dagster_url is None:
        raise SettingsError(
            "NEXUS_DAGSTER_URL is not set.", next_step="Run `nexus up`, which writes .env, or set it yourself."
        )
    url = config.dagster_url.get_secret_value()
    return Database(url.replace("postgresql+psycopg2://", "postgresql://", 1))


def open_feature_store(config: Settings) -> FeatureStore:
    """The Redis of NEXUS_REDIS_URL.

    Raises:
        SettingsError: the setting is missing.
    """
    if config.redis_url is None:
        raise SettingsError(
            "NEXUS_REDIS_URL is not set.", next_step="Run `nexus up`, which writes .env, or set it yourself."
        )
    return FeatureStore(config.redis_url.get_secret_value(), serving_timeframe=config.serving_timeframe)


def open_connections(config: Settings, limits: "HttpLimits | None" = None) -> Connections:
    """How the market-data services are reached with these settings; `limits` say how patiently."""
    keys = {
        "oanda": config.oanda_api_key,
        "eodhd": config.eodhd_api_token,
        "alpha_vantage": config.alphavantage_api_key,
        "twelve_data": config.twelvedata_api_key,
        "polygon": config.polygon_api_key,
    }
    access = {
        name: Access(
            key=keys.get(name),
            account_id=config.oanda_account_id if name == "oanda" else None,
            url=getattr(config, f"{name}_url"),
            budget=getattr(config, f"{name}_budget"),
        )
        for name in SERVICES
    }
    return Connections(access, config.redis_url, limits=limits)


def open_sources(config: Settings) -> Sources:
    """The providers that sources.toml declares, and services that have a key where it declares none."""
    return load_sources(config.sources or project_root() / "sources.toml", config.files_root, open_connections(config))


@dg.resource(description="The TimescaleDB or PostgreSQL database that holds the market.")
def market_store(_context: dg.InitResourceContext) -> MarketStore:
    """Opened once per run or sensor tick."""
    return open_market_store(settings())


@dg.resource(description="The Redis that serves the newest features.")
def feature_store(_context: dg.InitResourceContext) -> FeatureStore:
    """Opened once per run or sensor tick."""
    return open_feature_store(settings())


@dg.resource(description="The providers of raw prices, by symbol, as sources.toml declares them.")
def sources(_context: dg.InitResourceContext) -> Sources:
    """Read once per run, so that parsed files are shared by its slices."""
    return open_sources(settings())
