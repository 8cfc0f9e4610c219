"""Words: golden files for each channel, locale and state; hostile text arrives harmless."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver import alertmanager, messages, stories
from receiver.carriers import worded
from receiver.channels import slack, sms
from receiver.notification import Alert, Notification
from receiver.stories import Digest
from tests.receiver.making import alert, notification

GOLDEN = Path(__file__).parent / "golden"
SEOUL = ZoneInfo("Asia/Seoul")
TEMPLATES = messages.Templates()
SAMPLES = Path(__file__).parent / "samples"
RULES = Path(__file__).parent.parent / "deploy/rules"
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
    "warning": replace(notification(waiting()), external_url="http://alertmanager.example:9093"),
    "critical": notification(alert()),
    "resolved": notification(waiting(MINUTES)),
    "mixed_severities": notification(
        disk(1, "/", 85.1), alert(), alert("f2", severity="info", labels={"instance": "b"})
    ),
    "alike": notification(alert(), alert("f2")),
    "several": notification(disk(1, "/", 85.1), disk(2, "/var", 82.0)),
    "several_of_which_one_resolved": notification(disk(1, "/", 85.1), disk(2, "/var", 82.0, MINUTES)),
    "several_resolved": notification(disk(1, "/", 85.1, MINUTES), disk(2, "/var", 82.0, timedelta(hours=25))),
    "held_overnight": replace(
        notification(waiting(), disk(1, "/", 85.1, MINUTES), alert(severity="warning"), group_key="digest"),
        external_url="http://alertmanager.example:9093",
    ),
    "held_overnight_all_resolved": notification(waiting(MINUTES), disk(1, "/", 85.1, timedelta(hours=3))),
    "digest_of_a_storm": notification(
        *(disk(number, f"/srv/{number}", 81.0, MINUTES if number % 3 else None) for number in range(60)), alert()
    ),
    "digest_of_an_outage": notification(waiting(MINUTES), disk(1, "/", 85.1), alert()),
    "digest_all_resolved": notification(waiting(MINUTES), disk(1, "/", 85.1, timedelta(hours=3))),
    "instead_of_slack": notification(waiting()),
    "instead_of_sms": notification(alert()),
    "many": notification(*(disk(number, f"/srv/{number}", 81.0) for number in range(60))),
    "long_message": notification(
        alert(
            severity="critical",
            summary="주문 연동 지연",
            description="ERP 주문 연동이 30분째 지연되고 있습니다.\n\n마지막 성공: 09:12\n대기: 134건\n\n"
            "연동 서버(erp-02)의 상태를 확인해 주세요.",
        )
    ),
    "long_title": notification(alert(summary="배차 최적화 작업이 끝나지 않아 오늘 오후의 배차가 확정되지 않음")),
    "bare": notification(alert(severity=None, category="", summary="", description="")),
    "sample_firing_3": sample("firing_3"),
    "sample_truncated_2_of_5": sample("truncated_2_of_5"),
}


def rendered(
    told: Notification,
    channel: str,
    locale: str = "ko",
    templates: messages.Templates = TEMPLATES,
    digest: Digest = "",
    instead_of: str | None = None,
) -> Mapping[str, str]:
    """As the receiver renders it."""
    story = stories.story(told, locale=locale, zone=SEOUL, digest=digest, instead_of=instead_of)
    parts = worded(templates, story, channel, locale)
    return parts | {"text": sms.choose(parts["text"])} if channel == "sms" else parts


@pytest.mark.parametrize("locale", ["ko", "en"])
@pytest.mark.parametrize("channel", ["email", "slack", "sms"])
@pytest.mark.parametrize("case", CASES)
def test_words(golden: Callable[[Path, str], None], case: str, channel: str, locale: str) -> None:
    digest: Digest = "held" if case.startswith("held") else "gathered" if case.startswith("digest") else ""
    instead_of = case.removeprefix("instead_of_") if case.startswith("instead_of") else None
    for part, text in rendered(CASES[case], channel, locale, digest=digest, instead_of=instead_of).items():
        suffix = "html" if part == "html" else "txt"
        golden(GOLDEN / locale / case / f"{channel}.{part}.{suffix}", text + "\n")


@pytest.mark.parametrize("locale", ["ko", "en"])
@pytest.mark.parametrize("case", CASES)
def test_sms_keeps_to_ninety_bytes(case: str, locale: str) -> None:
    assert sms.byte_length(rendered(CASES[case], "sms", locale)["text"]) <= 90


def test_sms_of_a_title_that_is_too_long_is_a_long_message() -> None:
    told = notification(alert(summary="가" * 60, description="나" * 60))
    assert rendered(told, "sms")["text"] == f"[위험] {'가' * 60}\n{'나' * 60}"


def test_sms_cuts_a_long_message_after_a_title_with_signs_that_carriers_lack() -> None:
    told = notification(alert(summary="주문 연동 — 지연", description="나" * 60))
    assert rendered(told, "sms")["text"] == f"[위험] 주문 연동 - 지연\n{'나' * 32}…"


def shipped() -> list[dict[str, str]]:
    """The annotations of every alert that the rules' own tests expect."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(RULES.glob("*.yml"))]
    tests = [test for file in files for one in file["tests"] for test in one.get("alert_rule_test", [])]
    return [one["exp_annotations"] for test in tests for one in test.get("exp_alerts") or [] if one["exp_annotations"]]


