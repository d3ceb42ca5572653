"""The environment, typed. The only reader of NEXUS_* variables.

A `.env` file in the project root wins over the shell, because `dagster dev` loads it that way and every entry
point must see the same values; `nexus doctor` names what differs.
"""

import os
import re
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from nexus_assets import instruments
from nexus_assets.errors import NexusError, SettingsError
from nexus_assets.timeframes import SESSION_ALIGNED, TIMEFRAMES, Timeframe, minutes

MAX_PARTITIONS = 100_000
"""Dagster's advice for one asset; beyond it the UI and the daemon become slow."""

Listed = Annotated[tuple[str, ...], NoDecode]


def _days(value: Any) -> Any:
    """`365` or `365 days`; nothing for ever."""
    if isinstance(value, str):
        text = value.strip()
        return (text.removesuffix("days").removesuffix("day").strip() or value) if text else None
    return value


Retention = Annotated[Annotated[int, Field(ge=1, le=36_500)] | None, BeforeValidator(_days)]
"""Days for which rows are kept; None for ever."""
TimeframeList = Annotated[tuple[Timeframe, ...], NoDecode]

SERVICES = ("oanda", "eodhd", "yahoo", "alpha_vantage", "twelve_data", "polygon")
"""The market-data services that have settings of their own."""


def _also_called(name: str, description: str) -> Any:
    """A secret that users may already have under a name without NEXUS_."""
    return Field(None, validation_alias=AliasChoices(f"NEXUS_{name}", name), description=description)


def project_root() -> Path:
    """The folder that holds sql/ and dagster.yaml: NEXUS_ROOT, else the checkout this package is in, else the
    working folder.

    Raises:
        SettingsError: none of them holds sql/migrations.
    """
    candidates = [Path(__file__).resolve().parent.parent, Path.cwd()]
    if os.environ.get("NEXUS_ROOT"):
        candidates.insert(0, Path(os.environ["NEXUS_ROOT"]))
    for candidate in candidates:
        if (candidate / "sql" / "migrations").is_dir():
            return candidate
    raise SettingsError(
        f"No project root found: sql/migrations is in none of {', '.join(map(str, candidates))}.",
        next_step="Run from the project's root or set NEXUS_ROOT to it.",
    )


