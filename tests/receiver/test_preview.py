"""The commands that show before anything is sent: route, preview and check-config."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver import __main__ as program
from receiver import preview
from receiver.examples import EXAMPLES
from serving import logs
from tests.receiver.making import body
from tests.receiver.test_audiences import ENVIRON

TWO_GROUPS = """
    groups:
      시스템 관리자: {}
      배차 담당자: {email: [dispatch@example.com], slack: dispatch, on_duty: 업무시간}
    slack: {hooks: {dispatch: {url: https://hooks.slack.com/services/T/B/very-secret}}}
    holidays: [12-25]
    schedules:
      업무시간: {windows: [{days: mon-fri, hours: "09:00-18:00"}]}
      야간과 휴일: {windows: [{hours: "22:00-07:00"}, {days: [sat, sun, holiday]}]}
    routes:
      - {matchers: [category="business"], groups: 배차 담당자}
    default: {groups: 시스템 관리자}
    quiet:
      - {schedule: 야간과 휴일, channels: [email, slack]}
      - {schedule: 업무시간, channels: sms, severities: critical, action: suppress}
"""


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], str]]:
    """Runs the program with a file: exit code, lines of output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # it would last beyond this test
    for name in [*ENVIRON, "SLACK_WEBHOOK_URL_FILE"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "receiver.yaml"
    file.write_text(textwrap.dedent(TWO_GROUPS), encoding="utf-8")

    def work(*arguments: str) -> tuple[int, list[str], str]:
        code = program.main([f"--config.file={file}", *arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return work


Run = Callable[..., tuple[int, list[str], str]]


def test_route_says_who_is_told_when_and_why(run: Run) -> None:
    code, lines, _ = run("route", "severity=critical", "category=business", "--at", "2026-12-24T15:30")
    assert code == 0
    assert lines == [
        "severity=critical category=business, Thu 2026-12-24 15:30 KST",
        'routes.0: category="business"',
        "배차 담당자:",
        "  email  now: dispatch@example.com",
        "  slack  now: dispatch",
        "sms: none of these groups has recipients",
    ]


def test_route_says_what_is_held_and_who_is_off_duty(run: Run) -> None:
    _, lines, _ = run("route", "severity=warning", "category=business", "--at", "2026-12-24T23:30")
    assert lines == [
        "severity=warning category=business, Thu 2026-12-24 23:30 KST",
        'routes.0: category="business"',
        "default: it would reach nobody otherwise",
        "배차 담당자: not on duty (schedule 업무시간)",
        "시스템 관리자:",
        "  email  held until Mon 2026-12-28 07:00 KST (quiet.0, schedule 야간과 휴일): admin@example.com",
        "  slack  held until Mon 2026-12-28 07:00 KST (quiet.0, schedule 야간과 휴일): default",
    ]


def test_route_says_what_is_never_sent(run: Run) -> None:
    _, lines, _ = run("route", "severity=critical", "--at", "2026-12-24T15:30+09:00")
    assert lines[1:] == [
        "default: no route takes it",
        "시스템 관리자:",
        "  email  now: admin@example.com",
        "  sms    never (quiet.1, schedule 업무시간): 01087654321",
        "  slack  now: default",
    ]


def test_route_says_how_it_reads_a_severity(run: Run) -> None:
    _, lines, _ = run("route", "severity=page", "--at", "2026-12-24T15:30")
    assert lines[1] == "severity reads as warning"


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["severity=none"], "its severity is none"),
        (["alertname=ColdChainWatchdog", "severity=critical"], "it only says that the monitoring is alive"),
    ],
)
def test_route_of_what_is_never_delivered(run: Run, labels: list[str], why: str) -> None:
    _, lines, _ = run("route", *labels)
    assert lines[1:] == [f"never delivered: {why}"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["critical"], "'critical' is no label: write one such as severity=critical"),
        (["severity!=critical"], "'severity!=critical' is no label: write one such as severity=critical"),
        (["severity=~crit.*"], "'severity=~crit.*' is no label: write one such as severity=critical"),
        (["severity=info", "--at", "tomorrow"], "--at: 'tomorrow' is no time: write one such as 2026-12-24T23:30"),
    ],
)
def test_route_that_cannot_be_read_is_refused(run: Run, arguments: list[str], problem: str) -> None:
    assert run("route", *arguments) == (2, [], f"error: {problem}\n")


def test_preview_shows_all_three(run: Run, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(body())
    code, lines, errors = run("preview", "body.json", "--no-open", "--out", "pages")
    assert (code, errors) == (0, "")
    assert lines[:8] == [
        "── Slack ──",
        "🟠 [WARNING] 배차 대기 주문 많음",
        "▌ 2시간 이상 배차 대기 중인 주문이 11건 있습니다",
        "▌",
        "▌ Category: business",
        "▌ Timestamp: 2026-01-27T22:00:00",
        "▌",
        "▌ [알림 일시 중지]",
    ]
    assert "── SMS, 73 of 90 bytes ──" in lines
    assert "Subject: [WARNING] 배차 대기 주문 많음" in lines
    assert lines[-1] == "pages/preview.html"
    page = (tmp_path / "pages/preview.html").read_text(encoding="utf-8")
    assert '<a href="http://alertmanager.example:9093/#/silences/new?filter=' in page
    assert (tmp_path / "pages/mail.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_can_be_previewed_in_another_language(run: Run, example: str) -> None:
    code, lines, _ = run("preview", "--example", example, "--locale", "en", "--no-open", "--out", "pages")
    assert code == 0
    assert lines[0] == "── Slack ──"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.json"], "nowhere.json: No such file or directory"),
        (["bad.json"], "bad.json: alerts: is missing"),
        (["--locale", "fr"], "--locale: must be one of en, ko"),
    ],
)
def test_preview_that_cannot_be_shown_is_refused(run: Run, tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({"version": "4"}))
    assert run("preview", *arguments, "--no-open", "--out", "pages") == (1, [], f"error: {problem}\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<https://x.example/?a=1&amp;b=2|a &lt;b&gt;>", '<a href="https://x.example/?a=1&amp;b=2">a &lt;b&gt;</a>'),
        ("&lt;https://x.example|text&gt;", "&lt;https://x.example|text&gt;".replace("<", "&lt;")),
        ("a *b* *11건*이\n:rotating_light:", "a <b>b</b> *11건*이<br>🚨"),
        ('"&lt;script&gt;', "&quot;&lt;script&gt;"),
    ],
)
def test_slack_markup_is_shown_as_slack_shows_it(text: str, shown: str) -> None:
    assert preview.mrkdwn(text) == shown


