"""Words: a notification's alerts in a language and a form, through the templates beside this module."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from receiver.notification import Alert, Notification, Severity, highest

__all__ = ["Entry", "Story", "Templates", "locales", "plain", "story"]

_TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_TITLE = 200
_LONGEST_MESSAGE = 1_500
_LONGEST_VALUE = 200
_MOST_ENTRIES = 50
# What turns text around or hides it (Unicode 16, chapter 23): bidirectional controls, zero-width characters, BOMs.
_UNSEEN = re.compile("[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_NOT_DISTINGUISHING = {"alertname", "severity", "category", "job"}
_SAFE_LINK = re.compile(r"https?://[^\s<>\"|]+\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One alert as it is told: cleaned text, local times, links that are safe to follow."""

    name: str
    title: str
    message: str
    where: str
    """The values of the labels in which it differs from the others of its message."""
    category: str
    severity: Severity
    firing: bool
    at: datetime
    """Its start, or its end when it has one."""
    lasted: timedelta | None
    runbook: str
    dashboard: str
    source: str


@dataclass(frozen=True)
class Story:
    """What a message tells, before it is put into words."""

    severity: Severity
    firing: bool
    title: str
    same_title: bool
    """Whether all its alerts have this title."""
    message: str
    """What all its alerts say alike; empty where each says something else."""
    category: str
    at: datetime
    lead: Entry
    entries: tuple[Entry, ...]
    """Firing ones first; the more urgent before the less."""
    firing_count: int
    resolved_count: int
    hidden: int
    """How many of the alerts are not among the entries for want of room."""
    truncated: int
    """How many Alertmanager left out."""
    alertmanager: str

    @property
    def count(self) -> int:
        return self.firing_count + self.resolved_count


