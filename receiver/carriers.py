"""Every channel that can send: how it is opened, at what pace it sends, and how a claim becomes its message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from receiver import heartbeat, report, stories
from receiver.channels import Message
from receiver.channels import slack as slack_channel
from receiver.channels.email import Email
from receiver.channels.slack import Slack
from receiver.channels.sms import Sms
from receiver.delivery import Carrier
from receiver.digest import Gathering
from receiver.messages import Templates
from receiver.outbox import Claim
from receiver.settings import ReceiverSettings
from receiver.stories import Story

__all__ = ["carriers", "render", "worded"]


def carriers(settings: ReceiverSettings, words: Callable[[Claim], Message]) -> dict[str, Carrier]:
    """Of the channels that can send, whether they have recipients of their own or not: a program may name some."""
    by_rate = Gathering(settings.storm.rate)
    # Aligo can be asked for a message in doubt, by its words: so those stay as they are.
    by_ceiling = Gathering(settings.sms.rate, unanswered=False)
    found = {
        "email": Carrier(lambda: Email(settings.email), words, settings.email.workers, gathering=by_rate),
        "slack": Carrier(
            lambda: Slack(settings.slack), words, settings.slack.workers, settings.slack.pause, gathering=by_rate
        ),
        "sms": Carrier(lambda: Sms(settings.sms), words, settings.sms.workers, gathering=by_ceiling),
    }
    return {name: carrier for name, carrier in found.items() if not settings.unable[name]}


def render(claim: Claim, settings: ReceiverSettings, templates: Templates) -> Message:
    """A claim's message in its channel's words."""
    zone = settings.group_zone(claim.audience)
    held = claim.merged > 0 and claim.held_until is not None
    told = stories.story(
        heartbeat.in_zone(claim.notification, settings.zone, zone),
        locale=claim.locale,
        zone=zone,
        digest="held" if held else "gathered" if claim.groups > 1 else "",
        instead_of=claim.instead_of,
    )
    parts = report.mail(claim.notification, claim.locale, zone) if claim.channel == "email" else None
    return Message(
        id=f"coldchain.{_digest(str(claim.created_at))}.{claim.id}",
        thread=f"coldchain.{claim.thread if claim.groups == 1 else _digest(claim.audience)}",
        severity=told.severity,
        firing=told.firing,
        parts=parts or worded(templates, told, claim.channel, claim.locale),
    )


def worded(templates: Templates, told: Story, channel: str, locale: str) -> dict[str, str]:
    """A story in a channel's words, as much of it as the channel takes."""
    if channel == "slack":
        return templates.render(told, channel, locale, fits=slack_channel.fits, escape=slack_channel.escape)
    return templates.render(told, channel, locale)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
