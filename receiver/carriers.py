"""Every channel that can send: how it is opened, at what pace it sends, and how a claim becomes its message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

from receiver import messages, report
from receiver.channels import Channel, Message
from receiver.channels import slack as slack_channel
from receiver.channels.email import Email
from receiver.channels.slack import Slack
from receiver.channels.sms import Sms
from receiver.delivery import Carrier
from receiver.outbox import Claim
from receiver.settings import ReceiverSettings

__all__ = ["CHANNELS", "carriers", "render", "worded"]

CHANNELS = ("email", "slack", "sms")


def carriers(settings: ReceiverSettings, words: Callable[[Claim], Message]) -> dict[str, Carrier]:
    """Of the channels that can send, whether they have recipients of their own or not: a program may name some."""

    def carrier(open_channel: Callable[[], Channel], workers: int, pause: timedelta = timedelta(0)) -> Carrier:
        return Carrier(open_channel, words, workers, pause)

    found = {
        "email": carrier(lambda: Email(settings.email), settings.email.workers),
        "slack": carrier(lambda: Slack(settings.slack), settings.slack.workers, settings.slack.pause),
        "sms": carrier(lambda: Sms(settings.sms), settings.sms.workers),
    }
    return {name: carrier for name, carrier in found.items() if not settings.unable[name]}


def render(claim: Claim, settings: ReceiverSettings, templates: messages.Templates) -> Message:
    """A claim's message in its channel's words."""
    zone = settings.group_zone(claim.audience)
    told = messages.story(
        claim.notification,
        locale=claim.locale,
        zone=zone,
        digest="held" if claim.merged else "",
        instead_of=claim.instead_of,
    )
    parts = report.mail(claim.notification, claim.locale, zone) if claim.channel == "email" else None
    return Message(
        id=f"coldchain.{_digest(str(claim.created_at))}.{claim.id}",
        thread=f"coldchain.{claim.thread}",
        severity=told.severity,
        firing=told.firing,
        parts=parts or worded(templates, told, claim.channel, claim.locale),
    )


def worded(templates: messages.Templates, told: messages.Story, channel: str, locale: str) -> dict[str, str]:
    """A story in a channel's words, as much of it as the channel takes."""
    if channel == "slack":
        return templates.render(told, channel, locale, fits=slack_channel.fits, escape=slack_channel.escape)
    return templates.render(told, channel, locale)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
