"""What sources.toml says about the hours in which a source quotes, as overrides of the trading calendar."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, time
from typing import Literal, Protocol, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from nexus_assets.errors import SettingsError
from nexus_assets.instruments import AssetClass
from nexus_assets.market_holidays import OVERRIDES, Override, WeeklyHours

Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_DAYS: tuple[Day, ...] = get_args(Day)


class DeclaredHours(BaseModel):
    """The same hours of every week.

    Attributes:
        asset_class: Which of the source's symbols are meant.
        days: Weekdays on which they start.
        start, end: Half-open; an end that is not after the start is of the next day.
        time_zone: IANA name of the clock.
        first_day, end_day: Of the weeks in which it was so; the end is exclusive.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset_class: AssetClass
    days: tuple[Day, ...]
    start: time
    end: time
    time_zone: str = "America/New_York"
    first_day: date = date.min
    end_day: date = date.max

    @field_validator("days")
    @classmethod
    def _some(cls, value: tuple[Day, ...]) -> tuple[Day, ...]:
        if not value:
            raise ValueError(f"name at least one of {', '.join(_DAYS)}")
        return value

    @field_validator("time_zone")
    @classmethod
    def _place(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is not an IANA name such as Europe/Athens") from error
        return value

    @model_validator(mode="after")
    def _some_days(self) -> "DeclaredHours":
        if self.first_day >= self.end_day:
            raise ValueError(f"first_day {self.first_day} is not before end_day {self.end_day}")
        return self

    def weekly(self, reason: str) -> WeeklyHours:
        """The same as the calendar takes it."""
        days = frozenset(_DAYS.index(day) for day in self.days)
        return WeeklyHours(days, self.start, self.end, reason, self.time_zone, self.first_day, self.end_day)


class SourceOfHours(Protocol):
    """What is read of a declared source."""

    @property
    def name(self) -> str:
        """Provider that the rows carry."""
        ...

    @property
    def hours(self) -> str:
        """A list of market_holidays.OVERRIDES; empty for the one of the provider's own name, if there is one."""
        ...

    @property
    def opened(self) -> tuple[DeclaredHours, ...]:
        """Hours outside the weekly session in which the source quotes."""
        ...

    @property
    def closed(self) -> tuple[DeclaredHours, ...]:
        """Hours of the session in which it does not."""
        ...


def known_hours() -> tuple[str, ...]:
    """The names that `hours` may have."""
    return tuple(sorted({name for name, _ in OVERRIDES}))


def declared_overrides(sources: Iterable[SourceOfHours], origin: str) -> Mapping[tuple[str, AssetClass], Override]:
    """The overrides of every provider that says something about its hours; sources of one name add up.

    Args:
        sources: As declared.
        origin: The file they were declared in, for messages.

    Raises:
        SettingsError: two sources of one name have different `hours`.
    """
    said: dict[str, list[SourceOfHours]] = {}
    for source in sources:
        if source.hours or source.opened or source.closed:
            said.setdefault(source.name, []).append(source)
    overrides = {}
    for provider, mine in said.items():
        names = sorted({source.hours for source in mine if source.hours})
        if len(names) > 1:
            raise SettingsError(
                f"{origin}: sources named {provider} have the hours {' and '.join(names)}.",
                next_step="Give them different names, or the same hours.",
            )
        listed = names[0] if names else provider
        for asset_class in get_args(AssetClass):
            override = _with(OVERRIDES.get((listed, asset_class), Override()), mine, asset_class)
            if override != OVERRIDES.get((provider, asset_class), Override()):
                overrides[provider, asset_class] = override
    return overrides


def _with(override: Override, sources: list[SourceOfHours], asset_class: AssetClass) -> Override:
    opened, closed = (
        tuple(
            item.weekly("declared by the source")
            for source in sources
            for item in getattr(source, kind)
            if item.asset_class == asset_class
        )
        for kind in ("opened", "closed")
    )
    return replace(override, opened=override.opened + opened, closed=override.closed + closed)
