"""Slack: the guide's form, its colours, its limits kept by shortening."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.demo.sandbox import Sandbox
from receiver.channels import DeliveryError
from receiver.channels.slack import Slack, SlackSettings, escape, fits
from tests.receiver.sending import attempt, message, slack_settings


def posted(sandbox: Sandbox, headline: str = "h", text: str = "t", **more: Any) -> dict[str, Any]:
    """What arrives of one message."""
    channel = Slack(slack_settings(sandbox))
    outcome = attempt(channel, message(text, headline=headline, **more), ["default"])
    channel.close()
    assert outcome == {"default": None}
    payload: dict[str, Any] = sandbox.messages("slack")[-1]["payload"]
    return payload


def test_headline_stands_above_a_coloured_bar(sandbox: Sandbox) -> None:
    assert posted(sandbox, "🟠 [WARNING] 제목", "내용") == {
        "text": "🟠 [WARNING] 제목",
        "attachments": [
            {
                "color": "#d32f2f",
                "text": "내용",
                "footer": "Cold Chain Dispatch System",
                "mrkdwn_in": ["text"],
            }
        ],
    }


def test_resolved_is_green(sandbox: Sandbox) -> None:
    assert posted(sandbox, firing=False)["attachments"][0]["color"] == "#2eb886"


@pytest.mark.parametrize(
    ("headline", "text", "length", "end"),
    [
        ("가" * 150, "t", (150, 1), "가"),
        ("가" * 151, "t", (150, 1), "가…"),
        ("h", "가" * 3_001, (1, 3_000), "가…"),
        ("h", "가" * 2_997 + "&amp;", (1, 2_998), "가…"),  # not within an escaped character
        ("h", "&lt;" + "가" * 2_993 + "&amp;", (1, 2_998), "가…"),
        ("h", "가" * 2_994 + "&amp;가가", (1, 3_000), "&amp;…"),
    ],
)
def test_what_is_too_long_is_cut(sandbox: Sandbox, headline: str, text: str, length: tuple[int, int], end: str) -> None:
    payload = posted(sandbox, headline, text)
    body = payload["attachments"][0]["text"]
    assert (len(payload["text"]), len(body)) == length
    assert (payload["text"] + body).endswith(end) or payload["text"].endswith(end)


@pytest.mark.parametrize(("parts", "expected"), [((150, 3_000), True), ((151, 3_000), False), ((150, 3_001), False)])
def test_fits_says_whether_anything_would_be_cut(parts: tuple[int, int], expected: bool) -> None:
    assert fits({"headline": "h" * parts[0], "text": "t" * parts[1]}) is expected


def test_only_three_characters_are_escaped() -> None:
    assert escape("<!channel> & *_~` \"'") == "&lt;!channel&gt; &amp; *_~` \"'"


def test_unknown_hook_is_refused_without_a_call(sandbox: Sandbox) -> None:
    outcome = attempt(Slack(slack_settings(sandbox)), message(), ["other"])
    assert isinstance(outcome, dict)
    error = outcome["other"]
    assert isinstance(error, DeliveryError)
    assert (str(error), error.permanent) == ("Slack hook other is not configured", True)
    assert sandbox.calls("slack") == []


@pytest.mark.parametrize("url", ["hooks.slack.com/services/T0/B0/x", "ftp://hooks.slack.com/x", "https:///x"])
def test_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected the hook's address") as caught:
        SlackSettings(webhook_url=url)
    assert url not in str(caught.value).split("pydantic.dev")[0]
