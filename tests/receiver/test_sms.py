"""SMS: bytes, numbers, one call for all, and silence settled by asking before sending again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from deploy.demo.sandbox import Sandbox
from receiver.channels import DeliveryError, Doubt
from receiver.channels.sms import Balance, Sms, SmsSettings, byte_length, choose, normalised, sendable
from receiver.digest import Rate
from tests.receiver.sending import NUMBERS, attempt, message, sms_settings, taken


def calls(sandbox: Sandbox) -> list[str]:
    return [call["stage"] for call in sandbox.calls("aligo")]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("010-1234-5678", "01012345678"),
        ("010 1234 5678", "01012345678"),
        ("+82 10-1234-5678", "01012345678"),
        ("+82 (0)10-1234-5678", "01012345678"),
        ("02-123-4567", "021234567"),
        ("1588-1234", "15881234"),
    ],
)
def test_number_is_normalised(given: str, expected: str) -> None:
    assert normalised(given) == expected


@pytest.mark.parametrize("given", ["", "12345", "+1 555 123 4567", "010-1234-567x", "0101234567890"])
def test_what_is_no_number_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="expected a Korean phone number"):
        normalised(given)


@pytest.mark.parametrize(
    ("text", "expected"), [("가", 2), ("a", 1), ("뷁", 2), ("쩝", 2), ("똠방", 4), ("€", 2), ("é", 1)]
)
def test_bytes_are_counted_as_the_carriers_do(text: str, expected: int) -> None:
    assert byte_length(text) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a – b — c", "a - b - c"),
        ("5 µs", "5 μs"),
        ("café", "cafe"),
        ("• 하나", "· 하나"),
        ("✅ 됨 ❌ 안 됨", "[해소] 됨 [실패] 안 됨"),
        ("⚠️ 주의", "! 주의"),
        ("🚚 출발", "출발"),
        ("… ° ℃ € → “ ”", "… ° ℃ € → “ ”"),
        ("한글", "한글"),  # as macOS spells it, letter by letter
        ("a\nb", "a\nb"),
    ],
)
def test_what_the_carriers_lack_is_replaced(given: str, expected: str) -> None:
    assert sendable(given) == expected
    assert sendable(given).encode("cp949")


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        ("가" * 45, "가" * 45),
        ("가" * 46 + "\n---\n" + "나" * 45, "나" * 45),
        ("가" * 46 + "\n---\n" + "나" * 46, "가" * 46),
        ("가" * 1_001 + "\n---\n" + "나" * 46, "가" * 999 + "…"),
    ],
    ids=["90 bytes", "the shorter", "none is short", "none is sendable"],
)
def test_fullest_variant_of_ninety_bytes_is_chosen(variants: str, expected: str) -> None:
    assert choose(variants) == expected


def test_all_numbers_are_one_call(sandbox: Sandbox) -> None:
    assert taken(attempt(Sms(sms_settings(sandbox)), message(sms="[위험] 높음"), NUMBERS)) == list(NUMBERS)
    assert calls(sandbox) == ["send"]
    assert [(sms["receiver"], sms["msg_type"], sms["sender"], sms["msg"]) for sms in sandbox.messages("aligo")] == [
        ("01012345678", "SMS", "0212345678", "[위험] 높음"),
        ("01087654321", "SMS", "0212345678", "[위험] 높음"),
    ]


def test_over_ninety_bytes_it_is_a_long_message_with_a_title(sandbox: Sandbox) -> None:
    attempt(Sms(sms_settings(sandbox)), message(sms="제목이다" * 8 + "\n" + "가" * 60), NUMBERS[:1])
    (sms,) = sandbox.messages("aligo")
    assert (sms["msg_type"], sms["title"]) == ("LMS", "제목이다" * 5 + "제…")


def test_test_mode_sends_nothing(sandbox: Sandbox) -> None:
    attempt(Sms(sms_settings(sandbox, test_mode=True)), message(sms="시험"), NUMBERS[:1])
    assert [sms["test"] for sms in sandbox.messages("aligo")] == [True]


def test_number_that_was_not_taken_is_told_apart(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="aligo", refuse={NUMBERS[0]: -1})
    outcome = attempt(Sms(sms_settings(sandbox)), message(sms="a"), NUMBERS)
    assert isinstance(outcome, dict)
    assert str(outcome[NUMBERS[0]]) == "Aligo says 발송실패"
    assert taken(outcome) == [NUMBERS[1]]
    assert calls(sandbox) == ["send", "sms_list"]


def test_number_that_was_not_taken_is_told_apart_among_more_than_a_page_of_them(sandbox: Sandbox) -> None:
    numbers = [f"010{number:08}" for number in range(600)]
    sandbox.misbehave(channel="aligo", refuse={numbers[0]: -1})
    assert taken(attempt(Sms(sms_settings(sandbox)), message(sms="a"), numbers)) == numbers[1:]


def test_taken_message_whose_answer_was_lost_is_not_sent_again(sandbox: Sandbox) -> None:
    channel, before = Sms(sms_settings(sandbox)), now()
    sandbox.misbehave(channel="aligo", drop=True, accept=True, times=1)
    first = attempt(channel, message(sms="[위험] 한 번만"), NUMBERS)
    assert isinstance(first, DeliveryError)
    assert first.uncertain is True
    assert taken(attempt(channel, message(sms="[위험] 한 번만"), NUMBERS, Doubt(before))) == list(NUMBERS)
    assert len(sandbox.messages("aligo")) == len(NUMBERS)
    assert calls(sandbox) == ["send", "list", "sms_list"]


def test_taken_message_is_found_beneath_more_than_a_page_of_later_ones() -> None:
    with Sandbox() as sandbox:
        channel, before = Sms(sms_settings(sandbox)), now()
        sandbox.misbehave(channel="aligo", drop=True, accept=True, times=1)
        attempt(channel, message(sms="[위험] 한 번만"), NUMBERS)
        for number in range(505):
            taken(attempt(channel, message(sms=f"{number}"), NUMBERS[:1]))
        assert taken(attempt(channel, message(sms="[위험] 한 번만"), NUMBERS, Doubt(before))) == list(NUMBERS)
        assert calls(sandbox)[-3:] == ["list", "list", "sms_list"]


def test_message_that_never_arrived_is_sent_again(sandbox: Sandbox) -> None:
    channel, before = Sms(sms_settings(sandbox)), now()
    sandbox.misbehave(channel="aligo", drop=True, times=1)
    attempt(channel, message(sms="[위험] 다시"), NUMBERS)
    assert taken(attempt(channel, message(sms="[위험] 다시"), NUMBERS, Doubt(before))) == list(NUMBERS)
    assert calls(sandbox) == ["send", "list", "send"]
    assert len(sandbox.messages("aligo")) == len(NUMBERS)


def test_same_words_for_another_alert_are_another_message(sandbox: Sandbox) -> None:
    channel, before = Sms(sms_settings(sandbox)), now()
    other = attempt(channel, message(sms="[위험] 같은 말"), NUMBERS)
    assert isinstance(other, dict)
    known = frozenset(str(mid) for mid in other.values())
    assert taken(attempt(channel, message(sms="[위험] 같은 말"), NUMBERS, Doubt(before, known))) == list(NUMBERS)
    assert len(sandbox.messages("aligo")) == 2 * len(NUMBERS)


def test_same_words_to_fewer_numbers_are_another_message(sandbox: Sandbox) -> None:
    channel, before = Sms(sms_settings(sandbox)), now()
    attempt(channel, message(sms="[위험] 한 사람에게"), NUMBERS[:1])
    assert taken(attempt(channel, message(sms="[위험] 한 사람에게"), NUMBERS, Doubt(before))) == list(NUMBERS)
    assert calls(sandbox) == ["send", "list", "send"]


def test_same_words_of_yesterday_are_another_message(sandbox: Sandbox) -> None:
    channel = Sms(sms_settings(sandbox))
    attempt(channel, message(sms="[위험] 또"), NUMBERS)
    attempt(channel, message(sms="[위험] 또"), NUMBERS, Doubt(now() + timedelta(hours=1)))
    assert len(sandbox.messages("aligo")) == 2 * len(NUMBERS)


@pytest.mark.parametrize("stage", ["list"])
def test_one_too_many_is_better_than_none_where_nobody_can_be_asked(sandbox: Sandbox, stage: str) -> None:
    channel, before = Sms(sms_settings(sandbox)), now()
    attempt(channel, message(sms="[위험] 두 번"), NUMBERS)
    sandbox.misbehave(channel="aligo", stage=stage, status=500)
    assert taken(attempt(channel, message(sms="[위험] 두 번"), NUMBERS, Doubt(before))) == list(NUMBERS)
    assert len(sandbox.messages("aligo")) == 2 * len(NUMBERS)


def test_which_numbers_were_taken_is_asked_again_rather_than_sent_again(sandbox: Sandbox) -> None:
    channel, before = Sms(sms_settings(sandbox)), now()
    sandbox.misbehave(channel="aligo", refuse={NUMBERS[0]: -1})
    sandbox.misbehave(channel="aligo", stage="sms_list", status=500, times=1)
    first = attempt(channel, message(sms="a"), NUMBERS)
    assert isinstance(first, DeliveryError)
    assert first.uncertain is True
    second = attempt(channel, message(sms="a"), NUMBERS, Doubt(before))
    assert taken(second) == [NUMBERS[1]]
    assert calls(sandbox) == ["send", "sms_list", "list", "sms_list"]


@pytest.mark.parametrize(
    ("told", "kept"), [('"7"', "7"), ("7", "7"), ('"7\\u0000\\ud800"', "7"), ('"' + "7" * 65 + '"', "7" * 64)]
)
def test_name_that_aligo_gives_a_message_is_kept_as_a_store_can_hold_it(sandbox: Sandbox, told: str, kept: str) -> None:
    sandbox.misbehave(channel="aligo", body=f'{{"result_code": 1, "msg_id": {told}, "error_cnt": 1e999}}')
    assert attempt(Sms(sms_settings(sandbox)), message(), NUMBERS[:1]) == {NUMBERS[0]: kept}


def test_balance_is_read(sandbox: Sandbox) -> None:
    sandbox.set_balance(100)
    assert Sms(sms_settings(sandbox)).balance() == Balance(sms=100, lms=32, mms=14)


def test_wrong_key_is_told_in_aligos_words(sandbox: Sandbox) -> None:
    with pytest.raises(DeliveryError, match=r"^Aligo answered -102 API KEY가 올바르지 않습니다\.$"):
        Sms(sms_settings(sandbox, api_key="wrong")).balance()


@pytest.mark.parametrize(
    ("ceiling", "rate"),
    [({}, Rate(30, timedelta(hours=1), timedelta(minutes=5))), ({"ceiling": 0}, None)],
    ids=["thirty an hour", "as many as there are"],
)
def test_ceiling_of_messages(ceiling: dict[str, int], rate: Rate | None) -> None:
    assert SmsSettings(**ceiling).rate == rate


def test_settings_that_go_together_are_missed_by_name() -> None:
    with pytest.raises(ValueError, match="ALIGO_USER_ID and ALIGO_SENDER missing"):
        SmsSettings(api_key="k")


@pytest.mark.parametrize("url", ["apis.aligo.in", "ftp://apis.aligo.in", "https:///send"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected an address such as https://apis\.aligo\.in"):
        SmsSettings(base_url=url)
