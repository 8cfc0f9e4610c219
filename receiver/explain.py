"""`coldchain-receiver route`: who would be told of an alert by what, when and why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo

from receiver.audiences import routing as routing_of
from receiver.notification import Alert
from receiver.routing import Moment, Route, Routing, Taken
from receiver.settings import ReceiverSettings

__all__ = ["add", "explain", "run"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The sub-command."""
    route = commands.add_parser(
        "route",
        help="print who would be told of an alert, when and why",
        description="Prints who would be told of an alert with these labels, by which channel, when and why.",
    )
    route.add_argument("labels", nargs="*", metavar="LABEL=VALUE", help="such as severity=critical category=business")
    route.add_argument("--at", metavar="TIME", help="such as 2026-12-24T23:30, in the file's time_zone; default: now")


def run(options: argparse.Namespace, settings: ReceiverSettings) -> int:
    """0 after printing; 2 where a label or the time cannot be read."""
    try:
        labels = dict(_label(text) for text in options.labels)
        at = _time(options.at, settings.zone) if options.at else datetime.now(UTC)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in explain(labels, settings, at):
        print(line)
    return 0


def explain(labels: Mapping[str, str], settings: ReceiverSettings, at: datetime) -> Iterator[str]:
    """The answer, line by line."""
    alert = Alert("", firing=True, starts_at=at, labels=labels)
    yield f"{' '.join(f'{name}={value}' for name, value in labels.items()) or 'no labels'}, {_words(at, settings.zone)}"
    if alert.is_heartbeat or alert.severity == "none":
        why = "it only says that the monitoring is alive" if alert.is_heartbeat else "its severity is none"
        yield f"never delivered: {why}"
        return
    if alert.severity != labels.get("severity"):
        yield f"severity reads as {alert.severity}"
    routing = routing_of(settings)
    moment = Moment(routing, at)
    taken = moment.take(alert)
    yield from _routes(taken, routing)
    for name in taken.off_duty:
        yield f"{name}: not on duty (schedule {settings.groups[name].on_duty})"
    if not taken.receipts:
        yield f"nobody is told: no channel of {alert.severity} is on and has recipients"
    told = ""
    for receipt in taken.receipts:
        if receipt.audience != told:
            told = receipt.audience
            yield f"{told}:"
        recipients = ", ".join(receipt.recipients)
        quiet = moment.quiet(receipt.channel, receipt.audience, alert.severity)
        if quiet is None:
            yield f"  {receipt.channel:<6} now: {recipients}"
            continue
        rule = f"{quiet.rule}, schedule {settings.quiet[int(quiet.rule.partition('.')[2])].schedule}"
        when = f"held until {_words(quiet.until, settings.zone)}" if quiet.until is not None else "never"
        yield f"  {receipt.channel:<6} {when} ({rule}): {recipients}"
    yield from _silent(taken, routing, alert, settings)


def _routes(taken: Taken, routing: Routing) -> Iterator[str]:
    known: dict[str, Route] = {route.name: route for route in (*routing.routes, routing.default)}
    for name in taken.routes:
        if known[name] is routing.default:
            why = "no route takes it" if len(taken.routes) == 1 else "it would reach nobody otherwise"
            yield f"default: {why}"
        else:
            yield f"{name}: {', '.join(map(str, known[name].matchers))}"


def _silent(taken: Taken, routing: Routing, alert: Alert, settings: ReceiverSettings) -> Iterator[str]:
    """The channels that carry this severity and yet tell nobody."""
    known = {route.name: route for route in (*routing.routes, routing.default)}
    wanted = {channel for name in taken.routes for channel in known[name].channels.get(alert.severity, ())}
    for channel in sorted(wanted - {receipt.channel for receipt in taken.receipts}):
        missing = ", ".join(settings.missing[channel])
        yield f"{channel}: {'off, not set: ' + missing if missing else 'none of these groups has recipients'}"


def _words(at: datetime, zone: tzinfo) -> str:
    return at.astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z")


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or name.endswith("!") or value.startswith("~"):
        raise ValueError(f"{text!r} is no label: write one such as severity=critical")
    return name, value.strip('"')


def _time(text: str, zone: tzinfo) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--at: {text!r} is no time: write one such as 2026-12-24T23:30") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=zone)
