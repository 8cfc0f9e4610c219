"""The SMS service, spoken to over HTTP."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from deploy.demo.sandbox import Sandbox
from deploy.demo.sandbox.aligo import Aligo, AligoAccount
from deploy.demo.sandbox.inbox import Inbox

ACCOUNT = {"key": "sandbox-key", "user_id": "sandbox"}


def ask(sandbox: Sandbox, path: str, **form: object) -> dict[str, Any]:
    response = requests.post(f"{sandbox.aligo_base_url}/{path}/", data=ACCOUNT | form, timeout=10)
    assert response.status_code == 200
    found: dict[str, Any] = json.loads(response.text)
    return found | {"result_code": int(found["result_code"])}


def send(sandbox: Sandbox, msg: str = "안녕", receiver: str = "010-1111-2222", **form: object) -> dict[str, Any]:
    return ask(sandbox, "send", **{"sender": "02-1234-5678", "receiver": receiver, "msg": msg} | form)


def test_message_to_two_numbers_arrives_twice(sandbox: Sandbox) -> None:
    answer = send(sandbox, "CPU 사용률 95.3%", "010-1111-2222,01033334444")
    assert {name: answer[name] for name in ("result_code", "success_cnt", "error_cnt", "msg_type")} == {
        "result_code": 1,
        "success_cnt": 2,
        "error_cnt": 0,
        "msg_type": "SMS",
    }
    first, second = sandbox.messages("aligo")
    assert (first["receiver"], second["receiver"]) == ("01011112222", "01033334444")
    assert (first["msg"], first["bytes"], first["sender"]) == ("CPU 사용률 95.3%", 16, "0212345678")
    assert first["mid"] == answer["msg_id"]


@pytest.mark.parametrize(
    ("msg", "bytes_", "msg_type"),
    [
        ("가" * 45, 90, "SMS"),
        ("가" * 45 + "a", 91, "LMS"),
        ("똠방각하 펲시콜라", 17, "SMS"),  # syllables that EUC-KR proper does not have
        ("a" * 2_000, 2_000, "LMS"),
    ],
)
def test_bytes_are_those_of_cp949_and_more_than_90_make_an_lms(
    sandbox: Sandbox, msg: str, bytes_: int, msg_type: str
) -> None:
    assert send(sandbox, msg)["msg_type"] == msg_type
    (kept,) = sandbox.messages("aligo")
    assert (kept["msg"], kept["bytes"], kept["msg_type"]) == (msg, bytes_, msg_type)


@pytest.mark.parametrize("character", list("—–✅❌🔥⚠•µé"))
def test_character_outside_cp949_arrives_as_a_question_mark(sandbox: Sandbox, character: str) -> None:
    send(sandbox, f"주의 {character}")
    assert sandbox.messages("aligo")[0]["msg"] == "주의 ?"


@pytest.mark.parametrize("character", list("…°℃€→“”"))
def test_character_of_cp949_arrives(sandbox: Sandbox, character: str) -> None:
    send(sandbox, f"주의 {character}")
    assert sandbox.messages("aligo")[0]["msg"] == f"주의 {character}"


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"user_id": "stranger"}, -101),
        ({"key": "wrong"}, -102),
        ({"sender": "01099999999"}, -103),
        ({"sender": ""}, -100),
        ({"sender": "0" * 17}, -100),
        ({"receiver": ""}, -100),
        ({"receiver": "hello"}, -100),
        ({"receiver": ",".join(["01011112222"] * 1_001)}, -100),
        ({"msg": ""}, -100),
        ({"msg": "a" * 2_001}, -100),
        ({"msg_type": "FAX"}, -100),
        ({"msg_type": "LMS", "title": "가" * 22 + "a"}, -100),
    ],
)
def test_refusal_is_http_200_with_a_negative_code(sandbox: Sandbox, form: dict[str, str], code: int) -> None:
    assert send(sandbox, **form)["result_code"] == code
    assert sandbox.messages("aligo") == []
    assert [call["answer"] for call in sandbox.calls("aligo")] == [f"result_code {code}"]


def test_a_thousand_numbers_are_taken(sandbox: Sandbox) -> None:
    numbers = ",".join(f"010{number:08}" for number in range(1_000))
    assert send(sandbox, receiver=numbers)["success_cnt"] == 1_000


def test_number_that_is_none_is_counted_as_an_error(sandbox: Sandbox) -> None:
    answer = send(sandbox, receiver="01011112222,nobody")
    assert (answer["success_cnt"], answer["error_cnt"]) == (1, 1)


def test_title_is_shown_with_an_lms_only(sandbox: Sandbox) -> None:
    send(sandbox, "짧은 글", msg_type="LMS", title="제목")
    send(sandbox, "짧은 글", title="제목")
    assert [(one["msg_type"], one["title"]) for one in sandbox.messages("aligo")] == [("LMS", "제목"), ("SMS", "")]


def test_form_is_read_as_utf8(sandbox: Sandbox) -> None:
    requests.post(
        f"{sandbox.aligo_base_url}/send/",
        data="key=sandbox-key&user_id=sandbox&sender=0212345678&receiver=01011112222&msg=%EA%B0%80+%26+%EB%82%98",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=10,
    )
    assert sandbox.messages("aligo")[0]["msg"] == "가 & 나"


def test_answers_vary_in_type_and_in_how_they_spell_the_code(sandbox: Sandbox) -> None:
    answers = [requests.post(f"{sandbox.aligo_base_url}/remain/", data=ACCOUNT, timeout=10) for _ in range(2)]
    assert {(one.headers["Content-Type"], type(json.loads(one.text)["result_code"])) for one in answers} == {
        ("application/json", int),
        ("text/html; charset=UTF-8", str),
    }


# Money


@pytest.fixture(scope="module")
def poor_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def test_messages_cost_money_until_there_is_none(poor_sandbox: Sandbox) -> None:
    poor_sandbox.set_balance(3)
    assert ask(poor_sandbox, "remain") == {
        "SMS_CNT": 3,
        "LMS_CNT": 0,
        "MMS_CNT": 0,
        "result_code": 1,
        "message": "success",
    }
    assert send(poor_sandbox, receiver="01011112222,01033334444")["result_code"] == 1
    assert ask(poor_sandbox, "remain")["SMS_CNT"] == 1
    assert send(poor_sandbox, receiver="01011112222,01033334444")["result_code"] == -201
    assert send(poor_sandbox, "가" * 46)["result_code"] == -201
    assert send(poor_sandbox)["result_code"] == 1
    assert len(poor_sandbox.messages("aligo")) == 3


def test_test_mode_sends_and_charges_nothing(poor_sandbox: Sandbox) -> None:
    poor_sandbox.clear()
    poor_sandbox.set_balance(0)
    assert send(poor_sandbox, testmode_yn="Y")["result_code"] == 1
    assert [one["test"] for one in poor_sandbox.messages("aligo")] == [True]
    assert ask(poor_sandbox, "remain")["SMS_CNT"] == 0


def test_wrong_key_learns_no_balance(sandbox: Sandbox) -> None:
    assert ask(sandbox, "remain", key="wrong") == {"result_code": -102, "message": "API KEY가 올바르지 않습니다."}


# What was taken


def test_lists_tell_what_was_taken(sandbox: Sandbox) -> None:
    mid = send(sandbox, "기록", "01011112222,nobody")["msg_id"]
    newest = ask(sandbox, "list", page=1, page_size=30)["list"][0]
    assert {name: newest[name] for name in ("mid", "type", "sms_count", "fail_count", "msg")} == {
        "mid": str(mid),
        "type": "SMS",
        "sms_count": "2",
        "fail_count": "1",
        "msg": "기록",
    }
    states = [(one["receiver"], one["sms_state"]) for one in ask(sandbox, "sms_list", mid=mid)["list"]]
    assert states == [("01011112222", "발송완료"), ("nobody", "발송실패")]


def test_message_of_test_mode_is_in_no_list(sandbox: Sandbox) -> None:
    mid = send(sandbox, testmode_yn="Y")["msg_id"]
    assert ask(sandbox, "sms_list", mid=mid)["list"] == []


@pytest.mark.parametrize("form", [{"page_size": 29}, {"page_size": 501}, {"page": 0}, {"start_date": "2026-11-22"}])
def test_list_refuses_what_aligo_does_not_take(sandbox: Sandbox, form: dict[str, object]) -> None:
    assert ask(sandbox, "list", **form)["result_code"] == -100


@pytest.fixture
def service() -> Aligo:
    return Aligo(AligoAccount(), Inbox(keep=100), sms=1_000)


def sent(service: Aligo, now: datetime) -> int:
    form = ACCOUNT | {"sender": "0212345678", "receiver": "01011112222", "msg": "x"}
    mid = service.send(form, now)["msg_id"]
    assert isinstance(mid, int)
    return mid


def test_list_is_paged_newest_first(service: Aligo) -> None:
    now = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
    mids = [sent(service, now) for _ in range(31)]
    first = service.list(ACCOUNT, now)
    second = service.list(ACCOUNT | {"page": "2"}, now)
    assert [one["mid"] for one in first["list"] + second["list"]] == [str(mid) for mid in reversed(mids)]
    assert (first["next_yn"], second["next_yn"]) == ("Y", "N")


def test_list_goes_back_from_a_day_in_seoul(service: Aligo) -> None:
    evening = datetime(2026, 11, 21, 16, 0, tzinfo=UTC)  # 22 November, 01:00 in Seoul
    mids = [sent(service, evening + timedelta(days=day)) for day in range(3)]
    asked = ACCOUNT | {"start_date": "20261123", "limit_day": "2"}
    assert [one["mid"] for one in service.list(asked, evening)["list"]] == [str(mids[1]), str(mids[0])]
    asked = ACCOUNT | {"start_date": "20261123", "limit_day": "1"}
    assert [one["mid"] for one in service.list(asked, evening)["list"]] == [str(mids[1])]


# Misbehaviour


def test_told_code_is_given_as_json(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="aligo", body={"result_code": -101, "message": "인증오류입니다.-IP"}, times=1)
    assert send(sandbox) == {"result_code": -101, "message": "인증오류입니다.-IP"}
    assert send(sandbox)["result_code"] == 1


def test_refused_number_goes_to_the_error_count(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="aligo", refuse={"01033334444": -1})
    answer = send(sandbox, receiver="01011112222,01033334444")
    assert (answer["success_cnt"], answer["error_cnt"]) == (1, 1)
    assert [one["receiver"] for one in sandbox.messages("aligo")] == ["01011112222"]


def test_taken_but_unanswered_message_can_be_found_in_the_list(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="aligo", drop=True, accept=True, times=1)
    with pytest.raises(requests.ConnectionError):
        send(sandbox, "돈이 든 글")
    assert ask(sandbox, "list")["list"][0]["msg"] == "돈이 든 글"


def test_remain_alone_can_fail(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="aligo", stage="remain", status=503)
    assert requests.post(f"{sandbox.aligo_base_url}/remain/", data=ACCOUNT, timeout=10).status_code == 503
    assert send(sandbox)["result_code"] == 1