@pytest.mark.parametrize("locale", ["ko", "en"])
def test_sms_of_every_shipped_alert_says_what_happened_within_ninety_bytes(locale: str) -> None:
    """A whole description with or without its title, or else as much of it as there is room for."""
    told = {
        found.get(f"description_{locale}") or found["description"]: rendered(
            notification(alert(severity="critical", summary=found["summary"], annotations=found)), "sms", locale
        )["text"]
        for found in shipped()
        if "description" in found
    }
    assert len(told) > 20
    assert {said: text for said, text in told.items() if sms.byte_length(text) > 90 or said[:20] not in text} == {}


# A site's own templates


def own(folder: Path, name: str, text: str) -> tuple[messages.Templates, list[str]]:
    """Templates of which one is a site's own, and the failures that they report."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    failures: list[str] = []
    return messages.Templates(folder, failed=lambda channel, _, error: failures.append(f"{channel}: {error}")), failures


def test_own_template_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    templates, failures = own(tmp_path, "ko/slack.text.j2", "{{ story.message }} !")
    parts = rendered(CASES["critical"], "slack", templates=templates)
    assert parts["text"] == "CPU 사용률이 95.3%로 매우 높습니다 !"
    assert parts["headline"] == rendered(CASES["critical"], "slack")["headline"]
    assert rendered(CASES["critical"], "slack", "en", templates) == rendered(CASES["critical"], "slack", "en")
    assert failures == []


def test_own_form_for_all_languages(tmp_path: Path) -> None:
    templates, _ = own(tmp_path, "shared/email.subject.j2", "({{ locale }}) {{ story.title }}")
    assert rendered(CASES["critical"], "email", "en", templates)["subject"] == "(en) CPU 사용률 높음"


def test_own_words_change_every_form(tmp_path: Path) -> None:
    built_in = Path(messages.__file__).parent / "templates/ko/words.j2"
    templates, _ = own(tmp_path, "ko/words.j2", built_in.read_text(encoding="utf-8").replace("조치 방법", "대응 절차"))
    for channel, part in (("slack", "text"), ("email", "html"), ("email", "text")):
        assert "대응 절차" in rendered(CASES["warning"], channel, templates=templates)[part]


def test_own_sms_may_cut_a_text_as_the_carriers_count(tmp_path: Path) -> None:
    templates, failures = own(tmp_path, "ko/sms.text.j2", "{{ story.message | within(21) }}")
    assert rendered(CASES["critical"], "sms", templates=templates)["text"] == "CPU 사용률이 95.3%…"
    assert failures == []


@pytest.mark.parametrize("channel", ["email", "slack", "sms"])
@pytest.mark.parametrize("locale", ["ko", "en"])
def test_built_in_templates_say_the_same_in_the_sandbox(tmp_path: Path, channel: str, locale: str) -> None:
    templates, failures = own(tmp_path, "shared/unused.j2", "")
    for case in CASES.values():
        assert rendered(case, channel, locale, templates) == rendered(case, channel, locale)
    assert failures == []


def test_new_language_is_one_file(tmp_path: Path) -> None:
    built_in = Path(messages.__file__).parent / "templates/en/words.j2"
    templates, _ = own(
        tmp_path, "de/words.j2", built_in.read_text(encoding="utf-8").replace("Resolved after", "Behoben nach")
    )
    assert messages.locales(tmp_path) == {"de", "en", "ko"}
    assert "Behoben nach 12 min" in rendered(CASES["resolved"], "slack", "de", templates)["text"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% if %}", "Expected an expression, got 'end of statement block'"),
        ("{{ story.nothing }}", "'receiver.stories.Story object' has no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ story.at + 1 }}", "unsupported operand"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% include 'nowhere.j2' %}", "nowhere.j2"),
        ("{% include 'ko/slack.text.j2' %}", "recursion"),
        ("   ", "comes to nothing"),
    ],
)
def test_broken_template_costs_no_message(tmp_path: Path, text: str, words: str) -> None:
    templates, failures = own(tmp_path, "ko/slack.text.j2", text)
    assert rendered(CASES["critical"], "slack", templates=templates) == rendered(CASES["critical"], "slack")
    (failure,) = failures
    assert failure.startswith("slack: ")
    assert words in failure


def test_template_can_neither_read_files_nor_change_anything(tmp_path: Path) -> None:
    for text in ("{% include '../../../etc/passwd' %}", "{{ story.lead.__init__.__globals__ }}", "{{ [].append(1) }}"):
        templates, failures = own(tmp_path, "ko/sms.text.j2", text)
        assert rendered(CASES["critical"], "sms", templates=templates) == rendered(CASES["critical"], "sms")
        assert len(failures) == 1


def test_language_that_is_gone_by_now_is_told_in_english() -> None:
    assert rendered(CASES["resolved"], "sms", "fr")["text"] == "[RESOLVED] 배차 대기 주문 많음\nResolved after 12 min"


def test_message_goes_out_even_where_the_built_in_templates_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(messages, "_TEMPLATES", tmp_path)
    templates = messages.Templates()
    assert rendered(CASES["critical"], "slack", templates=templates) == {
        "headline": "[CRITICAL] CPU 사용률 높음",
        "text": "[CRITICAL] CPU 사용률 높음\nCPU 사용률 높음: CPU 사용률이 95.3%로 매우 높습니다",
    }


# Links


def test_silence_is_of_exactly_what_fires() -> None:
    firing = [alert(labels={"path": 'C:\\ "x"'}), alert("f2", labels={"path": 'C:\\ "x"', "instance": "b"})]
    ended = alert("f3", name="Other", resolved_after=MINUTES)
    told = replace(notification(*firing, ended), external_url="http://alertmanager.example:9093/")
    url = stories.story(told, locale="ko", zone=SEOUL).silence
    address, _, query = url.partition("?filter=")
    assert address == "http://alertmanager.example:9093/#/silences/new"
    assert unquote(query).strip("{}").split(",") == [
        'alertname="ColdChainCpuHigh"',
        'category="system"',
        'job="coldchain-exporter"',
        r'path="C:\\ \"x\""',
        'severity="critical"',
    ]


@pytest.mark.parametrize(
    "alerts",
    [(alert(resolved_after=MINUTES),), (alert(), alert("f2", name="Other"))],
    ids=["nothing fires", "nothing but the severity is shared"],
)
def test_silence_is_not_offered(alerts: tuple[Alert, ...]) -> None:
    told = replace(notification(*alerts), external_url="http://alertmanager.example:9093")
    assert stories.story(told, locale="ko", zone=SEOUL).silence == ""


def test_links_are_those_of_the_readers_language() -> None:
    urls = {"runbook_url": "https://x.example/ko", "runbook_url_en": "https://x.example/en"}
    told = notification(alert(annotations=urls))
    found = {locale: stories.story(told, locale=locale, zone=SEOUL).runbook for locale in ("ko", "en")}
    assert found == {"ko": "https://x.example/ko", "en": "https://x.example/en"}


def test_link_that_is_right_for_one_alert_only_stands_beside_it() -> None:
    told = CASES["held_overnight"]
    assert stories.story(told, locale="ko", zone=SEOUL).runbook == ""
    assert rendered(told, "email")["text"].count("조치 방법: https://docs.example.com") == 1


# Mail


def test_runbook_of_many_alerts_in_a_digest_is_given_once() -> None:
    runbooks = {name: {"runbook_url": f"https://docs.example.com/{name}"} for name in ("cpu", "disk")}
    told = notification(
        *(alert(f"c{n}", labels={"instance": str(n)}, annotations=runbooks["cpu"]) for n in range(3)),
        *(disk(n, f"/{n}", 0.9) for n in range(2)),
        alert("d", name="Disk", annotations=runbooks["disk"]),
    )
    parts = rendered(told, "email", digest="gathered")
    for link in ("https://docs.example.com/cpu", "https://docs.example.com/disk"):
        assert (parts["text"].count(link), parts["html"].count(link)) == (1, 1)


@pytest.mark.parametrize("locale", ["ko", "en"])
@pytest.mark.parametrize("case", CASES)
def test_text_of_a_mail_says_what_its_page_says(case: str, locale: str) -> None:
    parts = rendered(CASES[case], "email", locale)
    page = re.sub(r"<style>.*?</style>|<head>.*?</head>", "", parts["html"], flags=re.DOTALL)
    links = {html.unescape(url) for url in re.findall(r'href="([^"]+)"', page)}
    shown = html.unescape(re.sub(r"<[^>]+>", " ", page))
    assert links == set(re.findall(r"https?://\S+", parts["text"]))
    bare = re.sub(r"https?://\S+|^- |^-- $", " ", parts["text"], flags=re.MULTILINE).replace(": ", " ")
    assert sorted(bare.split()) == sorted(shown.replace(": ", " ").split())


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


def test_no_sign_is_left_in_a_text_for_all_others_being_printable() -> None:
    signs = [chr(number) for number in range(0x10000)]
    assert [sign for sign in signs if stories.plain(f"a {sign}b", 9) != stories.plain(f"a\n{sign}b", 9)] == []


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
    story = stories.story(
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
    story = stories.story(notification(), locale="ko", zone=SEOUL)
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
    story = stories.story(notification(alert(annotations={"runbook_url": url})), locale="ko", zone=SEOUL)
    assert story.lead.runbook == (url if kept else "")


def test_escaping_reaches_every_text_of_a_story() -> None:
    story = stories.story(hostile("<"), locale="ko", zone=SEOUL)
    escaped = messages._escaped(story, slack.escape)
    assert "<" not in "".join(map(str, dataclasses.astuple(escaped)))


TEXTS = st.text(max_size=60) | st.sampled_from(["", "none", "critical", "https://example.com/", "{{ story }}", "%s"])
NAMES = st.sampled_from(
    ["alertname", "severity", "category", "instance", "job", "summary", "description", "mountpoint"]
)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - as it asks
ALERTS = st.builds(
    Alert,
    fingerprint=st.text(min_size=1, max_size=16),
    firing=st.booleans(),
    starts_at=TIMES,
    ends_at=st.none() | TIMES,
    labels=st.dictionaries(NAMES, TEXTS, max_size=5),
    annotations=st.dictionaries(NAMES, TEXTS, max_size=4),
    generator_url=TEXTS,
)


@given(st.lists(ALERTS, min_size=1, max_size=4).map(tuple), st.sampled_from(["ko", "en"]))
@settings(max_examples=100, deadline=None)
def test_whatever_is_accepted_can_be_put_into_words(alerts: tuple[Alert, ...], locale: str) -> None:
    told = notification(*alerts, truncated=len(alerts) - 1)
    for channel in ("email", "slack", "sms"):
        for part, text in rendered(told, channel, locale).items():
            assert text.strip(), part