def plain(text: str, longest: int) -> str:
    """One line without anything that could move or hide other text, `…` where it was cut."""
    # a hostile text may be megabytes: what could not be shown anyway is not cleaned first
    line = " ".join(_cleaned(text[: longest * 20]).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _paragraphs(text: str, longest: int) -> str:
    lines = [line.rstrip() for line in _cleaned(text[: longest * 20]).split("\n")]
    whole = re.sub("\n{3,}", "\n\n", "\n".join(lines).strip())
    return whole if len(whole) <= longest else whole[: longest - 1].rstrip() + "…"


def _cleaned(text: str) -> str:
    return _CONTROL.sub(" ", _UNSEEN.sub("", _LINE_ENDS.sub("\n", text).replace("\t", " ")))


def story(notification: Notification, *, locale: str, zone: tzinfo) -> Story:
    """The facts of a notification as they are told to readers of one language in one time zone."""
    alerts = sorted(
        (alert for alert in notification.alerts if not alert.is_heartbeat),
        key=lambda alert: (not alert.firing, alert.severity != "critical", alert.severity != "warning"),
    )
    differing = _differing(alerts)
    shown = tuple(_entry(alert, differing, locale, zone) for alert in alerts[:_MOST_ENTRIES])
    firing = [alert for alert in alerts if alert.firing]
    lead = shown[0]
    told = [entry for entry in shown if entry.firing == lead.firing]
    categories = {entry.category for entry in told}
    return Story(
        severity=highest(alert.severity for alert in firing or alerts),
        firing=bool(firing),
        title=lead.title,
        same_title=all(entry.title == lead.title for entry in told),
        message=lead.message if all(entry.message == lead.message for entry in shown) else "",
        category=", ".join(sorted(categories - {""})),
        at=max(entry.at for entry in told),
        lead=lead,
        entries=shown,
        firing_count=len(firing),
        resolved_count=len(alerts) - len(firing),
        hidden=len(alerts) - len(shown),
        truncated=notification.truncated,
        alertmanager=_link(notification.external_url),
    )


def _differing(alerts: Sequence[Alert]) -> list[str]:
    """The labels that tell these alerts apart."""
    names = sorted({name for alert in alerts for name in alert.labels} - _NOT_DISTINGUISHING)
    return [name for name in names if len({alert.labels.get(name) for alert in alerts}) > 1]


def _entry(alert: Alert, differing: Sequence[str], locale: str, zone: tzinfo) -> Entry:
    def said(name: str) -> str:
        return alert.annotations.get(f"{name}_{locale}") or alert.annotations.get(name, "")

    values = (plain(alert.labels.get(name, ""), _LONGEST_VALUE) for name in differing)
    name = plain(alert.name, _LONGEST_TITLE)
    return Entry(
        name=name,
        title=plain(said("summary"), _LONGEST_TITLE) or name or alert.fingerprint,
        message=_paragraphs(said("description") or said("message"), _LONGEST_MESSAGE),
        where=" · ".join(value for value in values if value),
        category=plain(alert.labels.get("category", ""), _LONGEST_VALUE),
        severity=alert.severity,
        firing=alert.firing,
        at=(alert.ends_at or alert.starts_at).astimezone(zone),
        lasted=max(alert.ends_at - alert.starts_at, timedelta(0)) if alert.ends_at is not None else None,
        runbook=_link(alert.annotations.get("runbook_url", "")),
        dashboard=_link(alert.annotations.get("dashboard_url", "")),
        source=_link(alert.generator_url),
    )


def _link(url: str) -> str:
    """The address where it is one that a browser opens as a page, else nothing."""
    return url if len(url) <= 2_000 and _SAFE_LINK.match(url) else ""


def locales(overrides: Path | None = None) -> set[str]:
    """The languages that there are words for, the built-in ones and those of a folder of one's own."""
    folders = [_TEMPLATES, *([overrides] if overrides is not None else [])]
    return {file.parent.name for folder in folders for file in folder.glob("*/*.*.j2")}


class Templates:
    """The words of every locale: `LOCALE/CHANNEL.PART.j2`. A part called `html` is told an escaped story.

    The facts are escaped before a template sees them: Jinja's own autoescaping trusts what an imported macro returns.
    """

    def __init__(self, folder: Path = _TEMPLATES) -> None:
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(folder),
            autoescape=False,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._parts: dict[tuple[str, str], list[str]] = {}
        for file in sorted(folder.glob("*/*.*.j2")):
            channel, part = file.name.split(".")[:2]
            self._parts.setdefault((file.parent.name, channel), []).append(part)

    @property
    def locales(self) -> set[str]:
        return {locale for locale, _ in self._parts}

    def render(
        self,
        told: Story,
        channel: str,
        locale: str,
        *,
        fits: Callable[[Mapping[str, str]], bool] = lambda _parts: True,
        escape: Callable[[str], str] | None = None,
    ) -> dict[str, str]:
        """The channel's parts with as many alerts as fit; the rest is said as a number."""
        told = _escaped(told, escape) if escape is not None else told
        room = len(told.entries)
        while True:
            parts = self._render(_shortened(told, room), channel, locale)
            if room <= 1 or fits(parts):
                return parts
            room = room // 2

    def _render(self, told: Story, channel: str, locale: str) -> dict[str, str]:
        parts = {}
        for part in self._parts[locale, channel]:
            template = self._environment.get_template(f"{locale}/{channel}.{part}.j2")
            parts[part] = _trimmed(template.render(story=_escaped(told, html.escape) if part == "html" else told))
        return parts


def _trimmed(text: str) -> str:
    """Blank lines of the templates' own making: at both ends, and more than one in a row."""
    return re.sub("\n{3,}", "\n\n", text.strip("\n"))


def _shortened(told: Story, room: int) -> Story:
    left_out = len(told.entries) - room
    return dataclasses.replace(told, entries=told.entries[:room], hidden=told.hidden + left_out)


def _escaped(value: Any, escape: Callable[[str], str]) -> Any:
    """The same facts with every text escaped, so that no template can forget it."""
    result = value
    if isinstance(value, str):
        result = escape(value)
    elif isinstance(value, tuple):
        result = tuple(_escaped(item, escape) for item in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _escaped(getattr(value, field.name), escape) for field in dataclasses.fields(value)}
        result = dataclasses.replace(value, **fields)
    return result
