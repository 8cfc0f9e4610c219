"""`coldchain-receiver test` and `report`: one message here and now, past the store, and what came of it in a line."""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from receiver import notice, report, stories
from receiver.audiences import routing as routing_of
from receiver.carriers import carriers, worded
from receiver.channels import CHANNELS, DeliveryError, Message, Outcome
from receiver.messages import Templates
from receiver.notice import InvalidNoticeError
from receiver.report import ExporterError
from receiver.settings import ReceiverSettings

__all__ = ["add", "run_report", "run_test"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The sub-commands."""
    test = commands.add_parser("test", help="send a test message and say what happened")
    test.add_argument("channel", choices=CHANNELS)
    test.add_argument("--to", metavar="RECIPIENT", help="a mail address, number or Slack hook (default: as configured)")
    now = commands.add_parser("report", help="mail the health report now")
    now.add_argument("--to", metavar="ADDRESSES", help="mail addresses, comma-separated (default: as configured)")


def run_test(options: argparse.Namespace, settings: ReceiverSettings) -> int:
    """0 where the peer took the message for every recipient."""
    channel, now = options.channel, datetime.now(UTC)
    asked = notice.trial(channel, "info", settings.locale)
    if options.to is not None:
        asked[f"{channel}_recipients"] = options.to.split(",")
    try:
        told = notice.read(asked, settings)
    except InvalidNoticeError as error:
        print(f"error: --to: {str(error).partition(': ')[2]}", file=sys.stderr)
        return 1
    planned = notice.plan(told, routing_of(settings), settings, now, quiet=False)
    if channel in planned.errors:
        print(f"{channel}: {planned.errors[channel].replace(f'give {channel}_recipients', 'give --to')}")
        return 1
    notification = told.notification(now)
    templates = Templates(settings.templates_dir)

    def words(locale: str) -> Mapping[str, str]:
        story = stories.story(notification, locale=locale, zone=settings.zone)
        return worded(templates, story, channel, locale)

    return max(
        _send(channel, words(one.to.locale), one.to.recipients, settings, f"a test to {_names(one.to.recipients)}")
        for one in planned.deliveries
    )


def run_report(options: argparse.Namespace, settings: ReceiverSettings) -> int:
    """0 where the mail server took the report for every recipient."""
    try:
        told = notice.read(notice.trial("email", "info", settings.locale) | _to(options), settings)
        document = report.fetch(settings.report)
    except InvalidNoticeError as error:
        print(f"error: --to: {str(error).partition(': ')[2]}", file=sys.stderr)
        return 1
    except ExporterError as error:
        print(f"error: {error}. Check EXPORTER_URL and that the exporter is running.", file=sys.stderr)
        return 1
    to = told.recipients("email") or report.recipients(settings)
    if settings.unable["email"] or not to:
        missing = settings.unable["email"] or ("ALERT_EMAIL_TO, or give --to",)
        print(f"email: off, not set: {', '.join(missing)}")
        return 1
    composed = report.compose(document, settings.locale, settings.zone)
    return _send("email", report.parts(composed), to, settings, f"the report ({composed.status}) to {_names(to)}")


def _to(options: argparse.Namespace) -> dict[str, list[str]]:
    return {"email_recipients": options.to.split(",")} if options.to is not None else {}


def _names(recipients: Sequence[str]) -> str:
    return ", ".join(recipients)


def _send(name: str, parts: Mapping[str, str], recipients: Sequence[str], settings: ReceiverSettings, what: str) -> int:
    """Sends once and prints the outcome, a refusal in the peer's own words."""
    message = Message(f"coldchain.{uuid.uuid4().hex}", "coldchain.direct", "info", firing=True, parts=parts)
    channel = carriers(settings, lambda _claim: message)[name].open()
    outcome: Outcome
    try:
        outcome = channel.send(message, recipients, doubt=None)
    except DeliveryError as error:
        outcome = dict.fromkeys(recipients, error)
    finally:
        channel.close()
    refused = list(dict.fromkeys(str(one) for one in outcome.values() if isinstance(one, DeliveryError)))
    called = list(dict.fromkeys(one for one in outcome.values() if isinstance(one, str)))
    sent = f"sent {what}" + (f" (its number there: {', '.join(called)})" if called else "")
    print(f"{name}: {'; '.join(refused) or sent}")
    return 1 if refused else 0
