"""The contract that every channel passes: which answer means delivered, again after this pause, or failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from deploy.demo.sandbox import Sandbox
from receiver.channels import DeliveryError, Outcome
from receiver.delivery import RetryPolicy, settle
from tests.receiver.making import NOW, claim
from tests.receiver.sending import CHANNELS, attempt, message, taken

POLICY = RetryPolicy(first=timedelta(seconds=5), longest=timedelta(minutes=10), jitter=0)


@dataclass(frozen=True)
class Case:
    """What the peer does, and what becomes of the delivery: its state, the pause in seconds, the words."""

    channel: str
    does: dict[str, Any]
    state: str
    pause: float | None
    words: str | None
    uncertain: bool = False
    id: str = field(default="", compare=False)


HALF_A_SURROGATE = r'{"result_code": -999, "message": "a\u0000\ud800b"}'

CASES = [
    Case("slack", {}, "delivered", None, None),
    Case("slack", {"status": 429, "headers": {"Retry-After": "7"}}, "retrying", 7, "Slack answered 429"),
    Case("slack", {"status": 429}, "retrying", 5, "Slack answered 429"),
    Case("slack", {"status": 500, "body": "rollup_error"}, "retrying", 5, "Slack answered 500 rollup_error"),
    Case("slack", {"status": 503, "body": "<html>down</html>"}, "retrying", 5, "Slack answered 503 <html>down</html>"),
    Case("slack", {"status": 500, "body": "ok"}, "retrying", 5, "Slack answered 500 ok"),
    Case("slack", {"status": 200, "body": "ok\n"}, "delivered", None, None),
    Case("slack", {"status": 200, "body": "fine"}, "retrying", 5, "Slack answered 200 fine"),
    Case("slack", {"status": 500, "body": "a\x00\u202e\r\nb"}, "retrying", 5, "Slack answered 500 a b"),
    Case("slack", {"status": 302, "headers": {"Location": "/"}}, "retrying", 5, "Slack answered 302"),
    Case("slack", {"status": 400, "body": "invalid_payload"}, "failed", None, "Slack answered 400 invalid_payload"),
    Case("slack", {"status": 403, "body": "invalid_token"}, "failed", None, "Slack answered 403 invalid_token"),
    Case("slack", {"status": 404, "body": "no_service"}, "failed", None, "Slack answered 404 no_service"),
    Case(
        "slack",
        {"status": 410, "body": "channel_is_archived"},
        "failed",
        None,
        "Slack answered 410 channel_is_archived",
    ),
    Case("slack", {"hang": True}, "retrying", 5, "Slack did not answer within 0.5 s", uncertain=True),
    Case("slack", {"drop": True}, "retrying", 5, "Slack closed the connection without an answer", uncertain=True),
    Case("email", {}, "delivered", None, None),
    Case(
        "email", {"status": 451}, "retrying", 5, "mail refused: 451 Requested action aborted: local error in processing"
    ),
    Case("email", {"status": 554}, "failed", None, "mail refused: 554 Transaction failed"),
    Case("email", {"status": 451, "body": "a\x00b"}, "retrying", 5, "mail refused: 451 a b"),
    Case("email", {"stage": "connect", "status": 421}, "retrying", 5, "connection refused: 421 Service not available"),
    Case("email", {"stage": "connect", "status": 554}, "failed", None, "connection refused: 554 Transaction failed"),
    Case("email", {"stage": "connect", "drop": True}, "retrying", 5, "connection to the mail server failed"),
    Case("email", {"stage": "mail", "status": 450}, "retrying", 5, "sender noreply@example.com refused: 450"),
    Case("email", {"stage": "mail", "status": 550}, "failed", None, "sender noreply@example.com refused: 550"),
    Case("email", {"stage": "data", "status": 452}, "retrying", 5, "mail refused: 452"),
    Case("email", {"stage": "rcpt", "status": 421}, "retrying", 5, "recipient refused: 421"),
    Case(
        "email",
        {"refuse": {"a@example.com": 550}},
        "partial",
        None,
        "a@example.com refused: 550 Requested action not taken: mailbox unavailable",
    ),
    Case("email", {"refuse": {"a@example.com": 251}}, "delivered", None, None),
    Case("email", {"refuse": {"a@example.com": 452}}, "retrying", 5, "a@example.com refused: 452"),
    Case(
        "email", {"refuse": {"a@example.com": 550, "b@example.com": 550}}, "failed", None, "b@example.com refused: 550"
    ),
    Case("email", {"drop": True}, "retrying", 5, "no answer after the mail was handed over", uncertain=True),
    Case(
        "email",
        {"hang": True},
        "retrying",
        5,
        "no answer after the mail was handed over: Connection unexpectedly closed",
        uncertain=True,
    ),
    Case(
        "email",
        {"stage": "mail", "hang": True},
        "retrying",
        5,
        "connection to the mail server failed: Connection unexpectedly closed: timed out",
    ),
    Case("sms", {}, "delivered", None, None),
    Case("sms", {"body": {"result_code": "1", "message": "success", "error_cnt": "0"}}, "delivered", None, None),
    Case(
        "sms",
        {"body": {"result_code": -101, "message": "인증오류입니다."}},
        "failed",
        None,
        "Aligo answered -101 인증오류입니다.",
    ),
    Case("sms", {"body": {"result_code": -102, "message": "키"}}, "failed", None, "Aligo answered -102 키"),
    Case("sms", {"body": {"result_code": -103, "message": "발신번호"}}, "failed", None, "Aligo answered -103 발신번호"),
    Case("sms", {"body": {"result_code": "-201", "message": "부족"}}, "failed", None, "Aligo answered -201 부족"),
    Case("sms", {"body": {"result_code": -999, "message": "?"}}, "retrying", 5, "Aligo answered -999 ?"),
    Case("sms", {"body": HALF_A_SURROGATE}, "retrying", 5, "Aligo answered -999 a b"),
    Case("sms", {"body": '{"result_code": 1e999}'}, "retrying", 5, "Aligo answered 200 with something", uncertain=True),
    Case("sms", {"body": "[" * 100_000}, "retrying", 5, "Aligo answered 200 with something", uncertain=True),
    Case(
        "sms", {"body": "<html>점검 중</html>"}, "retrying", 5, "Aligo answered 200 with something else", uncertain=True
    ),
    Case(
        "sms", {"status": 502, "body": "bad"}, "retrying", 5, "Aligo answered 502 with something else", uncertain=True
    ),
    Case("sms", {"hang": True}, "retrying", 5, "Aligo did not answer within 0.5 s", uncertain=True),
    Case("sms", {"drop": True}, "retrying", 5, "Aligo closed the connection without an answer", uncertain=True),
    Case("sms", {"refuse": {"01012345678": -1}}, "partial", None, "Aligo says 발송실패"),
]


def to_aligo(case: Case) -> str:
    return {"email": "smtp", "sms": "aligo"}.get(case.channel, case.channel)


def settled(case: Case, outcome: Outcome | DeliveryError) -> Any:
    _, recipients, _ = CHANNELS[case.channel]
    waiting = claim(*["waiting"] * len(recipients), addresses=recipients, channel=case.channel)
    return settle(waiting, outcome, NOW, policy=POLICY, chance=0.5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.channel} {case.does}"[:80])
def test_answer_decides_what_becomes_of_the_delivery(sandbox: Sandbox, case: Case) -> None:
    opening, recipients, secret = CHANNELS[case.channel]
    if case.does:
        sandbox.misbehave(channel=to_aligo(case), **case.does)
    channel = opening(sandbox)
    try:
        settlement = settled(case, attempt(channel, message(), recipients))
    finally:
        channel.close()
    assert settlement.state == case.state
    pause = settlement.next_attempt_at - NOW if settlement.next_attempt_at is not None else None
    assert pause == (timedelta(seconds=case.pause) if case.pause is not None else None)
    assert (settlement.unanswered_since is not None) == case.uncertain
    if case.words is None:
        assert settlement.error is None
    else:
        assert case.words in settlement.error
        assert not secret.search(settlement.error)


@pytest.mark.parametrize("name", CHANNELS)
def test_peer_that_is_not_there_is_tried_again(sandbox: Sandbox, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, recipients, secret = CHANNELS[name]
    monkeypatch.setattr(type(sandbox), "slack_webhook_url", "http://127.0.0.1:1/services/T0/B0/sandbox")
    monkeypatch.setattr(type(sandbox), "aligo_base_url", "http://127.0.0.1:1/aligo")
    monkeypatch.setattr(sandbox, "smtp", ("127.0.0.1", 1))
    outcome = attempt(opening(sandbox), message(), recipients)
    error = outcome if isinstance(outcome, DeliveryError) else outcome[recipients[0]]
    assert isinstance(error, DeliveryError)
    assert (error.permanent, error.uncertain) == (False, False)
    assert not secret.search(str(error))


@pytest.mark.parametrize("name", CHANNELS)
def test_all_recipients_have_an_outcome(sandbox: Sandbox, name: str) -> None:
    opening, recipients, _ = CHANNELS[name]
    channel = opening(sandbox)
    assert taken(attempt(channel, message(), recipients)) == list(recipients)
    channel.close()
