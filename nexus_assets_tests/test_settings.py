"""The environment: typed, checked at once, never shown where it is secret."""

import re
from datetime import date
from pathlib import Path

import pytest

from nexus_assets.errors import SettingsError
from nexus_assets.settings import Settings, apply_dotenv, load_settings, project_root


def test_without_any_variable_24_symbols_are_loaded_hourly() -> None:
    settings = load_settings()
    assert len(settings.symbols) == 24
    assert settings.timeframes == ("1h", "4h", "1d")
    assert settings.feature_timeframes == ("1h", "4h")


def test_symbols_are_put_into_the_catalogues_order_whatever_order_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_SYMBOLS", " XAUUSD, EURUSD GBPUSD,EURUSD ")
    assert load_settings().symbols == ("EURUSD", "GBPUSD", "XAUUSD")


def test_every_mistake_is_told_at_once_with_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_SYMBOLS", "EURUSD, EURUSDX")
    monkeypatch.setenv("NEXUS_BASE_TIMEFRAME", "2h")
    monkeypatch.setenv("NEXUS_START_DAY", "yesterday")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for said in ("NEXUS_SYMBOLS", "EURUSDX", "NEXUS_BASE_TIMEFRAME", "NEXUS_START_DAY", ".env"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NEXUS_ROLLED_UP_TIMEFRAMES", "15m", "not longer than"),
        ("NEXUS_FEATURE_TIMEFRAMES", "1h,5m", "5m"),
        ("NEXUS_SERVING_TIMEFRAME", "1d", "not in NEXUS_FEATURE_TIMEFRAMES"),
    ],
)
def test_timeframes_that_contradict_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        load_settings()


def test_runs_are_kept_at_least_as_long_as_their_events() -> None:
    with pytest.raises(SettingsError, match="NEXUS_KEEP_RUNS_DAYS 20 is less than NEXUS_KEEP_EVENTS_DAYS 30"):
        load_settings(keep_runs_days=20)
    assert load_settings(keep_runs_days=20, keep_events_days=20).keep_runs_days == 20


def test_a_secret_is_shown_neither_by_the_settings_nor_by_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_DATABASE_URL", "postgresql://nexus:secret-word@host/nexus")
    assert "secret-word" not in repr(load_settings())
    monkeypatch.setenv("NEXUS_DEMO_DAYS", "many")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(("word", "meant"), [("off", False), ("on", True), ("false", False), ("1", True)])
def test_automation_is_on_or_off(monkeypatch: pytest.MonkeyPatch, word: str, meant: bool) -> None:
    monkeypatch.setenv("NEXUS_AUTOMATION", word)
    assert load_settings().automation is meant


def test_an_empty_variable_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_START_DAY", "")
    assert load_settings().start_day == date(2024, 1, 1)


def test_too_many_partitions_are_refused_with_the_day_that_would_do() -> None:
    settings = load_settings(start_day=date(2010, 1, 1))
    with pytest.raises(SettingsError, match="100,000") as caught:
        settings.check_partitions(date(2026, 1, 1))
    earliest = date.fromisoformat(caught.value.next_step.split("NEXUS_START_DAY to ")[1][:10])
    load_settings(start_day=earliest).check_partitions(date(2026, 1, 1))


@pytest.mark.parametrize("history_start", [None, date(2008, 5, 20)])
def test_the_way_out_of_too_many_partitions_can_be_pasted_into_the_settings(history_start: date | None) -> None:
    today = date(2026, 1, 1)
    with pytest.raises(SettingsError) as caught:
        load_settings(start_day=date(2010, 1, 1), history_start=history_start).check_partitions(today)
    named = dict(re.findall(r"NEXUS_(START_DAY|HISTORY_START)=(\S+?)(?::| |$)", str(caught.value.next_step)))
    assert date.fromisoformat(named["HISTORY_START"]) == (history_start or date(2010, 1, 1))
    followed = load_settings(**{name.lower(): value for name, value in named.items()})
    followed.check_partitions(today)
    followed.check_partitions(date(2026, 12, 31))  # and for a year to come
    assert followed.has_history


def test_history_that_begins_after_the_days_is_refused() -> None:
    with pytest.raises(SettingsError, match="NEXUS_HISTORY_START is 2024-01-02, after NEXUS_START_DAY 2024-01-01"):
        load_settings(start_day=date(2024, 1, 1), history_start=date(2024, 1, 2))
    assert not load_settings(start_day=date(2024, 1, 1), history_start=date(2024, 1, 1)).has_history


def test_history_does_not_reach_into_the_days_that_are_healed() -> None:
    settings = load_settings(start_day=date(2025, 12, 25), history_start=date(2024, 1, 2))
    with pytest.raises(SettingsError, match="NEXUS_HEALING_DAYS") as caught:
        settings.check_partitions(date(2026, 1, 1))
    latest = date.fromisoformat(caught.value.next_step.split("NEXUS_START_DAY to ")[1][:10])
    load_settings(start_day=latest, history_start=date(2024, 1, 2)).check_partitions(date(2026, 1, 1))


def test_a_start_day_in_the_future_is_refused() -> None:
    with pytest.raises(SettingsError, match="after today"):
        load_settings(start_day=date(2027, 1, 1)).check_partitions(date(2026, 1, 1))


def test_the_dotenv_file_wins_over_the_shell_and_differences_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("NEXUS_START_DAY=2023-05-01\nNEXUS_DEMO_DAYS='7'\n")
    monkeypatch.setenv("NEXUS_START_DAY", "2022-01-01")
    monkeypatch.setenv("NEXUS_DEMO_DAYS", "7")
    assert apply_dotenv(tmp_path) == {"NEXUS_START_DAY": ("2022-01-01", "2023-05-01")}
    assert load_settings().start_day == date(2023, 5, 1)
    assert load_settings().demo_days == 7


def test_the_projects_root_holds_the_migrations() -> None:
    assert (project_root() / "sql" / "migrations").is_dir()


def test_every_setting_is_documented() -> None:
    example = (project_root() / ".env.example").read_text()
    assert [name for name in Settings.model_fields if f"NEXUS_{name.upper()}=" not in example] == []


def test_a_key_is_also_read_under_the_name_that_its_users_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OANDA_API_KEY", "theirs")
    monkeypatch.setenv("EODHD_API_TOKEN", " a-token ")
    monkeypatch.setenv("NEXUS_POLYGON_API_KEY", "")
    monkeypatch.setenv("POLYGON_API_KEY", "blank is unset")
    found = load_settings()
    told = [found.oanda_api_key, found.eodhd_api_token, found.polygon_api_key]
    assert [key and key.get_secret_value() for key in told] == ["theirs", "a-token", "blank is unset"]
    assert found.twelvedata_api_key is None
    monkeypatch.setenv("NEXUS_OANDA_API_KEY", "ours")
    key = load_settings().oanda_api_key
    assert key is not None
    assert key.get_secret_value() == "ours"
    assert "a-token" not in repr(load_settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXUS_OANDA_URL", "api-fxtrade.oanda.com"),
        ("NEXUS_EODHD_URL", "https://eodhd.com/api?api_token=secret-word"),
        ("NEXUS_YAHOO_URL", "https://me:secret-word@host"),
        ("NEXUS_POLYGON_BUDGET", "8 a fortnight"),
        ("NEXUS_TWELVE_DATA_BUDGET", "0/minute"),
    ],
)
def test_an_address_or_a_budget_that_cannot_be_meant_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}: ") as caught:
        load_settings()
    assert "secret-word" not in str(caught.value)
