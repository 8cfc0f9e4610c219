"""The health report mail: the exporter's `health` in words, now or at times of day."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

import jinja2
import requests
import structlog

from receiver import schedules
from receiver.notice import DIRECT
from receiver.notification import Alert, Notification
from receiver.outbox import Accepted, Asked, Outbox
from receiver.routing import PlannedDelivery, Receipt
from receiver.schedules import Schedule, Window
from receiver.settings import ReceiverSettings, ReportSettings
from receiver.store import StoreUnavailableError

__all__ = ["ExporterError", "Reporter", "compose", "due", "fetch", "mail", "notification", "recipients"]

log = structlog.get_logger(__name__)

ALERT_NAME = "ColdChainHealthReport"
SOURCE = "report"

_FIGURES = "health"  # the annotation that holds the exporter's document
_TIMEOUT_SECONDS = 10
_LOOK_SECONDS = 15.0
_STILL_SENT = timedelta(hours=1)  # a report missed while no receiver ran; later it would be another day's
_ASKED_AGAIN = timedelta(minutes=5)  # an exporter that does not answer; then the mail says so


class ExporterError(Exception):
    """The exporter did not give its health; the message says why, without a secret, and `korean` says it in Korean."""

    def __init__(self, english: str, korean: str) -> None:
        super().__init__(english)
        self.korean = korean


@dataclass(frozen=True)
class Section:
    """A part of the report: its title and its lines."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """The report in words, before it is put into a form."""

    locale: str
    title: str
    status_label: str
    status: str
    sections: tuple[Section, ...]
    taken: str

    @property
    def text(self) -> str:
        """All of it as plain text."""
        parts = [f"{self.status_label}: {self.status}"]
        parts += ["\n".join([section.title, *(f"- {line}" for line in section.lines)]) for section in self.sections]
        return "\n\n".join(part for part in (*parts, self.taken) if part)


@dataclass(frozen=True)
class _Words:
    title: str
    status_label: str
    database: str
    resources: str
    application: str
    status: str
    response: str
    memory: str
    disk: str
    orders: str
    dispatches: str
    vehicles: str
    cause: str
    unknown: str
    count: str
    fleet: str
    taken: str


_WORDS = {
    "ko": _Words(
        title="시스템 상태 보고",
        status_label="시스템 상태",
        database="데이터베이스",
        resources="시스템 리소스",
        application="애플리케이션",
        status="상태",
        response="응답 시간",
        memory="메모리",
        disk="디스크",
        orders="최근 24시간 주문",
        dispatches="활성 배차",
        vehicles="활성 차량",
        cause="원인",
        unknown="알 수 없음",
        count="{}건",
        fleet="{}대",
        taken="기준 시각",
    ),
    "en": _Words(
        title="System health report",
        status_label="System status",
        database="Database",
        resources="System resources",
        application="Application",
        status="Status",
        response="Response time",
        memory="Memory",
        disk="Disk",
        orders="Orders in the last 24 hours",
        dispatches="Active dispatches",
        vehicles="Active vehicles",
        cause="Cause",
        unknown="unknown",
        count="{}",
        fleet="{}",
        taken="As of",
    ),
}


def fetch(settings: ReportSettings) -> dict[str, Any]:
    """The exporter's document; raises ExporterError."""
    url = settings.exporter_url
    password = settings.exporter_password.get_secret_value() if settings.exporter_password is not None else ""
    try:
        answer = requests.get(
            f"{url}/api/v1/monitoring/health",
            auth=(settings.exporter_user, password) if settings.exporter_user is not None else None,
            verify=str(settings.exporter_ca_file) if settings.exporter_ca_file is not None else True,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
        )
    except (requests.RequestException, OSError) as error:
        trouble = type(error).__name__
        raise ExporterError(
            f"the exporter at {url} is not reached: {trouble}", f"수집기({url})에 연결할 수 없습니다: {trouble}"
        ) from None
    if answer.status_code != 200:
        code = answer.status_code
        raise ExporterError(f"the exporter at {url} answered {code}", f"수집기({url})의 응답 코드가 {code}입니다")
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("status"), str):
        raise ExporterError(f"what answers at {url} is not the exporter", f"{url}에서 응답하는 것은 수집기가 아닙니다")
    return document


