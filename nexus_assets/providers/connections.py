"""Reaching the market-data services: which ones have a key, and a provider for each, with the shared HTTP control.

Nothing of HTTP is imported before a service is opened, so that a project without services starts no slower.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import SecretStr

from nexus_assets.errors import SettingsError
from nexus_assets.instruments import PriceKind
from nexus_assets.providers.source_declaration import DEFAULT_ORDER, KEYLESS

if TYPE_CHECKING:
    from nexus_assets.providers.api_provider import ApiProvider
    from nexus_assets.providers.control_state import ControlState
    from nexus_assets.providers.http import HttpClient, HttpLimits


@dataclass(frozen=True)
class Access:
    """How one service is reached.

    Attributes:
        key: None without one.
        account_id: Of OANDA, for quotes.
        url: Base URL in place of the service's own.
        budget: Windows as budgets.parse_windows reads them; None for those that the service usually allows.
    """

    key: SecretStr | None = None
    account_id: SecretStr | None = None
    url: str | None = None
    budget: str | None = None


class Connections:
    """Opens services. Those of one process share connections, and all processes their breakers and budgets."""

    def __init__(
        self,
        access: Mapping[str, Access],
        redis_url: SecretStr | None,
        *,
        limits: "HttpLimits | None" = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Args:
            access: By service; those that are not named have no key.
            redis_url: Where breakers, budgets and call statistics are shared; None for this process only.
            limits: How patient requests are.
            now: What time it is, tz-aware.
        """
        self._access = dict(access)
        self._redis_url = redis_url
        self._limits = limits
        self._now = now

    def access(self, service: str) -> Access:
        """How a service is reached."""
        return self._access.get(service, Access())

    def usable(self, service: str) -> bool:
        """Whether the service has a key, or needs none."""
        return service in KEYLESS or self.access(service).key is not None

    @property
    def keyed(self) -> tuple[str, ...]:
        """The services that have a key, the preferred one first."""
        return tuple(name for name in DEFAULT_ORDER if self.access(name).key is not None)

    @property
    def state(self) -> "ControlState":
        """What all processes agree on about the services."""
        from nexus_assets.providers.control_state import control_state

        return control_state(self._redis_url)

    def client(self, service: str) -> "HttpClient":
        """The HTTP client of a service, one for each way to reach it and process.

        Raises:
            SettingsError: the budget cannot be read.
        """
        return _client(service, self._redis_url, self.access(service).budget, self._limits)

    def open(self, service: str, price_kind: PriceKind | None = None) -> "ApiProvider":
        """The provider of a service. `price_kind` is of meaning for OANDA only.

        Raises:
            SettingsError: the service is unknown, or its budget cannot be read.
        """
        return _open(service, self.client(service), self.access(service), price_kind, self._now)


@lru_cache(maxsize=64)
def _client(service: str, redis_url: SecretStr | None, budget: str | None, limits: "HttpLimits | None") -> "HttpClient":
    from nexus_assets.providers.budgets import parse_windows
    from nexus_assets.providers.control_state import control_state
    from nexus_assets.providers.http import open_client

    windows = None if budget is None else parse_windows(budget)
    return open_client(service, control_state(redis_url), windows=windows, limits=limits)


def forget_clients() -> None:
    """Close all connections and forget what this process knows of budgets and breakers; for tests and after a fork."""
    from nexus_assets.providers.control_state import control_state

    _client.cache_clear()
    control_state.cache_clear()


def _open(
    service: str,
    client: "HttpClient",
    access: Access,
    price_kind: PriceKind | None,
    now: Callable[[], datetime],
) -> "ApiProvider":
    from nexus_assets.providers.alpha_vantage import AlphaVantageProvider
    from nexus_assets.providers.eodhd import EodhdProvider
    from nexus_assets.providers.oanda import OandaProvider
    from nexus_assets.providers.polygon import PolygonProvider
    from nexus_assets.providers.twelve_data import TwelveDataProvider
    from nexus_assets.providers.yahoo import YahooProvider

    if service == "oanda":
        return OandaProvider(
            client,
            access.key,
            account_id=access.account_id,
            price_kind=price_kind or "mid",
            base_url=access.url,
            now=now,
        )
    others = (EodhdProvider, YahooProvider, AlphaVantageProvider, TwelveDataProvider, PolygonProvider)
    for kind in others:
        if kind.name == service:
            return kind(client, access.key, base_url=access.url, now=now)
    raise SettingsError(
        f"There is no market-data service {service!r}.", next_step=f"Use one of {', '.join(DEFAULT_ORDER)}."
    )
