"""Slack by an incoming webhook: success is 200 and `ok`, the hook's address is a secret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, SecretStr

from receiver.channels import DeliveryError, Doubt, Message, Outcome, http
from receiver.notification import Severity
from serving.settings import Duration, Env, Settings

__all__ = ["Slack", "SlackSettings", "escape", "fits"]

FOOTER = "Cold Chain Dispatch System"
COLOURS: Mapping[Severity, str] = {"info": "#2eb886", "warning": "#ff9800", "critical": "#d32f2f", "none": "#2eb886"}
RESOLVED_COLOUR = "#2eb886"
HOOK = "default"
"""What the hook of SLACK_WEBHOOK_URL is called where its address must not appear."""

# https://docs.slack.dev: a header takes 150 characters and a section 3,000; more is folded or refused.
_LONGEST_HEADLINE = 150
_LONGEST_TEXT = 3_000
_CUT = "…"
# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, "Handling errors"; 400, 403, 404 and 410
# are given for a payload, a permission, a hook and a channel that will not be better the next time.
_PERMANENT = frozenset({400, 401, 403, 404, 405, 410, 413, 415, 422})


def _hook(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not http.is_address(value.get_secret_value()):
        raise ValueError("expected the hook's address, https://hooks.slack.com/services/…")
    return value


def _not_default(value: dict[str, SlackHook]) -> dict[str, SlackHook]:
    if HOOK in value:
        raise ValueError(f"{HOOK} is the hook of SLACK_WEBHOOK_URL: give this one another name")
    return value


class SlackHook(Settings):
    """One more hook: each posts to the channel that it was made for."""

    url: Annotated[SecretStr, AfterValidator(_hook)]


class SlackSettings(Settings):
    """Off without `webhook_url` and `hooks`."""

    webhook_url: Annotated[SecretStr | None, Env("SLACK_WEBHOOK_URL"), AfterValidator(_hook)] = None
    hooks: Annotated[dict[str, SlackHook], AfterValidator(_not_default)] = Field(default_factory=dict)
    timeout: Duration = timedelta(seconds=10)
    pause: Duration = timedelta(seconds=1)
    workers: Annotated[int, Field(ge=1, le=32)] = 1

    @property
    def missing(self) -> tuple[str, ...]:
        """The variables without which nothing is posted."""
        return () if self.addresses else ("SLACK_WEBHOOK_URL",)

    @property
    def addresses(self) -> dict[str, SecretStr]:
        """Every hook by its name."""
        first = {HOOK: self.webhook_url} if self.webhook_url is not None else {}
        return first | {name: hook.url for name, hook in self.hooks.items()}


def escape(text: str) -> str:
    """Exactly these three (docs.slack.dev, "Escaping text"); so `<!channel>` in an annotation pages nobody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fits(parts: Mapping[str, str]) -> bool:
    """Whether nothing would have to be cut."""
    return len(parts["headline"]) <= _LONGEST_HEADLINE and len(parts["text"]) <= _LONGEST_TEXT


class Slack:
    """The hooks' common connection."""

    name: ClassVar[str] = "slack"

    def __init__(self, settings: SlackSettings) -> None:
        self._hooks = settings.addresses
        self._peer = http.Peer("Slack", seconds=settings.timeout.total_seconds())

    def send(self, message: Message, recipients: Sequence[str], *, doubt: Doubt | None) -> Outcome:  # noqa: ARG002 - no hook can be asked
        return {hook: self._post(hook, _payload(message)) for hook in recipients}

    def close(self) -> None:
        self._peer.close()

    def _post(self, hook: str, payload: Mapping[str, Any]) -> DeliveryError | None:
        address = self._hooks.get(hook)
        if address is None:
            return DeliveryError(f"Slack hook {hook} is not configured", permanent=True)
        try:
            answer = self._peer.post(address.get_secret_value(), json.dumps(payload).encode(), "application/json")
        except DeliveryError as error:
            return error
        return _judge(answer)


def _payload(message: Message) -> dict[str, Any]:
    """The headline stands outside the bar: it is what a phone shows, and Slack never folds it."""
    colour = COLOURS[message.severity] if message.firing else RESOLVED_COLOUR
    return {
        "text": _cut(message.parts["headline"], _LONGEST_HEADLINE),
        "attachments": [
            {
                "color": colour,
                "text": _cut(message.parts["text"], _LONGEST_TEXT),
                "footer": FOOTER,
                "mrkdwn_in": ["text"],
            }
        ],
    }


def _cut(text: str, longest: int) -> str:
    """At most so long, and not within an escaped character."""
    if len(text) <= longest:
        return text
    kept = text[: longest - len(_CUT)]
    start = kept.rfind("&")
    if start != -1 and ";" not in kept[start:]:
        kept = kept[:start]
    return kept + _CUT


def _judge(answer: http.Answer) -> DeliveryError | None:
    body = answer.text.strip()
    if answer.status == 200 and body == "ok":
        return None
    text = f"Slack answered {answer.status} {' '.join(body.split())[:100]}".rstrip()
    return DeliveryError(
        text,
        permanent=answer.status in _PERMANENT,
        retry_after=_retry_after(answer.headers.get("Retry-After")),
    )


def _retry_after(value: str | None) -> timedelta | None:
    """Slack gives whole seconds."""
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return timedelta(seconds=min(int(value), 86_400))