def compose(document: Mapping[str, Any], locale: str, zone: tzinfo) -> Report:
    """The guide's report; beside it the application's part, and why a part is not well."""
    words = _WORDS.get(locale, _WORDS["en"])
    checks = _table(document, "checks")
    database, resources, application = (
        _table(checks, name) for name in ("database", "system_resources", "application")
    )

    def section(title: str, check: Mapping[str, Any], figures: Mapping[str, tuple[str, str]]) -> Section:
        lines = [f"{words.status}: {check.get('status', words.unknown)}"]
        for label, (name, form) in figures.items():
            value = check.get(name)
            lines.append(f"{label}: {form.format(value) if isinstance(value, (int, float)) else words.unknown}")
        if check.get("error"):
            lines.append(f"{words.cause}: {check['error']}")
        return Section(title, tuple(lines))

    sections: tuple[Section, ...] = (
        section(words.database, database, {words.response: ("response_time_ms", "{:.0f}ms")}),
        section(
            words.resources,
            resources,
            {
                "CPU": ("cpu_percent", "{:.1f}%"),
                words.memory: ("memory_percent", "{:.1f}%"),
                words.disk: ("disk_percent", "{:.1f}%"),
            },
        ),
        section(
            words.application,
            application,
            {
                words.orders: ("recent_orders_24h", words.count),
                words.dispatches: ("active_dispatches", words.count),
                words.vehicles: ("active_vehicles", words.fleet),
            },
        ),
    )
    if not checks:
        cause = document.get(f"error_{locale}") or document.get("error", words.unknown)
        sections = (Section(words.cause, (str(cause),)),)
    return Report(
        locale=locale if locale in _WORDS else "en",
        title=words.title,
        status_label=words.status_label,
        status=str(document.get("status", words.unknown)),
        sections=sections,
        taken=_taken(document.get("timestamp"), words, zone),
    )


def _table(owner: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = owner.get(name)
    return found if isinstance(found, dict) else {}


def _taken(value: object, words: _Words, zone: tzinfo) -> str:
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return ""
    return f"{words.taken}: {at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def parts(report: Report) -> dict[str, str]:
    """The mail's parts."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("receiver"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    body = environment.get_template("report.html.j2").render(report=report)
    return {"subject": report.title, "text": f"{report.text}\n\n-- \nCold Chain Dispatch System", "html": body}


def notification(document: Mapping[str, Any], settings: ReceiverSettings, now: datetime) -> Notification:
    """The report as the outbox keeps it; a channel other than mail tells its text."""
    report = compose(document, settings.locale, settings.zone)
    alert = Alert(
        fingerprint=f"coldchain-report-{now:%Y%m%d%H%M}",
        firing=True,
        starts_at=now,
        labels={"alertname": ALERT_NAME, "severity": "info", "category": "system"},
        annotations={
            "summary": report.title,
            "description": report.text,
            _FIGURES: json.dumps(document, ensure_ascii=False),
        },
    )
    return Notification(group_key=f"report:{now.isoformat()}", alerts=(alert,))


def mail(told: Notification, locale: str, zone: tzinfo) -> dict[str, str] | None:
    """The mail's parts where this is a report and nothing else."""
    (first, *others) = told.alerts
    if others or first.name != ALERT_NAME or _FIGURES not in first.annotations:
        return None
    return parts(compose(json.loads(first.annotations[_FIGURES]), locale, zone))


def recipients(settings: ReceiverSettings) -> tuple[str, ...]:
    """Whom the report goes to."""
    return settings.report.to or settings.email.to


def due(settings: ReceiverSettings, now: datetime) -> datetime | None:
    """The time in the last hour for which a report is set, the latest of them; None where there is none."""
    days = Schedule(
        (Window(schedules.parse_days(settings.report.days)),),
        settings.zone,
        schedules.parse_holidays(settings.holidays),
    )
    today = now.astimezone(settings.zone).date()
    found = [
        at.astimezone(UTC)
        for day in (today - timedelta(days=1), today)
        for text in settings.report.at
        if days.covers(at := datetime.combine(day, time.fromisoformat(text), settings.zone))
    ]
    return max((at for at in found if now - _STILL_SENT < at <= now), default=None)


class Reporter:
    """Sends the report at its times; of several receivers on a store one does."""

    def __init__(
        self,
        outbox: Outbox,
        settings: Callable[[], ReceiverSettings],
        told: Callable[[Accepted], None],
        *,
        clock: Callable[[], datetime],
    ) -> None:
        """`settings` gives those in force; `told` is called with what was stored."""
        self._outbox = outbox
        self._settings = settings
        self._told = told
        self._clock = clock
        self._done: datetime | None = None

    def run(self, stopping: threading.Event) -> None:
        """Looks until it is to stop."""
        while not stopping.is_set():
            try:
                self.look()
            except StoreUnavailableError as error:
                log.warning("report not stored yet", error=str(error))
            stopping.wait(_LOOK_SECONDS)

    def look(self) -> None:
        """Sends what is due. Raises StoreUnavailableError."""
        settings, now = self._settings(), self._clock()
        at = due(settings, now)
        if at is None or at == self._done:
            return
        try:
            document = fetch(settings.report)
        except ExporterError as error:
            if now - at < _ASKED_AGAIN:
                return
            log.warning("report without figures", error=str(error))
            document = {"status": "unknown", "error": str(error), "error_ko": error.korean}
        told = notification(document, settings, at)
        to = Receipt("email", "", DIRECT, settings.locale, recipients(settings))
        planned = () if settings.unable["email"] else (PlannedDelivery(to, (0,), "info", firing=True),)
        accepted = self._outbox.add(
            told,
            lambda _earlier: planned,
            now=now,
            dedup_window=settings.dedup_window,
            give_up_after=settings.retry.give_up_after,
            source=SOURCE,
            asked=Asked.of(told.group_key, SOURCE),
        )
        self._done = at
        if not accepted.duplicate:
            log.info("report stored", at=str(at), recipients=len(to.recipients))
            self._told(accepted)
