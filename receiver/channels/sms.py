"""SMS by Aligo: one call for all numbers, bytes counted as the carrier counts them, silence settled by asking."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, model_validator

from receiver.channels import DeliveryError, Doubt, Message, Outcome, http, printable
from receiver.digest import Rate
from serving.settings import CommaSeparated, Duration, Env, Settings

__all__ = ["Balance", "Numbers", "Sms", "SmsSettings", "byte_length", "normalised", "sendable", "within"]

SMS_BYTES = 90
LMS_BYTES = 2_000
TITLE_BYTES = 44
MOST_RECIPIENTS = 1_000
VARIANTS = re.compile(r"^---$", re.MULTILINE)
"""Divides the template's variants, the fullest first."""

_CODE_PAGE = "cp949"  # what the carriers count in; Python's euc_kr lacks 8,822 of the syllables
_REPLACEMENTS = str.maketrans(
    {
        **dict.fromkeys("\u2013\u2014\u2212\u2010\u2011", "-"),
        "\u00a0": " ",
        "\u2022": "·",
        "µ": "μ",
        "✅": "[해소]",
        "❌": "[실패]",
        "🔵": "[정보]",
        "🟠": "[경고]",
        "🔴": "[위험]",
        "🔥": "!",
        "⚠": "!",
        "\ufe0f": "",
    }
)
# Read in Aligo's page: the credentials', the sender's and the balance's faults will not pass by themselves.
# There is no complete list: any other negative code may pass.
_PERMANENT = frozenset({-101, -102, -103, -201})
_SEOUL = ZoneInfo("Asia/Seoul")  # Aligo's clock
_HOUR = timedelta(hours=1)
_CLOCKS_DIFFER = timedelta(minutes=2)
_PAGE_SIZE = 500  # the most that Aligo gives at once
_MOST_PAGES = 20
_NOT_SENT = re.compile("실패|오류|거부|불가|에러")


def normalised(number: str) -> str:
    """Digits as a Korean phone dials them; raises ValueError for what is no number."""
    digits = re.sub(r"[\s().-]", "", number)
    digits = re.sub(r"^\+82\(?0?", "0", digits)
    if not re.fullmatch(r"0\d{8,11}|1\d{7}", digits):
        raise ValueError("expected a Korean phone number such as 010-1234-5678")
    return digits


