"""Every setting of the exporter, with its default and its environment variable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Annotated, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from exporter import databases, naming, sql
from exporter.limits import Thresholds
from serving.settings import Duration, Env, Settings

__all__ = [
    "DiskSettings",
    "ExporterSettings",
    "GaugeSettings",
    "HostSettings",
    "PathSettings",
    "QuerySettings",
    "SourceSettings",
    "Sources",
]

T = TypeVar("T")


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


def _fitting(problem: Callable[[str], str | None]) -> AfterValidator:
    """Refuses a text in the words of `problem`."""

    def check(value: str) -> str:
        if words := problem(value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def _some(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("give at least one: name, help, value")
    return value


def _distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if value.count(name) > 1:
            raise ValueError(f"{name} is given twice")
    return value


def _at(problems: Iterable[tuple[tuple[str | int, ...], str]]) -> None:
    """Raises what is wrong at each place, so that each is told with its own line."""
    errors = [
        InitErrorDetails(type=PydanticCustomError("query", "{words}", {"words": words}), loc=place, input=None)
        for place, words in problems
    ]
    if errors:
        raise ValidationError.from_exception_data("queries", errors)


def _origin(value: str) -> str:
    # lower case, no path and no default port: as browsers write it in Origin, to which it is compared
    if not re.fullmatch(r"https?://(\[[0-9a-f:]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?", value):
        raise ValueError(
            "write the origin of a front end as its browser has it: https://ops.example.com, or http://localhost:3000"
        )
    return value


Interval = Annotated[Duration, AfterValidator(_interval)]
Timeout = Annotated[Duration, AfterValidator(_timeout)]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Labels = Annotated[tuple[Annotated[str, _fitting(naming.label_problem)], ...], AfterValidator(_distinct)]


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


class GaugeSettings(Settings):
    """One gauge of a query; `value` and `labels` are columns of it."""

    name: Annotated[str, _fitting(naming.gauge_problem)]
    help: str = ""
    value: str
    labels: Labels | None = None
    """None takes the query's; fewer than those where its value repeats in several rows."""

    @field_validator("help")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("missing: say in a sentence what it counts and when it is absent, for whoever finds it")
        return " ".join(value.split())


class QuerySettings(SourceSettings):
    """`queries:`, one entry: SQL of the site's own, and the gauges that come of it."""

    sql: Annotated[str, _fitting(sql.problem)]
    labels: Labels = ()
    gauges: Annotated[tuple[GaugeSettings, ...], AfterValidator(_some)]
    lookback: Annotated[Duration, AfterValidator(_positive)] | None = None
    """How long before `:now` the SQL's `:since` is."""
    max_series: Annotated[int, Field(ge=1, le=1_000_000)] = 5000

    def labels_of(self, gauge: GaugeSettings) -> tuple[str, ...]:
        """The columns that become the gauge's labels."""
        return self.labels if gauge.labels is None else gauge.labels

    @model_validator(mode="after")
    def _fits_together(self) -> QuerySettings:
        _at(self._problems())
        return self

    def _problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        uses_since = "since" in sql.moments(self.sql)
        if uses_since and self.lookback is None:
            yield ("sql",), "it uses :since, so say how long ago that is: lookback: 1h"
        if self.lookback is not None and not uses_since:
            yield ("lookback",), "the SQL does not use :since: bound it by `created_at > :since`, or leave this out"
        for number, gauge in enumerate(self.gauges):
            if gauge.value in self.labels_of(gauge):
                yield ("gauges", number, "value"), f"{gauge.value} is a label as well; a column is either"


def _no_gauge_twice(queries: dict[str, QuerySettings]) -> dict[str, QuerySettings]:
    first: dict[str, str] = {}
    problems = []
    for name, query in queries.items():
        for number, gauge in enumerate(query.gauges):
            if gauge.name in first:
                where = "this query" if first[gauge.name] == name else f"the query {first[gauge.name]}"
                problems.append(((name, "gauges", number, "name"), f"{gauge.name} is a gauge of {where} already"))
            first.setdefault(gauge.name, name)
    _at(problems)
    return queries


class PathSettings(Settings):
    """Where the host's file systems are seen from inside a container (`--path.procfs`, `--path.rootfs`)."""

    procfs: str = "/proc"
    rootfs: str = "/"


class DiskSettings(Settings):
    """`disk:`, which mounts are shown, and which one is the JSON API's."""

    mountpoint: str = "/"
    exclude_mountpoints: Pattern = (
        r"^/(dev|proc|sys|run/credentials|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)"
    )
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
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    queries: Annotated[
        dict[Annotated[str, _fitting(naming.source_problem)], QuerySettings], AfterValidator(_no_gauge_twice)
    ] = Field(default_factory=dict)