def test_check_config_says_what_is_on(run: Run) -> None:
    code, lines, errors = run("check-config")
    assert (code, errors) == (0, "")
    assert lines[:3] == ["email: on", "slack: on", "sms: on"]
    assert lines[-1].endswith("receiver.yaml: fine")


def test_check_config_names_the_line_of_what_is_odd(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "receiver.yaml"
    file.write_text("groups:\n  default: {}\n  nobody-asks:\n    email: a@example.com\n", encoding="utf-8")
    code, lines, _ = run("check-config")
    assert code == 0
    assert f"warning: {file}:3: groups.nobody-asks: no route leads to this group" in lines


def test_check_config_names_the_line_of_a_broken_template(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    (folder / "ko").mkdir(parents=True)
    (folder / "ko/slack.text.j2").write_text("{{ story.title }}\n{{ story.nothing }}", encoding="utf-8")
    (folder / "ko/sms.text.j2").write_text("{% endif %}", encoding="utf-8")
    (folder / "ko/slak.text.j2").write_text("", encoding="utf-8")
    (tmp_path / "receiver.yaml").write_text(f"templates_dir: {folder}\n")
    code, lines, errors = run("check-config")
    assert code == 1
    assert any(line.startswith(f"warning: {folder}/ko/slak.text.j2: not used; ") for line in lines)
    assert errors.splitlines() == [
        f"error: {folder}/ko/slack.text.j2:2: 'receiver.stories.Story object' has no attribute 'nothing'",
        f"error: {folder}/ko/sms.text.j2:1: Encountered unknown tag 'endif'.",
    ]


def test_check_config_shows_no_secret(run: Run) -> None:
    _, lines, errors = run("check-config")
    assert "secret" not in "".join(lines) + errors
