"""Slack's incoming webhook: its limits, its words of refusal and its one message a second."""

import json
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

# https://docs.slack.dev/reference/block-kit/blocks, /messaging/formatting-message-text and the SDKs' validators.
MAX_TEXT = 40_000
MAX_BLOCKS = 50
MAX_ATTACHMENTS = 100
MAX_HEADER_TEXT = 150
MAX_SECTION_TEXT = 3_000
MAX_FIELDS = 10
MAX_FIELD_TEXT = 2_000
MAX_CONTEXT_ELEMENTS = 10
MAX_FOOTER = 300
TEXT_TYPES = {"plain_text", "mrkdwn"}


@dataclass(eq=False)
class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """What Slack says instead of `ok`."""

    status: int
    word: str


class Pace:
    """One message a second per hook, after a short burst: a token bucket for each. Not thread-safe."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._hooks: dict[str, tuple[float, float]] = {}

    def wait(self, hook: str, now: float) -> float:
        """Take a token, 0; without one the seconds until there is. A rate of 0 has no limit."""
        if not self._per_second:
            return 0
        tokens, since = self._hooks.get(hook, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        if tokens < 1:
            self._hooks[hook] = (tokens, now)
            return (1 - tokens) / self._per_second
        self._hooks[hook] = (tokens - 1, now)
        return 0


def retry_after(seconds: float) -> str:
    """`Retry-After` as Slack gives it: whole seconds."""
    return str(max(1, math.ceil(seconds)))


def payload(content_type: str, body: bytes) -> dict[str, Any]:
    """Read what was posted, as JSON or as a form's `payload`; raises Refused."""
    try:
        text = body.decode()
        if content_type.startswith("application/x-www-form-urlencoded"):
            text = parse_qs(text, strict_parsing=True)["payload"][0]
        found = json.loads(text)
    except (ValueError, KeyError) as error:
        raise Refused(400, "invalid_payload") from error
    if not isinstance(found, dict):
        raise Refused(400, "invalid_payload")
    _check(found)
    return found


def _check(message: dict[str, Any]) -> None:
    text = message.get("text", "")
    blocks = message.get("blocks", [])
    attachments = message.get("attachments", [])
    if not isinstance(text, str) or not _dicts(blocks) or not _dicts(attachments):
        raise Refused(400, "invalid_payload")
    if not (text or blocks or attachments):
        raise Refused(400, "no_text")
    if len(text) > MAX_TEXT:
        # Slack's page says that it truncates; a message cut in the middle is a fault here, so it is refused.
        raise Refused(400, "msg_too_long")
    if len(attachments) > MAX_ATTACHMENTS:
        raise Refused(400, "too_many_attachments")
    _check_blocks(blocks)
    for attachment in attachments:
        inner = attachment.get("blocks", [])
        if not _dicts(inner):
            raise Refused(400, "invalid_attachments")
        _check_blocks(inner)
        # As with the text: the limit is Slack's, the refusal ours.
        if len(str(attachment.get("footer", ""))) > MAX_FOOTER:
            raise Refused(400, "invalid_attachments")


def _check_blocks(blocks: list[dict[str, Any]]) -> None:
    if len(blocks) > MAX_BLOCKS or not all(_good_block(block) for block in blocks):
        raise Refused(400, "invalid_blocks")


def _good_block(block: dict[str, Any]) -> bool:
    match block.get("type"):
        case "header":
            return _good_text(block.get("text"), MAX_HEADER_TEXT, {"plain_text"})
        case "section":
            fields = block.get("fields", [])
            return (
                ("text" in block or bool(fields))
                and ("text" not in block or _good_text(block["text"], MAX_SECTION_TEXT, TEXT_TYPES))
                and _dicts(fields)
                and len(fields) <= MAX_FIELDS
                and all(_good_text(one, MAX_FIELD_TEXT, TEXT_TYPES) for one in fields)
            )
        case "context":
            elements = block.get("elements", [])
            return _dicts(elements) and 1 <= len(elements) <= MAX_CONTEXT_ELEMENTS
        case kind:
            return kind in {"divider", "actions", "image", "rich_text", "markdown", "video", "file", "input"}


def _good_text(text: object, most: int, types: set[str]) -> bool:
    if not isinstance(text, dict) or text.get("type") not in types or not isinstance(text.get("text"), str):
        return False
    return 1 <= len(text["text"]) <= most


def _dicts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
