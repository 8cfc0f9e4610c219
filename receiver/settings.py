"""The receiver's settings: the guide's environment variables, and one YAML file for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from receiver import fallback, schedules
from receiver.audiences import AudienceSettings, Days
from receiver.channels import ChannelName, http
from receiver.channels.email import Addresses
from receiver.digest import Rate
from receiver.notification import Severity
from receiver.store import read_url
from serving import settings as serving
from serving.settings import CommaSeparated, Duration, Env

__all__ = ["HeartbeatSettings", "NotifySettings", "ReceiverSettings", "ReportSettings", "load"]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _database(value: SecretStr) -> SecretStr:
    read_url(value.get_secret_value())
    return value


def _exporter(value: str) -> str:
    if not http.is_address(value):
        raise ValueError("expected an address such as http://127.0.0.1:19110")
    if urlsplit(value).username is not None:
        raise ValueError("give user and password by their own settings, not within the address")
    return value.rstrip("/")


def _alertmanager(value: str | None) -> str | None:
    if value is not None and not http.is_address(value):
        raise ValueError("expected an address such as http://127.0.0.1:9093")
    return value


def _watchdog(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not http.is_address(value.get_secret_value()):
        raise ValueError("expected an address such as https://hc-ping.com/…")
    return value


def _prefixes(values: tuple[str, ...]) -> tuple[str, ...]:
    digits = tuple(re.sub(r"[\s().-]", "", value) for value in values)
    if not all(re.fullmatch(r"[01]\d*", value) for value in digits):
        raise ValueError("write the first digits of numbers as they are dialled, such as 010")
    return digits


def _times_of_day(value: object) -> object:
    """YAML 1.1 reads 18:00 without quotes as a number in base 60."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(f"{one // 60:02}:{one % 60:02}" if isinstance(one, int) and one >= 0 else one for one in values)


def _clock_times(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value) for value in values):
        raise ValueError("write times of day such as 08:00")
    return values


def _answered_in_time(value: timedelta) -> timedelta:
    if not timedelta(0) <= value <= timedelta(seconds=20):
        raise ValueError("must be between 0s and 20s: who asks does not wait for ever")
    return value


def _within_what_is_kept(value: timedelta) -> timedelta:
    if value > timedelta(days=6):
        raise ValueError("must be at most 6d: what was not heard of for a week is forgotten")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
RepeatInterval = Annotated[PositiveDuration, AfterValidator(_within_what_is_kept)]
NextChannel: TypeAlias = Literal[ChannelName, "none"]


class RetrySettings(serving.Settings):
    """Pauses grow from `first` by doubling up to `longest`; after `give_up_after` a delivery has failed."""

    first: PositiveDuration = timedelta(seconds=5)
    longest: PositiveDuration = timedelta(minutes=10)
    give_up_after: PositiveDuration = timedelta(hours=24)


class StormSettings(serving.Settings):
    """More than `messages` within `within` to the same recipients, and the rest waits for a digest."""

    messages: Annotated[int, Field(ge=0, le=1000)] = 20
    """0: as many single messages as there are."""
    within: PositiveDuration = timedelta(minutes=1)
    digest_every: PositiveDuration = timedelta(minutes=1)

    @property
    def rate(self) -> Rate | None:
        return Rate(self.messages, self.within, self.digest_every) if self.messages else None


class FallbackSettings(serving.Settings):
    """For each channel the one that tells what it does not get through: after it has failed, or for too long."""

    email: NextChannel = "slack"
    slack: NextChannel = "email"
    sms: NextChannel = "email"
    critical_after: PositiveDuration = timedelta(minutes=2)
    after: PositiveDuration = timedelta(minutes=15)

    @property
    def rules(self) -> fallback.Rules:
        named = {"email": self.email, "slack": self.slack, "sms": self.sms}
        return fallback.Rules(
            next={channel: to for channel, to in named.items() if to != "none"},
            after={"info": self.after, "warning": self.after, "critical": self.critical_after},
        )

    @model_validator(mode="after")
    def _leads_elsewhere(self) -> FallbackSettings:
        for channel, to in self.rules.next.items():
            if channel == to:
                raise ValueError(f"{channel} cannot stand in for itself: name another channel, or none")
        return self


