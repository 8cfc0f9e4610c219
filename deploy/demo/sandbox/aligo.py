"""Aligo's SMS service as its clients meet it: byte limits, balance, and every error as HTTP 200.

Codes and limits are Aligo's where they are known; a request that breaks a limit whose code is not documented is
answered `INVALID`, a negative code as any other.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from deploy.demo.sandbox.inbox import Inbox, Sms

SEOUL = ZoneInfo("Asia/Seoul")
MAX_RECEIVERS = 1_000
MAX_SENDER_BYTES = 16
MAX_SMS_BYTES = 90
MAX_MSG_BYTES = 2_000
MAX_TITLE_BYTES = 44
PAGE_SIZES = range(30, 501)
KEPT = 10_000

# In tenths of a won: the list price of one message, of which LMS and MMS cost about three and seven SMS.
PRICES = {"SMS": 84, "LMS": 259, "MMS": 600}

AUTHENTICATION, API_KEY, SENDER, BALANCE, INVALID = -101, -102, -103, -201, -100

Answer = dict[str, Any]


@dataclass(eq=False)
class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """A negative result code and its message."""

    code: int
    message: str


@dataclass(frozen=True)
class AligoAccount:
    """Who the account is, and the numbers it registered to send from."""

    key: str = "sandbox-key"
    user_id: str = "sandbox"
    senders: tuple[str, ...] = ("0212345678",)


@dataclass(frozen=True)
class _Sent:
    mid: int
    time: datetime
    sender: str
    msg: str
    msg_type: str
    receivers: tuple[tuple[int, str, bool], ...]  # mdid, number, whether the carrier took it


@dataclass(frozen=True)
class _Asked:
    sender: str
    receivers: tuple[str, ...]
    msg: str
    size: int
    msg_type: str
    title: str
    test: bool


class Aligo:
    """The account's state. Not thread-safe."""

    def __init__(self, account: AligoAccount, inbox: Inbox, *, sms: int) -> None:
        self._account = account
        self._inbox = inbox
        self._ids = itertools.count(100_000_001)
        self._sent: deque[_Sent] = deque(maxlen=KEPT)
        self.set_balance(sms)

    def set_balance(self, sms: int) -> None:
        """Money for so many short messages."""
        self._balance = sms * PRICES["SMS"]

    def send(self, form: Mapping[str, str], now: datetime, refuse: Mapping[str, int] = {}) -> Answer:
        """`/send/`; the refused numbers go to error_cnt."""
        self._authenticate(form)
        asked = self._read(form)
        good = [number for number in asked.receivers if _is_number(number) and number not in refuse]
        _demand(bool(good), "수신번호가 올바르지 않습니다")
        price = 0 if asked.test else PRICES[asked.msg_type] * len(good)
        _demand(price <= self._balance, "발송 가능 건수가 부족합니다.", BALANCE)
        self._balance -= price
        mid = next(self._ids)
        taken = tuple((next(self._ids), number, number in good) for number in asked.receivers)
        if not asked.test:
            self._sent.append(_Sent(mid, now, asked.sender, asked.msg, asked.msg_type, taken))
        for mdid, number, went in taken:
            if went:
                self._inbox.add(
                    Sms(
                        mid=mid,
                        mdid=mdid,
                        sender=asked.sender,
                        receiver=number,
                        msg=asked.msg,
                        bytes=asked.size,
                        msg_type=asked.msg_type,
                        title=asked.title,
                        test=asked.test,
                    )
                )
        return {
            "result_code": 1,
            "message": "success",
            "msg_id": mid,
            "success_cnt": len(good),
            "error_cnt": len(taken) - len(good),
            "msg_type": asked.msg_type,
        }

    def remain(self, form: Mapping[str, str]) -> Answer:
        """`/remain/`: how many messages of each kind the balance pays."""
        self._authenticate(form)
        counts = {f"{kind}_CNT": self._balance // price for kind, price in PRICES.items()}
        return {"result_code": 1, "message": "success", **counts}

    def list(self, form: Mapping[str, str], now: datetime) -> Answer:
        """`/list/`: what was sent, newest first, `limit_day` days back from `start_date` (today)."""
        self._authenticate(form)
        chosen = list(reversed(self._sent))
        last = now.astimezone(SEOUL).date()
        if form.get("start_date"):
            try:
                last = datetime.strptime(form["start_date"], "%Y%m%d").replace(tzinfo=SEOUL).date()
            except ValueError as error:
                raise Refused(INVALID, "start_date는 YYYYMMDD입니다") from error
            chosen = [one for one in chosen if one.time.astimezone(SEOUL).date() <= last]
        if form.get("limit_day"):
            first = last - timedelta(days=_number(form, "limit_day", 1) - 1)
            chosen = [one for one in chosen if one.time.astimezone(SEOUL).date() >= first]
        rows = [
            {
                "mid": str(one.mid),
                "type": one.msg_type,
                "sender": one.sender,
                "sms_count": str(len(one.receivers)),
                "reserve_state": "",
                "msg": one.msg,
                "fail_count": str(sum(not went for _, _, went in one.receivers)),
                "reg_date": _local(one.time),
                "reserve": "",
            }
            for one in chosen
        ]
        return _page(form, rows)

    def sms_list(self, form: Mapping[str, str]) -> Answer:
        """`/sms_list/`: what became of one message, number by number."""
        self._authenticate(form)
        _demand(bool(form.get("mid")), "필수 항목이 없습니다: mid")
        rows = [
            {
                "mdid": str(mdid),
                "type": one.msg_type,
                "sender": one.sender,
                "receiver": number,
                "sms_state": "발송완료" if went else "발송실패",
                "reg_date": _local(one.time),
                "send_date": _local(one.time) if went else "",
                "reserve_date": "",
            }
            for one in self._sent
            if str(one.mid) == form["mid"]
            for mdid, number, went in one.receivers
        ]
        return _page(form, rows)

    def _read(self, form: Mapping[str, str]) -> "_Asked":
        for name in ("sender", "receiver", "msg"):
            _demand(bool(form.get(name)), f"필수 항목이 없습니다: {name}")
        sender, receivers = _digits(form["sender"]), tuple(_digits(one) for one in form["receiver"].split(","))
        msg, size = carried(form["msg"])
        title, title_size = carried(form.get("title", ""))
        _demand(len(form["sender"].encode()) <= MAX_SENDER_BYTES, f"sender는 {MAX_SENDER_BYTES}byte 이하입니다")
        _demand(sender in map(_digits, self._account.senders), "발신번호가 등록되어 있지 않습니다.", SENDER)
        _demand(len(receivers) <= MAX_RECEIVERS, f"receiver는 {MAX_RECEIVERS:,}개 이하입니다")
        _demand(size <= MAX_MSG_BYTES, f"msg는 {MAX_MSG_BYTES:,}byte 이하입니다")
        _demand(title_size <= MAX_TITLE_BYTES, f"title은 {MAX_TITLE_BYTES}byte 이하입니다")
        msg_type = form.get("msg_type") or "SMS"
        _demand(msg_type in PRICES, "msg_type은 SMS, LMS, MMS 중 하나입니다")
        if msg_type == "SMS" and size > MAX_SMS_BYTES:
            msg_type = "LMS"
        shown = "" if msg_type == "SMS" else title
        return _Asked(sender, receivers, msg, size, msg_type, shown, form.get("testmode_yn") == "Y")

    def _authenticate(self, form: Mapping[str, str]) -> None:
        _demand(form.get("user_id") == self._account.user_id, "인증오류입니다.", AUTHENTICATION)
        _demand(form.get("key") == self._account.key, "API KEY가 올바르지 않습니다.", API_KEY)


def carried(text: str) -> tuple[str, int]:
    """A text as the phone shows it and its bytes: `?` stands for what cp949 does not have."""
    raw = text.encode("cp949", "replace")
    return raw.decode("cp949"), len(raw)


def _demand(holds: bool, message: str, code: int = INVALID) -> None:
    if not holds:
        raise Refused(code, message)


def _digits(number: str) -> str:
    return number.strip().replace("-", "")


def _is_number(number: str) -> bool:
    return number.isascii() and number.isdigit() and 8 <= len(number) <= 12


def _number(form: Mapping[str, str], name: str, default: int) -> int:
    value = form.get(name) or str(default)
    _demand(value.isascii() and value.isdigit() and int(value) >= 1, f"{name}는 1 이상의 숫자입니다")
    return int(value)


def _page(form: Mapping[str, str], rows: list[dict[str, str]]) -> Answer:
    size = _number(form, "page_size", PAGE_SIZES.start)
    _demand(size in PAGE_SIZES, "page_size는 30~500입니다")
    start = (_number(form, "page", 1) - 1) * size
    more = "Y" if len(rows) > start + size else "N"
    return {"result_code": 1, "message": "success", "list": rows[start : start + size], "next_yn": more}


def _local(time: datetime) -> str:
    return time.astimezone(SEOUL).strftime("%Y-%m-%d %H:%M:%S")
