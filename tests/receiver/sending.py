"""Channels that send to the sandbox, with secrets that must be seen nowhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from pydantic import SecretStr

from deploy.demo.sandbox import Sandbox
from receiver.channels import Channel, DeliveryError, Doubt, Message, Outcome
from receiver.channels.email import Email, EmailSettings
from receiver.channels.slack import Slack, SlackSettings
from receiver.channels.sms import Sms, SmsSettings

PATIENCE = timedelta(seconds=0.5)  # for peers that never answer
MAILBOXES = ("a@example.com", "b@example.com")
NUMBERS = ("01012345678", "01087654321")


def message(
    text: str = "CPU 사용률이 95.3%로 매우 높습니다",
    *,
    headline: str = "[CRITICAL] CPU 사용률 높음",
    html: str = "<p>높음</p>",
    sms: str | None = None,
    firing: bool = True,
) -> Message:
    """With the parts of every channel."""
    parts = {"subject": headline, "headline": headline, "html": html, "text": text if sms is None else sms}
    return Message("coldchain.1", "coldchain.group", "critical", firing=firing, parts=parts)


def email_settings(sandbox: Sandbox, **more: Any) -> EmailSettings:
    host, port = sandbox.smtp
    asked = {
        "host": host,
        "port": port,
        "tls": "none",
        "sender": "콜드체인 <noreply@example.com>",
        "to": MAILBOXES,
        "timeout": PATIENCE,
    }
    return EmailSettings(**(asked | more))


def slack_settings(sandbox: Sandbox, **more: Any) -> SlackSettings:
    return SlackSettings(**({"webhook_url": SecretStr(sandbox.slack_webhook_url), "timeout": PATIENCE} | more))


def sms_settings(sandbox: Sandbox, **more: Any) -> SmsSettings:
    asked = {
        "api_key": SecretStr("sandbox-key"),
        "user_id": "sandbox",
        "sender": "02-1234-5678",
        "to": NUMBERS,
        "base_url": sandbox.aligo_base_url,
        "timeout": PATIENCE,
    }
    return SmsSettings(**(asked | more))


CHANNELS: dict[str, tuple[Callable[[Sandbox], Channel], Sequence[str], re.Pattern[str]]] = {
    "email": (lambda sandbox: Email(email_settings(sandbox)), MAILBOXES, re.compile("mail-secret")),
    "slack": (lambda sandbox: Slack(slack_settings(sandbox)), ("default",), re.compile("T0/B0|services/")),
    "sms": (lambda sandbox: Sms(sms_settings(sandbox)), NUMBERS, re.compile("sandbox-key")),
}
"""For each its opening, its recipients, and what must not be seen."""


def attempt(
    channel: Channel, told: Message, recipients: Sequence[str], doubt: Doubt | None = None
) -> Outcome | DeliveryError:
    """One attempt as a worker makes it."""
    try:
        return channel.send(told, recipients, doubt=doubt)
    except DeliveryError as error:
        return error


def taken(outcome: Outcome | DeliveryError) -> list[str]:
    """The recipients whose message the peer took."""
    assert not isinstance(outcome, DeliveryError), outcome
    return [recipient for recipient, result in outcome.items() if not isinstance(result, DeliveryError)]