class RepeatSettings(serving.Settings):
    """Alertmanager's `repeat_interval` for each severity: what was not heard of for longer may be over."""

    critical: RepeatInterval = timedelta(hours=1)
    warning: RepeatInterval = timedelta(hours=4)
    info: RepeatInterval = timedelta(hours=24)

    @property
    def by_severity(self) -> dict[Severity, timedelta]:
        return {"critical": self.critical, "warning": self.warning, "info": self.info}


class HeartbeatSettings(serving.Settings):
    """The watch over the watcher: the alarm when ColdChainWatchdog stays away."""

    missing_after: PositiveDuration = timedelta(minutes=10)
    required: bool = False
    """Whether to raise the alarm even where no heartbeat ever came."""
    ping_url: Annotated[SecretStr | None, Env("HEARTBEAT_PING_URL"), AfterValidator(_watchdog)] = None
    ping_interval: PositiveDuration = timedelta(minutes=1)


class NotifySettings(serving.Settings):
    """The guide's API for programs."""

    wait: Annotated[Duration, AfterValidator(_answered_in_time)] = timedelta(seconds=5)
    """How long an answer waits for the outcome."""
    allowed_email_domains: CommaSeparated = ()
    """Where not empty, a program may name recipients of these domains only."""
    allowed_sms_prefixes: Annotated[CommaSeparated, AfterValidator(_prefixes)] = ()
    tests_a_minute: Annotated[int, Field(ge=1, le=600)] = 10


class ReportSettings(serving.Settings):
    """The health report mail; off without `at`."""

    at: Annotated[tuple[str, ...], BeforeValidator(_times_of_day), AfterValidator(_clock_times)] = ()
    """Times of day in `time_zone`."""
    days: Days = schedules.DAYS
    to: Addresses = ()
    """Empty: ALERT_EMAIL_TO."""
    exporter_url: Annotated[str, Env("EXPORTER_URL"), AfterValidator(_exporter)] = "http://127.0.0.1:19110"
    exporter_user: Annotated[str | None, Env("EXPORTER_USER")] = None
    exporter_password: Annotated[SecretStr | None, Env("EXPORTER_PASSWORD")] = None
    exporter_ca_file: Path | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> ReportSettings:
        if (self.exporter_user is None) != (self.exporter_password is None):
            raise ValueError("exporter_user (EXPORTER_USER) and exporter_password (EXPORTER_PASSWORD) go together")
        return self


class ReceiverSettings(AudienceSettings):
    """Everything that can be set; `deploy/receiver/receiver.yaml` shows and explains each."""

    database_url: Annotated[SecretStr, Env("RECEIVER_DATABASE_URL"), AfterValidator(_database)] = SecretStr(
        "sqlite:///receiver.db"
    )
    token: Annotated[SecretStr | None, Env("RECEIVER_TOKEN")] = None
    alertmanager_url: Annotated[str | None, Env("ALERTMANAGER_URL"), AfterValidator(_alertmanager)] = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    dedup_window: PositiveDuration = timedelta(minutes=20)
    repeat_interval: RepeatSettings = RepeatSettings()
    retention: PositiveDuration = timedelta(days=90)
    retry: RetrySettings = RetrySettings()
    fallback: FallbackSettings = FallbackSettings()
    storm: StormSettings = StormSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    notify: NotifySettings = NotifySettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _report_reaches_somebody(self) -> ReceiverSettings:
        if self.report.at and not (self.report.to or self.email.to):
            raise ValueError("report.at is given, but neither report.to nor email.to (ALERT_EMAIL_TO)")
        return self


def load(
    *, environ: Mapping[str, str], config_file: Path | None, dotenv: Path | None = Path(".env")
) -> ReceiverSettings:
    """Raises serving.settings.ConfigError."""
    return serving.load(ReceiverSettings, environ=environ, config_file=config_file, dotenv=dotenv)
