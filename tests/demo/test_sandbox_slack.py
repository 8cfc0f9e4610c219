"""The incoming webhook, spoken to over HTTP and as pure rules with a clock."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from deploy.demo.sandbox import Options, Sandbox
from deploy.demo.sandbox.slack import Pace, retry_after


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": {"type": "plain_text", "text": text}}


def post(sandbox: Sandbox, payload: object, hook: str = "T0/B0/sandbox") -> tuple[int, str]:
    response = requests.post(f"{sandbox.url}/services/{hook}", json=payload, timeout=10)
    return response.status_code, response.text


def test_success_is_200_and_the_word_ok(sandbox: Sandbox) -> None:
    payload = {"text": ":rotating_light: *CPU*", "attachments": [{"color": "danger", "text": "95.3%"}]}
    assert post(sandbox, payload) == (200, "ok")
    (kept,) = sandbox.messages("slack")
    assert kept["payload"] == payload
    assert kept["hook"] == "T0/B0/sandbox"


def test_payload_may_come_as_a_form(sandbox: Sandbox) -> None:
    form = {"payload": '{"text": "안녕하세요"}'}
    assert requests.post(sandbox.slack_webhook_url, data=form, timeout=10).text == "ok"
    assert sandbox.messages("slack")[0]["payload"] == {"text": "안녕하세요"}


FIELD = {"type": "mrkdwn", "text": "x"}


@pytest.mark.parametrize(
    "payload",
    [
        {"text": "x" * 40_000},
        {"blocks": [section("x" * 3_000)]},
        {"blocks": [header("x" * 150)]},
        {"blocks": [{"type": "section", "fields": [FIELD] * 10}]},
        {"blocks": [section("x")] * 50},
        {"attachments": [{"text": "x"}] * 100},
        {"attachments": [{"text": "x", "footer": "x" * 300}]},
    ],
    ids=["text", "section", "header", "fields", "blocks", "attachments", "footer"],
)
def test_payload_at_its_limit_is_taken(sandbox: Sandbox, payload: object) -> None:
    assert post(sandbox, payload) == (200, "ok")


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        ({"text": "x" * 40_001}, "msg_too_long"),
        ({"blocks": [section("x" * 3_001)]}, "invalid_blocks"),
        ({"blocks": [section("")]}, "invalid_blocks"),
        ({"blocks": [header("x" * 151)]}, "invalid_blocks"),
        ({"blocks": [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section", "fields": [FIELD] * 11}]}, "invalid_blocks"),
        ({"blocks": [{"type": "section"}]}, "invalid_blocks"),
        ({"blocks": [{"type": "context", "elements": []}]}, "invalid_blocks"),
        ({"blocks": [{"type": "nonsense"}]}, "invalid_blocks"),
        ({"blocks": [section("x")] * 51}, "invalid_blocks"),
        ({"attachments": [{"text": "x"}] * 101}, "too_many_attachments"),
        ({"attachments": [{"text": "x", "footer": "x" * 301}]}, "invalid_attachments"),
        ({"attachments": [{"blocks": [section("x" * 3_001)]}]}, "invalid_blocks"),
        ({"text": ""}, "no_text"),
        ({"text": 5}, "invalid_payload"),
        ([], "invalid_payload"),
    ],
)
def test_payload_beyond_its_limit_is_refused_for_good(sandbox: Sandbox, payload: object, word: str) -> None:
    assert post(sandbox, payload) == (400, word)
    assert sandbox.messages("slack") == []
    assert [call["answer"] for call in sandbox.calls("slack")] == [f"400 {word}"]


def test_broken_json_is_an_invalid_payload(sandbox: Sandbox) -> None:
    response = requests.post(sandbox.slack_webhook_url, data=b'{"text": ', timeout=10)
    assert (response.status_code, response.text) == (400, "invalid_payload")


# The rate


def test_a_burst_passes_then_one_message_a_second() -> None:
    pace = Pace(per_second=1, burst=3)
    assert [pace.wait("a", 100.0) for _ in range(4)] == [0, 0, 0, 1]
    assert pace.wait("a", 100.75) == 0.25
    assert pace.wait("a", 101.0) == 0
    assert pace.wait("a", 101.0) == 1


def test_each_hook_has_its_own_rate() -> None:
    pace = Pace(per_second=1, burst=1)
    assert [pace.wait("a", 0.0), pace.wait("b", 0.0), pace.wait("a", 0.0)] == [0, 0, 1]


def test_rate_of_zero_has_no_limit() -> None:
    assert [Pace(per_second=0, burst=1).wait("a", 0.0) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(("seconds", "header"), [(0.1, "1"), (1.0, "1"), (1.2, "2")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    assert retry_after(seconds) == header


@pytest.fixture
def strict() -> Iterator[Sandbox]:
    with Sandbox(Options(slack_rate=0.01, slack_burst=1)) as sandbox:
        yield sandbox


def test_hook_that_is_used_too_fast_answers_429_with_retry_after(strict: Sandbox) -> None:
    assert post(strict, {"text": "1"}) == (200, "ok")
    refused = requests.post(strict.slack_webhook_url, json={"text": "2"}, timeout=10)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "100")
    assert post(strict, {"text": "3"}, hook="T0/B0/other") == (200, "ok")
    assert [one["payload"]["text"] for one in strict.messages("slack")] == ["1", "3"]


# Misbehaviour


def test_told_answer_is_given_so_many_times(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", status=500, body="rollup_error", times=2)
    answers = [post(sandbox, {"text": "x"}) for _ in range(3)]
    assert answers == [(500, "rollup_error"), (500, "rollup_error"), (200, "ok")]
    assert len(sandbox.messages("slack")) == 1
    assert [call["answer"] for call in sandbox.calls("slack")] == ["500 rollup_error", "500 rollup_error", "200 ok"]
    assert sandbox.behaviours() == []


def test_200_with_another_body_is_not_an_arrival(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", body="no_service")
    assert post(sandbox, {"text": "x"}) == (200, "no_service")
    assert sandbox.messages("slack") == []


def test_told_headers_are_sent(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", status=429, headers={"Retry-After": "7"})
    response = requests.post(sandbox.slack_webhook_url, json={"text": "x"}, timeout=10)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize("accept", [False, True])
def test_connection_dropped_instead_of_an_answer(sandbox: Sandbox, accept: bool) -> None:
    sandbox.misbehave(channel="slack", drop=True, accept=accept)
    with pytest.raises(requests.ConnectionError):
        post(sandbox, {"text": "x"})
    assert len(sandbox.messages("slack")) == accept


def test_delayed_message_is_taken_before_the_answer(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", delay=60)
    with pytest.raises(requests.ReadTimeout):
        requests.post(sandbox.slack_webhook_url, json={"text": "x"}, timeout=0.3)
    assert len(sandbox.messages("slack")) == 1


def test_hang_never_answers(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", hang=True)
    with pytest.raises(requests.ReadTimeout):
        requests.post(sandbox.slack_webhook_url, json={"text": "x"}, timeout=0.3)
    sandbox.behave()
    assert post(sandbox, {"text": "x"}) == (200, "ok")
    assert len(sandbox.messages("slack")) == 1
