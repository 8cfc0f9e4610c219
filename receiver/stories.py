"""What a message tells, before it is put into words: alerts with clean texts, local times and safe links."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Literal, TypeAlias
from urllib.parse import quote

from receiver.matchers import Matcher
from receiver.notification import Alert, Notification, Severity, highest

__all__ = ["Digest", "Entry", "Story", "link", "plain", "story"]

Digest: TypeAlias = Literal["", "held", "gathered"]
"""Why several notifications are one message: held back together, or too many or too late to go singly."""

_LONGEST_TITLE = 200
_LONGEST_MESSAGE = 1_500
_LONGEST_VALUE = 200
_MOST_ENTRIES = 50
# What turns text around or hides it (Unicode 16, chapter 23): bidirectional controls, zero-width characters, BOMs.
_UNSEEN = re.compile("[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_NOT_DISTINGUISHING = {"alertname", "severity", "category", "job"}
_BLANK_LINES = re.compile("\n{3,}")
_SAFE_LINK = re.compile(r"https?://[^\s<>\"|]+\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One alert as it is told: cleaned text, local times, links that are safe to follow."""

    name: str
    title: str
    message: str
    where: str
    """The values of the labels in which it differs from the others of its name."""
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
    entries: tuple[Entry, ...]
    """Firing ones first; the more urgent before the less."""
    firing_count: int
    resolved_count: int
    hidden: int
    """How many of the alerts are not among the entries for want of room."""
    truncated: int
    """How many Alertmanager left out."""
    mixed: bool
    """Whether those that fire are of several severities."""
    instance: str
    """Where all of them are, if it is one place."""
    runbook: str
    """These two where one is right for all."""
    dashboard: str
    silence: str
    """Alertmanager's form for a silence of exactly these alerts; empty where nothing fires."""
    digest: Digest = ""
    instead_of: str = ""
    """The channel that should have told it and could not."""

    @property
    def lead(self) -> Entry:
        """The one that gives the title."""
        return self.entries[0]

    @property
    def count(self) -> int:
        return self.firing_count + self.resolved_count

    @property
    def listed(self) -> tuple[Entry, ...]:
        """The entries where there is anything to tell them apart by."""
        distinct = {(one.title, one.message, one.where, one.firing, one.lasted) for one in self.entries}
        return self.entries if len(distinct) > 1 else ()

    @property
    def total(self) -> int:
        return self.count + self.truncated

    @property
    def others(self) -> int:
        """How many there are beside the one that gives the title."""
        return (self.firing_count or self.resolved_count) - 1 + (self.truncated if self.firing else 0)


def plain(text: str, longest: int) -> str:
    """One line without anything that could move or hide other text, `…` where it was cut."""
    # a hostile text may be megabytes: what could not be shown anyway is not cleaned first
    line = " ".join(_cleaned(text[: longest * 20]).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _paragraphs(text: str, longest: int) -> str:
    lines = [line.rstrip() for line in _cleaned(text[: longest * 20]).split("\n")]
    whole = _BLANK_LINES.sub("\n\n", "\n".join(lines).strip())
    return whole if len(whole) <= longest else whole[: longest - 1].rstrip() + "…"


def _cleaned(text: str) -> str:
    if text.isprintable():  # then there is nothing of what is replaced here
        return text
    return _CONTROL.sub(" ", _UNSEEN.sub("", _LINE_ENDS.sub("\n", text).replace("\t", " ")))


def story(
    notification: Notification, *, locale: str, zone: tzinfo, digest: Digest = "", instead_of: str | None = None
) -> Story:
    """The facts of a notification as they are told to readers of one language in one time zone."""
    alerts = sorted(
        (alert for alert in _newest_first(notification, digest) if not alert.is_heartbeat),
        key=lambda alert: (not alert.firing, alert.severity != "critical", alert.severity != "warning"),
    )
    names = {alert.name for alert in alerts[:_MOST_ENTRIES]}
    differing = {name: _differing([one for one in alerts if one.name == name]) for name in names}
    shown = tuple(_entry(alert, differing[alert.name], locale, zone) for alert in alerts[:_MOST_ENTRIES])
    firing = [alert for alert in alerts if alert.firing]
    lead = shown[0]
    told = [entry for entry in shown if entry.firing == lead.firing]
    categories = {entry.category for entry in told}
    alike = len({alert.name for alert in firing or alerts}) == 1
    return Story(
        severity=highest(alert.severity for alert in firing or alerts),
        firing=bool(firing),
        title=lead.title,
        same_title=all(entry.title == lead.title for entry in told),
        message=lead.message if all(entry.message == lead.message for entry in shown) else "",
        category=", ".join(sorted(categories - {""})),
        at=max(entry.at for entry in told),
        entries=shown,
        firing_count=len(firing),
        resolved_count=len(alerts) - len(firing),
        hidden=len(alerts) - len(shown),
        truncated=notification.truncated,
        mixed=len({alert.severity for alert in firing}) > 1,
        instance=plain(_common(alerts).get("instance", ""), _LONGEST_VALUE),
        runbook=lead.runbook if alike else "",
        dashboard=lead.dashboard if alike else "",
        silence=_silence(notification.external_url, firing),
        digest=digest,
        instead_of=instead_of or "",
    )


def _newest_first(notification: Notification, digest: Digest) -> Sequence[Alert]:
    """In a digest, where the outbox has them in the order of the last word on each."""
    return notification.alerts[::-1] if digest == "gathered" else notification.alerts


def _common(alerts: Sequence[Alert]) -> dict[str, str]:
    """The labels that all of them have alike."""
    first, *others = alerts
    return {name: value for name, value in first.labels.items() if all(one.labels.get(name) == value for one in others)}


def _silence(alertmanager: str, firing: Sequence[Alert]) -> str:
    """Alertmanager's page for a new silence, filled in with what these alerts share (its UI: Silences, `filter`)."""
    labels = _common(firing) if firing else {}
    if "alertname" not in labels:
        return ""  # what else they share is too much to silence
    matchers = ",".join(str(Matcher(name, "=", value)) for name, value in sorted(labels.items()))
    return link(f"{alertmanager.rstrip('/')}/#/silences/new?filter={quote(f'{{{matchers}}}', safe='')}")


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
        runbook=link(said("runbook_url")),
        dashboard=link(said("dashboard_url")),
        source=link(alert.generator_url),
    )


def link(url: str) -> str:
    """The address where it is one that a browser opens as a page, else nothing."""
    return url if len(url) <= 2_000 and _SAFE_LINK.match(url) else ""
