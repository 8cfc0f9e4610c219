"""The receiver's settings: the guide's environment variables, and one YAML file for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from receiver.audiences import AudienceSettings
from receiver.store import read_url
from serving import settings as serving
from serving.settings import Duration, Env

__all__ = ["ReceiverSettings", "load"]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0s")
    return value


def _database(value: SecretStr) -> SecretStr:
    read_url(value.get_secret_value())
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]


class RetrySettings(serving.Settings):
    """Pauses grow from `first` by doubling up to `longest`; after `give_up_after` a delivery has failed."""

    first: PositiveDuration = timedelta(seconds=5)
    longest: PositiveDuration = timedelta(minutes=10)
    give_up_after: PositiveDuration = timedelta(hours=24)


class ReceiverSettings(AudienceSettings):
    """Everything that can be set; `deploy/receiver/receiver.yaml` shows and explains each."""

    database_url: Annotated[SecretStr, Env("RECEIVER_DATABASE_URL"), AfterValidator(_database)] = SecretStr(
        "sqlite:///receiver.db"
    )
    token: Annotated[SecretStr | None, Env("RECEIVER_TOKEN")] = None
    alertmanager_url: Annotated[str | None, Env("ALERTMANAGER_URL")] = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    dedup_window: PositiveDuration = timedelta(minutes=20)
    retention: PositiveDuration = timedelta(days=90)
    retry: RetrySettings = RetrySettings()


def load(
    *, environ: Mapping[str, str], config_file: Path | None, dotenv: Path | None = Path(".env")
) -> ReceiverSettings:
    """Raises serving.settings.ConfigError."""
    return serving.load(ReceiverSettings, environ=environ, config_file=config_file, dotenv=dotenv)
