"""Words: golden files for each channel, locale and state; hostile text arrives harmless."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from receiver import alertmanager, messages
from receiver.channels import slack, sms
from receiver.notification import Alert, Notification
from tests.receiver.making import alert, notification

GOLDEN = Path(__file__).parent / "golden"
SEOUL = ZoneInfo("Asia/Seoul")
TEMPLATES = messages.Templates()
SAMPLES = Path(__file__).parent / "samples"
MINUTES = timedelta(minutes=12, seconds=5)


def waiting(resolved_after: timedelta | None = None) -> Alert:
    return alert(
        name="ColdChainOrdersWaiting",
        severity="warning",
        category="business",
        summary="배차 대기 주문 많음",
        description="2시간 이상 배차 대기 중인 주문이 11건 있습니다",
        resolved_after=resolved_after,
        annotations={
            "summary_en": "Many orders wait for dispatch",
            "description_en": "11 orders have waited for dispatch for over 2 hours",
            "runbook_url": "https://docs.example.com/runbooks/ko/ColdChainOrdersWaiting.md",
            "dashboard_url": "https://grafana.example.com/d/coldchain?var-x=1&y=2",
        },
    )


def disk(number: int, mountpoint: str, ratio: float, resolved_after: timedelta | None = None) -> Alert:
    return alert(
        f"disk{number}",
        name="ColdChainDiskHigh",
        severity="warning",
        summary="디스크 사용률 주의",
        description=f"{mountpoint} 디스크 사용률이 {ratio}%입니다",
        labels={"mountpoint": mountpoint},
        resolved_after=resolved_after,
    )


def sample(name: str) -> Notification:
    return alertmanager.parse((SAMPLES / f"{name}.json").read_bytes())


CASES: dict[str, Notification] = {
    "info": notification(
        alert(
            name="ColdChainVehicleUtilizationLow",
            severity="info",
            category="business",
            summary="차량 활용률 낮음",
            description="차량 활용률이 28.5%로 낮습니다",
        )
    ),
    "warning": notification(waiting()),
    "critical": notification(alert()),
    "resolved": notification(waiting(MINUTES)),
    "several": notification(disk(1, "/", 85.1), disk(2, "/var", 82.0)),
    "several_of_which_one_resolved": notification(disk(1, "/", 85.1), disk(2, "/var", 82.0, MINUTES)),
    "several_resolved": notification(disk(1, "/", 85.1, MINUTES), disk(2, "/var", 82.0, timedelta(hours=25))),
    "many": notification(*(disk(number, f"/srv/{number}", 81.0) for number in range(60))),
    "bare": notification(alert(severity=None, category="", summary="", description="")),
    "sample_firing_3": sample("firing_3"),
    "sample_truncated_2_of_5": sample("truncated_2_of_5"),
}


def rendered(told: Notification, channel: str, locale: str = "ko") -> Mapping[str, str]:
    """As the receiver renders it."""
    story = messages.story(told, locale=locale, zone=SEOUL)
    if channel == "slack":
        return TEMPLATES.render(story, channel, locale, fits=slack.fits, escape=slack.escape)
    parts = TEMPLATES.render(story, channel, locale)
    return parts | {"text": sms.choose(parts["text"])} if channel == "sms" else parts


@pytest.mark.parametrize("locale", ["ko", "en"])
@pytest.mark.parametrize("channel", ["email", "slack", "sms"])
@pytest.mark.parametrize("case", CASES)
def test_words(golden: Callable[[Path, str], None], case: str, channel: str, locale: str) -> None:
    for part, text in rendered(CASES[case], channel, locale).items():
        suffix = "html" if part == "html" else "txt"
        golden(GOLDEN / locale / case / f"{channel}.{part}.{suffix}", text + "\n")


def test_every_locale_has_every_part() -> None:
    folder = Path(messages.__file__).parent / "templates"
    found = {locale: {file.name for file in (folder / locale).glob("*.j2")} for locale in TEMPLATES.locales}
    assert found.keys() == {"ko", "en"}
    assert found["ko"] == found["en"]


@pytest.mark.parametrize("case", CASES)
def test_sms_keeps_to_ninety_bytes(case: str) -> None:
    assert sms.byte_length(rendered(CASES[case], "sms")["text"]) <= 90


# Hostile text

HOSTILE = (
    "줄\r\nBcc: x@example.com\n<!channel> <script>alert(1)</script> \u202egnirts\u202c \x00\x07 \u200b&amp; {{ 7 * 7 }}"
)


def hostile(text: str = HOSTILE) -> Notification:
    return notification(
        alert(
            category=text,
            summary=text,
            description=text,
            labels={"instance": text, "alertname": text},
            annotations={"runbook_url": "javascript:alert(1)", "dashboard_url": "https://x.example/<script>|"},
        ),
        alert("f2", summary=text, description=text, labels={"instance": "b"}),
        group_key=text,
    )


@pytest.mark.parametrize("channel", ["email", "slack", "sms"])
def test_hostile_text_neither_hides_nor_turns_nor_commands(channel: str) -> None:
    for part, text in rendered(hostile(), channel).items():
        assert not set(text) & set("\r\x00\x07\u200b\u202e\u202c"), part
        assert "49" not in text, part
        assert "<!channel>" not in text or channel != "slack", part
        assert "<script" not in text or part != "html", part
        assert "javascript:" not in text, part


@pytest.mark.parametrize(("channel", "part"), [("email", "subject"), ("slack", "headline")])
def test_hostile_title_is_one_line(channel: str, part: str) -> None:
    assert "\n" not in rendered(hostile(), channel)[part]


@pytest.mark.parametrize("channel", ["email", "slack", "sms"])
def test_a_hundred_kilobytes_become_a_message_that_can_be_read(channel: str) -> None:
    parts = rendered(hostile("가<&" * 33_000), channel)
    assert sum(map(len, parts.values())) < 50_000
    if channel == "slack":
        assert len(parts["headline"]) < 1_300  # what escaping makes of 200 characters; the channel cuts it


def test_slack_shows_as_many_alerts_as_fit_and_counts_the_rest() -> None:
    many = notification(*(disk(number, f"/srv/{'x' * 60}{number}", 81.0) for number in range(200)))
    parts = rendered(many, "slack")
    assert slack.fits(parts)
    shown = parts["text"].count("• ")
    assert 0 < shown < 50
    assert f"외 {200 - shown}건" in parts["text"]


# The story


def test_firing_ones_come_first_and_the_most_urgent_leads() -> None:
    story = messages.story(
        notification(
            alert("a", severity="critical", resolved_after=MINUTES),
            alert("b", severity="info"),
            alert("c", severity="warning"),
        ),
        locale="ko",
        zone=SEOUL,
    )
    assert [entry.severity for entry in story.entries] == ["warning", "info", "critical"]
    assert (story.severity, story.firing, story.firing_count, story.resolved_count) == ("warning", True, 2, 1)


def test_times_are_local() -> None:
    story = messages.story(notification(), locale="ko", zone=SEOUL)
    assert story.at.isoformat() == "2026-01-27T22:00:00+09:00"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://example.com/a?b=1&c=2", True),
        ("HTTP://example.com", True),
        ("javascript:alert(1)", False),
        ("https://example.com/a b", False),
        ("https://example.com/<b>", False),
        ("https://example.com/a|b", False),
        ("https://example.com/" + "a" * 2_000, False),
        ("/relative", False),
    ],
)
def test_only_a_page_is_linked(url: str, kept: bool) -> None:
    story = messages.story(notification(alert(annotations={"runbook_url": url})), locale="ko", zone=SEOUL)
    assert story.lead.runbook == (url if kept else "")


def test_escaping_reaches_every_text_of_a_story() -> None:
    story = messages.story(hostile("<"), locale="ko", zone=SEOUL)
    escaped = messages._escaped(story, slack.escape)
    assert "<" not in "".join(map(str, dataclasses.astuple(escaped)))