def _numbers(values: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for position, value in enumerate(values, 1):
        try:
            found.append(normalised(value))
        except ValueError as error:
            raise ValueError(f"number {position}: {error}") from None
    if len(found) > MOST_RECIPIENTS:
        raise ValueError(f"Aligo takes at most {MOST_RECIPIENTS} numbers")
    return tuple(dict.fromkeys(found))


def _number(value: str | None) -> str | None:
    return None if value is None else normalised(value)


def _base(value: str) -> str:
    if not http.is_address(value):
        raise ValueError("expected an address such as https://apis.aligo.in")
    return value.rstrip("/")


Numbers = Annotated[CommaSeparated, AfterValidator(_numbers)]


class SmsSettings(Settings):
    """Off without `api_key`."""

    api_key: Annotated[SecretStr | None, Env("ALIGO_API_KEY")] = None
    user_id: Annotated[str | None, Env("ALIGO_USER_ID")] = None
    sender: Annotated[str | None, Env("ALIGO_SENDER"), AfterValidator(_number)] = None
    to: Annotated[Numbers, Env("ALERT_SMS_TO")] = ()
    base_url: Annotated[str, Env("ALIGO_BASE_URL"), AfterValidator(_base)] = "https://apis.aligo.in"
    test_mode: Annotated[bool, Env("ALIGO_TESTMODE")] = False
    send_resolved: bool = True
    ceiling: Annotated[int, Field(ge=0, le=1000)] = 30
    """Single messages an hour to the same numbers; 0: as many as there are."""
    digest_every: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(minutes=5)
    timeout: Duration = timedelta(seconds=10)
    workers: Annotated[int, Field(ge=1, le=32)] = 1

    @model_validator(mode="after")
    def _is_whole(self) -> SmsSettings:
        given = {"ALIGO_API_KEY": self.api_key, "ALIGO_USER_ID": self.user_id, "ALIGO_SENDER": self.sender}
        lacking = [name for name, value in given.items() if value is None]
        if lacking and len(lacking) < len(given):
            raise ValueError(f"{' and '.join(lacking)} missing: {', '.join(given)} go together")
        return self

    @property
    def rate(self) -> Rate | None:
        """What the ceiling comes to."""
        return Rate(self.ceiling, _HOUR, self.digest_every) if self.ceiling else None

    @property
    def missing(self) -> tuple[str, ...]:
        """The variables without which no SMS goes out."""
        return tuple(name for name, value in (("ALIGO_API_KEY", self.api_key), ("ALERT_SMS_TO", self.to)) if not value)


@dataclass(frozen=True)
class Balance:
    """How many messages of each kind the money left pays for."""

    sms: int
    lms: int
    mms: int


def byte_length(text: str) -> int:
    """As the carriers count; a character that they do not have counts as the `?` that would arrive."""
    return len(text.encode(_CODE_PAGE, "replace"))


def sendable(text: str) -> str:
    """The text with what the carriers' code page lacks replaced by what reads alike, or left out."""
    found = []
    for character in unicodedata.normalize("NFC", text).translate(_REPLACEMENTS):
        for candidate in (character, unicodedata.normalize("NFKD", character)):
            plain = "".join(one for one in candidate if not unicodedata.combining(one))
            if plain and _encodes(plain):
                found.append(plain)
                break
    return re.sub(r"[ \t]+", " ", "".join(found)).strip()


def _encodes(text: str) -> bool:
    try:
        text.encode(_CODE_PAGE)
    except UnicodeEncodeError:
        return False
    return True


def _shortened(text: str, most: int) -> str:
    """At most so many bytes, with `…` where it was cut."""
    if byte_length(text) <= most:
        return text
    room = most - byte_length("…")
    kept = text
    while byte_length(kept) > room:
        kept = kept[: -max(1, (byte_length(kept) - room) // 2)]
    return kept.rstrip() + "…"


def within(text: str, most: int) -> str:
    """The text as it is sent, cut to so many bytes."""
    return _shortened(sendable(text), most)


def choose(variants: str) -> str:
    """The fullest variant that is a short message; the fullest as a long one where none is."""
    texts = [sendable(text) for text in VARIANTS.split(variants)]
    return next((text for text in texts if 0 < byte_length(text) <= SMS_BYTES), _shortened(texts[0], LMS_BYTES))


class Sms:
    """Aligo's API."""

    name: ClassVar[str] = "sms"

    def __init__(self, settings: SmsSettings) -> None:
        self._settings = settings
        self._peer = http.Peer("Aligo", seconds=settings.timeout.total_seconds())

    def send(self, message: Message, recipients: Sequence[str], *, doubt: Doubt | None) -> Outcome:
        text = choose(message.parts["text"])
        if doubt is not None:
            mid = self._taken(text, recipients, doubt)
            if mid is not None:
                return self._outcome(mid, recipients)
        form = {"sender": self._settings.sender or "", "receiver": ",".join(recipients), "msg": text}
        if byte_length(text) <= SMS_BYTES:
            form["msg_type"] = "SMS"
        else:
            form |= {"msg_type": "LMS", "title": _shortened(text.splitlines()[0], TITLE_BYTES)}
        if self._settings.test_mode:
            form["testmode_yn"] = "Y"
        answer = self._ask("send", form)
        mid = printable(str(answer.get("msg_id", "")))[:64]
        if not _count(answer, "error_cnt"):
            return dict.fromkeys(recipients, mid)
        return self._outcome(mid, recipients)

    def balance(self) -> Balance:
        """Free of charge, so it also shows that the credentials work. Raises DeliveryError."""
        answer = self._ask("remain", {})
        return Balance(_count(answer, "SMS_CNT"), _count(answer, "LMS_CNT"), _count(answer, "MMS_CNT"))

    def close(self) -> None:
        self._peer.close()

    def _taken(self, text: str, recipients: Sequence[str], doubt: Doubt) -> str | None:
        """The message's id where Aligo already has it; None where it has not, or cannot be asked.

        The same words may have been sent for another alert: those are known by their ids. One SMS too many is better
        than none, so whatever is unclear is sent again.
        """
        earliest = (doubt.since - _CLOCKS_DIFFER).astimezone(_SEOUL).replace(tzinfo=None)
        days = (datetime.now(_SEOUL).date() - earliest.date()).days + 1
        for page in range(1, _MOST_PAGES + 1):
            asked = {"page": str(page), "page_size": str(_PAGE_SIZE), "limit_day": str(max(days, 1))}
            try:
                answer = self._ask("list", asked)
            except DeliveryError:
                return None
            for row in _rows(answer):  # the newest first
                try:
                    registered = datetime.fromisoformat(str(row.get("reg_date")))
                except ValueError:
                    continue
                if registered < earliest:
                    return None
                mid = str(row.get("mid"))
                same = row.get("msg") == text and _count(row, "sms_count") == len(recipients)
                if same and mid not in doubt.others:
                    return mid
            if answer.get("next_yn") != "Y":
                return None
        return None

    def _outcome(self, mid: str, recipients: Sequence[str]) -> Outcome:
        """Number by number, for a message of which some numbers were not taken."""
        states: dict[str, str] = {}
        for page in range(1, MOST_RECIPIENTS // _PAGE_SIZE + 1):
            try:
                answer = self._ask("sms_list", {"mid": mid, "page": str(page), "page_size": str(_PAGE_SIZE)})
            except DeliveryError as error:
                # not sent again before the message was found in the list, with its numbers
                raise DeliveryError(
                    f"Aligo refused some of the numbers, which is not known: {error}", uncertain=True
                ) from None
            for row in _rows(answer):
                states[re.sub(r"\D", "", str(row.get("receiver", "")))] = str(row.get("sms_state", ""))
            if answer.get("next_yn") != "Y":
                break
        return {number: _verdict(states.get(number)) or mid for number in recipients}

    def _ask(self, path: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Aligo's answer where it is a success; raises DeliveryError, in Aligo's words, for everything else."""
        settings = self._settings
        key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        fields = urlencode({"key": key, "user_id": settings.user_id or "", **form})
        return _read(
            self._peer.post(f"{settings.base_url}/{path}/", fields.encode(), "application/x-www-form-urlencoded")
        )


def _read(told: http.Answer) -> dict[str, Any]:
    """JSON, whatever its Content-Type; `result_code` is a number or a text."""
    try:
        answer = json.loads(told.text)
        code = int(answer["result_code"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # int(1e999); [[[…
        raise DeliveryError(f"Aligo answered {told.status} with something else than its JSON", uncertain=True) from None
    if code != 1:
        words = " ".join(str(answer.get("message", "")).split())[:100]
        raise DeliveryError(f"Aligo answered {code} {words}".rstrip(), permanent=code in _PERMANENT)
    found: dict[str, Any] = answer
    return found


def _rows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = answer.get("list")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _count(answer: Mapping[str, Any], name: str) -> int:
    try:
        return int(answer.get(name) or 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _verdict(state: str | None) -> DeliveryError | None:
    if state is None:
        return DeliveryError("Aligo did not take this number", permanent=True)
    return DeliveryError(f"Aligo says {state[:40]}", permanent=True) if _NOT_SENT.search(state) else None
