"""The receiver's settings: the guide's environment variables, and one YAML file for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr

from receiver.channels.email import EmailSettings
from receiver.channels.slack import HOOK, SlackSettings
from receiver.channels.sms import SmsSettings
from receiver.notification import Severity
from receiver.routing import Audience, Routing
from receiver.store import read_url
from serving import settings as serving
from serving.settings import Duration, Env, Settings

__all__ = ["ReceiverSettings", "load", "routing"]

ChannelName: TypeAlias = Literal["email", "slack", "sms"]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _database(value: SecretStr) -> SecretStr:
    read_url(value.get_secret_value())
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("expected a time zone of the tz database, such as Asia/Seoul") from None
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]


class RetrySettings(Settings):
    """Pauses grow from `first` by doubling up to `longest`; after `give_up_after` a delivery has failed."""

    first: PositiveDuration = timedelta(seconds=5)
    longest: PositiveDuration = timedelta(minutes=10)
    give_up_after: PositiveDuration = timedelta(hours=24)


class SeverityChannels(Settings):
    """Which channels carry which severity."""

    info: tuple[ChannelName, ...] = ("slack",)
    warning: tuple[ChannelName, ...] = ("email", "slack")
    critical: tuple[ChannelName, ...] = ("email", "sms", "slack")


class ReceiverSettings(Settings):
    """Everything that can be set; `deploy/receiver/receiver.yaml` shows and explains each."""

    database_url: Annotated[SecretStr, Env("RECEIVER_DATABASE_URL"), AfterValidator(_database)] = SecretStr(
        "sqlite:///receiver.db"
    )
    token: Annotated[SecretStr | None, Env("RECEIVER_TOKEN")] = None
    locale: Annotated[Literal["ko", "en"], Env("RECEIVER_LOCALE")] = "ko"
    time_zone: Annotated[str, AfterValidator(_zone)] = "Asia/Seoul"
    alertmanager_url: Annotated[str | None, Env("ALERTMANAGER_URL")] = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    dedup_window: PositiveDuration = timedelta(minutes=20)
    retention: PositiveDuration = timedelta(days=90)
    retry: RetrySettings = RetrySettings()
    channels: SeverityChannels = SeverityChannels()
    email: EmailSettings = EmailSettings()
    slack: SlackSettings = SlackSettings()
    sms: SmsSettings = SmsSettings()

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """For each channel the variables that it still needs; a channel that lacks any is off."""
        return {"email": self.email.missing, "slack": self.slack.missing, "sms": self.sms.missing}


def load(
    *, environ: Mapping[str, str], config_file: Path | None, dotenv: Path | None = Path(".env")
) -> ReceiverSettings:
    """Raises serving.settings.ConfigError."""
    return serving.load(ReceiverSettings, environ=environ, config_file=config_file, dotenv=dotenv)


def routing(settings: ReceiverSettings) -> Routing:
    """Who is told by what, of the channels that are on."""
    on = {name for name, missing in settings.missing.items() if not missing}
    addresses = {"email": settings.email.to, "slack": (HOOK,), "sms": settings.sms.to}
    by_severity: Mapping[Severity, tuple[str, ...]] = {
        "info": settings.channels.info,
        "warning": settings.channels.warning,
        "critical": settings.channels.critical,
    }
    return Routing(
        audience=Audience("default", settings.locale, {name: addresses[name] for name in addresses if name in on}),
        channels={severity: tuple(name for name in names if name in on) for severity, names in by_severity.items()},
        one_by_one=frozenset({"slack"}),
        silent_when_resolved=frozenset() if settings.sms.send_resolved else frozenset({"sms"}),
    )