class Settings(BaseSettings):
    """Everything that can be set. One attribute per NEXUS_ variable; `.env.example` explains each."""

    model_config = SettingsConfigDict(
        env_prefix="NEXUS_", extra="ignore", frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    home: Path = Field(Path(".nexus"), description="Folder of the local servers' state.")
    database_url: SecretStr | None = Field(None, description="libpq URL of the database for market data.")
    dagster_url: SecretStr | None = Field(None, description="postgresql+psycopg2:// URL of Dagster's own database.")
    redis_url: SecretStr | None = Field(None, description="redis:// URL of the feature store.")
    symbols: Listed = instruments.DEFAULT_SYMBOLS
    start_day: date = date(2024, 1, 1)
    history_start: date | None = Field(None, description="Days from here to start_day have partitions by month.")
    base_timeframe: Timeframe = "1h"
    rolled_up_timeframes: TimeframeList = ("4h", "1d")
    feature_timeframes: TimeframeList = ("1h", "4h")
    serving_timeframe: Timeframe = "1h"
    correlation_timeframe: Timeframe = "1h"
    correlation_window: int = Field(100, ge=10, le=5000)
    sources: Path | None = Field(None, description="TOML file that says which provider serves which symbols.")
    files_root: Path | None = Field(None, description="Folder of price files for the provider `files`.")
    train_end: date | None = None
    validation_end: date | None = None
    training_features: Listed = Field((), description="Features of features/training_set; all 32 where empty.")
    training_label: str = "forward_return_24h"
    demo_days: int = Field(45, ge=1, le=400)
    healing_days: int = Field(14, ge=1, le=366)
    retention_raw_ohlc: Retention = None
    retention_quarantined_bars: Retention = None
    retention_bars: Retention = None
    retention_indicators: Retention = None
    retention_labels: Retention = None
    retention_correlation_matrix: Retention = None
    retention_pair_rankings: Retention = None
    keep_events_days: int = Field(30, ge=7, le=36_500)
    keep_runs_days: int = Field(365, ge=7, le=36_500)
    keep_ticks_days: int = Field(30, ge=1, le=36_500)
    parallel_runs: int = Field(2, ge=1, le=512, description="Runs that a backfill is cut into side by side.")
    warm_workers: bool = Field(True, description="Whether the code server forks run workers that imported everything.")
    automation: bool = True
    webserver_port: int = Field(3000, ge=1, le=65535)

    oanda_api_key: SecretStr | None = _also_called("OANDA_API_KEY", "Token of an account at OANDA.")
    oanda_account_id: SecretStr | None = _also_called("OANDA_ACCOUNT_ID", "Number of that account, for quotes.")
    eodhd_api_token: SecretStr | None = _also_called("EODHD_API_TOKEN", "Token of EODHD.")
    alphavantage_api_key: SecretStr | None = _also_called("ALPHAVANTAGE_API_KEY", "Key of Alpha Vantage.")
    twelvedata_api_key: SecretStr | None = _also_called("TWELVEDATA_API_KEY", "Key of Twelve Data.")
    polygon_api_key: SecretStr | None = _also_called("POLYGON_API_KEY", "Key of Polygon.")
    oanda_url: str | None = Field(None, description="Base URL in place of that of OANDA's practice accounts.")
    eodhd_url: str | None = None
    yahoo_url: str | None = None
    alpha_vantage_url: str | None = None
    twelve_data_url: str | None = None
    polygon_url: str | None = None
    oanda_budget: str | None = Field(None, description="Requests that OANDA allows, such as 8/minute; 800/day.")
    eodhd_budget: str | None = None
    yahoo_budget: str | None = None
    alpha_vantage_budget: str | None = None
    twelve_data_budget: str | None = None
    polygon_budget: str | None = None

    @field_validator(
        "oanda_api_key", "oanda_account_id", "eodhd_api_token", "alphavantage_api_key", "twelvedata_api_key",
        "polygon_api_key", "history_start", *(f"{name}_{what}" for name in SERVICES for what in ("url", "budget")),
        mode="before",
    )  # fmt: skip
    @classmethod
    def _blank_is_unset(cls, value: Any) -> Any:
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator(*(f"{name}_url" for name in SERVICES))
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://unset")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ValueError("write the base URL as https://host or https://host/path, without a key")
        return value

    @field_validator(*(f"{name}_budget" for name in SERVICES))
    @classmethod
    def _budget(cls, value: str | None) -> str | None:
        if value is not None:
            # Only here: what counts requests takes long to import.
            from nexus_assets.providers.budgets import parse_windows

            try:
                parse_windows(value)
            except NexusError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("symbols", "rolled_up_timeframes", "feature_timeframes", "training_features", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, re.split(r"[\s,]+", value.strip()))) if isinstance(value, str) else value

    @field_validator("symbols")
    @classmethod
    def _known_symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("no symbol is named; name at least one, such as EURUSD")
        try:
            return instruments.in_catalogue_order(value)
        except NexusError as error:
            raise ValueError(str(error)) from error

    @field_validator("rolled_up_timeframes", "feature_timeframes")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(value), key=TIMEFRAMES.index))

    @field_validator("automation", "warm_workers", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        return {"on": True, "off": False}.get(value.lower(), value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        mistakes = []
        if self.base_timeframe in SESSION_ALIGNED:
            mistakes.append(f"NEXUS_BASE_TIMEFRAME is {self.base_timeframe}; prices are loaded at 1h or shorter")
        for timeframe in self.rolled_up_timeframes:
            if minutes(timeframe) <= minutes(self.base_timeframe):
                mistakes.append(
                    f"NEXUS_ROLLED_UP_TIMEFRAMES holds {timeframe}, which is not longer than "
                    f"NEXUS_BASE_TIMEFRAME {self.base_timeframe}"
                )
        for name in ("feature_timeframes", "serving_timeframe", "correlation_timeframe"):
            value = getattr(self, name)
            for timeframe in (value,) if isinstance(value, str) else value:
                if timeframe not in self.timeframes:
                    mistakes.append(
                        f"NEXUS_{name.upper()} names {timeframe}, which is neither NEXUS_BASE_TIMEFRAME nor in "
                        f"NEXUS_ROLLED_UP_TIMEFRAMES"
                    )
        if self.serving_timeframe not in self.feature_timeframes:
            mistakes.append(f"NEXUS_SERVING_TIMEFRAME {self.serving_timeframe} is not in NEXUS_FEATURE_TIMEFRAMES")
        if self.history_start and self.history_start > self.start_day:
            mistakes.append(
                f"NEXUS_HISTORY_START is {self.history_start}, after NEXUS_START_DAY {self.start_day}; the history "
                "ends where the days begin"
            )
        both = (self.train_end is None) == (self.validation_end is None)
        if not both or (self.train_end and self.validation_end and self.train_end > self.validation_end):
            mistakes.append(
                f"NEXUS_TRAIN_END is {self.train_end} and NEXUS_VALIDATION_END is {self.validation_end}; give both, "
                "in this order, or none"
            )
        if self.keep_runs_days < self.keep_events_days:
            mistakes.append(
                f"NEXUS_KEEP_RUNS_DAYS {self.keep_runs_days} is less than NEXUS_KEEP_EVENTS_DAYS "
                f"{self.keep_events_days}; a run is kept at least as long as its events"
            )
        if not mistakes and any(self.retentions.values()):
            # Not needed, and not imported, where everything is kept for ever.
            from nexus_assets.retention import too_short

            mistakes += too_short(self)
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def retentions(self) -> dict[str, int | None]:
        """Days for which the rows of each table are kept, None for ever, by the table's name without its schema."""
        start = "retention_"
        return {
            name.removeprefix(start): getattr(self, name) for name in Settings.model_fields if name.startswith(start)
        }

    @property
    def timeframes(self) -> tuple[Timeframe, ...]:
        """The base timeframe and those rolled up from it, shortest first."""
        return (self.base_timeframe, *self.rolled_up_timeframes)

    @property
    def first_day(self) -> date:
        """The first day of all that is stored, by month or by day."""
        return self.history_start or self.start_day

    @property
    def has_history(self) -> bool:
        """Whether some days have partitions by month."""
        return self.first_day < self.start_day

    def check_partitions(self, today: date) -> None:
        """Refuse a start day that makes more partitions than Dagster can handle.

        Raises:
            SettingsError: more than MAX_PARTITIONS; a start day in the future; or a history that reaches into the days
                that are updated and healed, which is done by day.
        """
        days = (today - self.start_day).days + 1
        if days < 1:
            raise SettingsError(
                f"NEXUS_START_DAY is {self.start_day}, after today ({today}).", next_step="Set it to a past day."
            )
        if self.has_history and days <= self.healing_days:
            raise SettingsError(
                f"NEXUS_START_DAY is {self.start_day}, so the history reaches into the last {self.healing_days} days "
                "(NEXUS_HEALING_DAYS), which are updated and healed by day.",
                next_step=f"Set NEXUS_START_DAY to {today - timedelta(days=self.healing_days)} or earlier.",
            )
        count = days * len(self.symbols)
        if count > MAX_PARTITIONS:
            earliest = today - timedelta(days=MAX_PARTITIONS // len(self.symbols) - 1)
            # A year of room, or the same would have to be done again tomorrow.
            roomy = min((earliest + timedelta(days=365 + 31)).replace(day=1), today - timedelta(days=self.healing_days))
            raise SettingsError(
                f"{len(self.symbols)} symbols since {self.start_day} make {count:,} partitions; "
                f"the limit is {MAX_PARTITIONS:,}.",
                next_step=f"Set NEXUS_START_DAY={max(roomy, earliest)} and NEXUS_HISTORY_START={self.first_day}: the "
                "days between keep their data and get partitions by month (docs/scaling.md). Or set NEXUS_START_DAY to "
                f"{earliest} or later, or name fewer NEXUS_SYMBOLS.",
            )


def apply_dotenv(root: Path | None = None) -> dict[str, tuple[str, str]]:
    """Put the variables of `<root>/.env` into the environment, over what is there, as `dagster dev` does.

    Returns:
        {name: (value that the environment had, value of .env)} for each that differed.
    """
    path = (root or project_root()) / ".env"
    differing = {}
    for name, value in dotenv_values(path).items() if path.is_file() else ():
        if value is None:
            continue
        if os.environ.get(name, value) != value:
            differing[name] = (os.environ[name], value)
        os.environ[name] = value
    settings.cache_clear()
    return differing


def load_settings(**overrides: Any) -> Settings:
    """Read the environment (not `.env`; see apply_dotenv) and validate it, with all mistakes at once.

    Raises:
        SettingsError: something is wrong; the message lists every mistake and never a secret value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = []
        for mistake in error.errors(include_input=False, include_url=False):
            where = ".".join(str(part) for part in mistake["loc"]).removeprefix("NEXUS_")
            lines.append(f"NEXUS_{where.upper()}: {mistake['msg']}" if where else str(mistake["msg"]))
        raise SettingsError(
            "The settings are wrong:\n  " + "\n  ".join(lines) + "\n",
            next_step="Correct them in .env or in the environment; .env.example explains each.",
        ) from None


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()
