"""Every setting of the exporter, with its default and its environment variable."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from exporter import databases
from exporter.limits import Thresholds
from serving.settings import Duration, Env, Settings

__all__ = ["DiskSettings", "ExporterSettings", "HostSettings", "PathSettings", "SourceSettings", "Sources"]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


def _interval(value: timedelta | None) -> timedelta | None:
    if value is not None and not timedelta(milliseconds=100) <= value <= timedelta(days=1):
        raise ValueError("between 100ms and 1d")
    return value


def _timeout(value: timedelta | None) -> timedelta | None:
    if value is not None and not timedelta(milliseconds=100) <= value <= timedelta(minutes=1):
        raise ValueError("between 100ms and 1m: a query that runs longer is an incident of its own")
    return value


def _windows(value: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    if not value:
        raise ValueError("give at least one window")
    if len(set(value)) < len(value):
        raise ValueError("a window is given twice")
    if any(window < timedelta(minutes=1) or window % timedelta(minutes=1) for window in value):
        raise ValueError("windows are whole minutes or hours")
    return tuple(sorted(value))


def _zone(value: object) -> object:
    try:
        return value if isinstance(value, ZoneInfo) else ZoneInfo(str(value))
    except (ValueError, OSError, KeyError):
        raise ValueError("not a time zone of the IANA database; write one such as Asia/Seoul or UTC") from None


def _url(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        databases.parse_url(value.get_secret_value())
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Interval = Annotated[Duration, AfterValidator(_interval)]
Timeout = Annotated[Duration, AfterValidator(_timeout)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class SourceSettings(Settings):
    """One source: None takes `default_interval` or `default_timeout`."""

    enabled: bool = True
    interval: Interval | None = None
    timeout: Timeout | None = None


class HostSettings(SourceSettings):
    """The host changes faster than the business, and reading it costs next to nothing."""

    interval: Interval | None = timedelta(seconds=5)


class Sources(Settings):
    """`sources:`, by name."""

    host: HostSettings = HostSettings()
    database: SourceSettings = SourceSettings()
    orders: SourceSettings = SourceSettings()
    dispatches: SourceSettings = SourceSettings()
    vehicles: SourceSettings = SourceSettings()


class PathSettings(Settings):
    """Where the host's file systems are seen from inside a container (`--path.procfs`, `--path.rootfs`)."""

    procfs: str = "/proc"
    rootfs: str = "/"


class DiskSettings(Settings):
    """`disk:`, which mounts are shown, and which one is the JSON API's."""

    mountpoint: str = "/"
    exclude_mountpoints: Pattern = r"^/(dev|proc|sys|run/credentials|var/lib/docker|var/lib/containers/storage)($|/)"
    exclude_types: Pattern = (
        r"^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|efivarfs|erofs|fuse\.(lxcfs|portal|"
        r"gvfsd-fuse|snapfuse)|fusectl|hugetlbfs|iso9660|mqueue|nsfs|nfsd|proc|procfs|pstore|ramfs|rpc_pipefs|"
        r"securityfs|selinuxfs|squashfs|sysfs|tmpfs|tracefs)$"
    )


class ExporterSettings(Settings):
    """What `--config.file` may say."""

    database_url: Annotated[SecretStr | None, Env("DATABASE_URL"), AfterValidator(_url)] = None
    database_timezone: Zone = ZoneInfo("UTC")
    timezone: Zone = ZoneInfo("Asia/Seoul")
    windows: Annotated[tuple[Duration, ...], AfterValidator(_windows)] = (
        timedelta(hours=1),
        timedelta(hours=24),
        timedelta(hours=168),
    )
    orders_waiting_after: Annotated[Duration, AfterValidator(_positive)] = timedelta(hours=2)
    dispatches_overdue_after: Duration = timedelta(0)
    default_interval: Interval = timedelta(seconds=15)
    default_timeout: Timeout = timedelta(seconds=5)
    max_age: Annotated[int, Field(ge=1, le=1000)] = 5
    sources: Sources = Sources()
    thresholds: Thresholds = Thresholds()
    disk: DiskSettings = DiskSettings()
    path: PathSettings = PathSettings()
