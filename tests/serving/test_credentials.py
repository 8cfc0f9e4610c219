"""Who shows a wrong credential to one of the real programs is counted, slowed and logged, and keeps nobody else out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import PlainTextResponse

from serving import guessing
from serving.authentication import Authentication
from tests.serving.hostile import HOST, Target, running, statuses
from tests.waiting import until

# No secrets: they open what a test has made for itself.
RIGHT, WRONG = ("duty", "right-one"), ("duty", "wrong-one")
TOKEN = "right-token"


@dataclass
class Closed:
    """A program that asks for a credential, and callers of different addresses."""

    target: Target

    def get(self, credential: tuple[str, str] | str | None, *, host: str = "127.0.0.1", path: str = "/metrics") -> int:
        """The status that a caller of this address gets at once."""
        headers = {"Authorization": f"Bearer {credential}"} if isinstance(credential, str) else {}
        auth = credential if isinstance(credential, tuple) else None
        with httpx.Client(transport=httpx.HTTPTransport(local_address=host), timeout=10) as client:
            return client.get(self.target.url(path), auth=auth, headers=headers).status_code

    def guess(self, stack: contextlib.ExitStack, *, host: str = "127.0.0.1") -> socket.socket:
        """A wrong password, whose refusal is not waited for."""
        connection = stack.enter_context(
            socket.create_connection(("127.0.0.1", self.target.port), timeout=20, source_address=(host, 0))
        )
        basic = base64.b64encode(":".join(WRONG).encode())
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + HOST + b"Authorization: Basic " + basic + b"\r\n\r\n")
        return connection

    def failures(self) -> float:
        text = httpx.get(self.target.url(), auth=RIGHT, timeout=10).text
        (value,) = re.findall(r"^coldchain_authentication_failures_total (\S+)$", text, re.MULTILINE)
        return float(value)


def started(name: str, folder: Path, **environment: str) -> contextlib.AbstractContextManager[Target]:
    web = folder / "web.yml"
    web.write_text(f"basic_auth_users:\n  {RIGHT[0]}: {bcrypt.hashpw(RIGHT[1].encode(), bcrypt.gensalt(4)).decode()}\n")
    token = {"RECEIVER_TOKEN": TOKEN} if name == "receiver" else {}
    return running(name, folder, f"--web.config.file={web}", **token, **environment)


@pytest.fixture(params=["exporter", "receiver"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Closed]:
    with started(request.param, tmp_path) as target:
        yield Closed(target)


@pytest.fixture(params=["exporter", "receiver"])
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Closed]:
    """Takes an hour for each failure."""
    with started(request.param, tmp_path, QUICK_FIRST_GUESS_SECONDS="3600") as target:
        yield Closed(target)


def test_failures_are_counted_and_logged_without_the_secret(closed: Closed) -> None:
    assert [closed.get(one) for one in (None, WRONG, ("nobody", "wrong-one"), "wrong-one")] == [401] * 4
    until(lambda: closed.failures() == 4, "they are counted")
    log = closed.target.log()
    assert log.count('msg="request refused: no valid credential" path=/metrics client=127.0.0.1') == 4
    shown = [base64.b64encode(f"{user}:{word}".encode()).decode() for user, word in (RIGHT, WRONG)]
    assert not [word for word in ("wrong-one", "right-one", *shown) if word in log]


def test_a_line_of_the_log_cannot_be_forged(closed: Closed) -> None:
    assert closed.get(None, path="/%0Alevel=error%20msg=forged") == 401
    assert [line for line in closed.target.log().splitlines() if line.startswith("level=error")] == []


def test_guessing_keeps_nobody_out_who_has_the_credential(patient: Closed) -> None:
    assert patient.get(RIGHT) == 200
    with contextlib.ExitStack() as stack:
        for _ in range(guessing.WAITING):
            patient.guess(stack)
        until(lambda: patient.get(WRONG) == 429, "no further guess is looked at")
        assert patient.get(RIGHT) == 200  # known from before
        assert patient.get(RIGHT, host="127.0.0.2") == 200
        assert patient.get(("duty", "right"), path="/-/healthy") == 200  # open as ever


def test_a_new_credential_of_another_address_is_looked_at_while_one_guesses(patient: Closed) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(guessing.WAITING):
            patient.guess(stack)
        until(lambda: patient.get(WRONG) == 429, "no further guess is looked at")
        assert patient.get(RIGHT, host="127.0.0.2") == 200


def test_hundreds_that_guess_at_once_are_refused_at_once_but_for_a_few(patient: Closed) -> None:
    with contextlib.ExitStack() as stack:
        poll = selectors.DefaultSelector()
        for _ in range(300):
            poll.register(patient.guess(stack), selectors.EVENT_READ)
        assert patient.get(RIGHT, host="127.0.0.2") == 200
        until(lambda: len(poll.select(0)) == 300 - guessing.WAITING, "all but a few are answered")
        answers = [key.fileobj.recv(65536) for key, _ in poll.select(0) if isinstance(key.fileobj, socket.socket)]
        poll.close()
    assert [statuses(answer) for answer in answers] == [[429]] * (300 - guessing.WAITING)


Credential = tuple[str, str] | str | None


def ask(door: Authentication, *credentials: Credential, path: str = "/metrics") -> list[int]:
    """The statuses that callers get one after the other: with a basic user, a whole header, or nothing."""

    async def story() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://localhost") as client:
            found = []
            for one in credentials:
                headers = {"Authorization": one} if isinstance(one, str) else {}
                auth = one if isinstance(one, tuple) else None
                found.append((await client.get(path, auth=auth, headers=headers)).status_code)
            return found

    return asyncio.run(story())


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong guess costs no time."""
    monkeypatch.setattr(guessing, "FIRST_SECONDS", 0.0)


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


@pytest.mark.usefixtures("hasty")
def test_a_credential_counts_the_second_time_as_the_first() -> None:
    door = Authentication(PlainTextResponse("in"), {RIGHT[0]: hashed(RIGHT[1])}, SecretStr(TOKEN))
    assert ask(door, RIGHT, RIGHT, f"Bearer {TOKEN}", f"bearer {TOKEN}") == [200] * 4
    digest = f"Digest {base64.b64encode(':'.join(RIGHT).encode()).decode()}"
    for one in (WRONG, ("nobody", RIGHT[1]), "Bearer wrong-token", f"Basic {TOKEN}", TOKEN, "Bearer", digest, None):
        assert ask(door, one, one) == [401, 401], one


@pytest.mark.usefixtures("hasty")
def test_what_fitted_before_another_credential_came_into_force_fits_no_more() -> None:
    door = Authentication(PlainTextResponse("in"), {RIGHT[0]: hashed(RIGHT[1])}, SecretStr(TOKEN))
    assert ask(door, RIGHT, f"Bearer {TOKEN}") == [200, 200]
    door.configure({RIGHT[0]: hashed("another")}, None)
    assert ask(door, RIGHT, f"Bearer {TOKEN}", (RIGHT[0], "another")) == [401, 401, 200]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("path", "status"),
    [("/-/healthy", 200), ("/-/ready", 200), ("/-/reload", 401), ("/-/healthy/", 401), ("/", 401), ("/-/Ready", 401)],
)
def test_nothing_but_the_state_is_open(path: str, status: int) -> None:
    assert ask(Authentication(PlainTextResponse("in"), {}, SecretStr(TOKEN)), None, path=path) == [status]


@pytest.mark.usefixtures("hasty")
def test_an_unknown_user_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    users = {RIGHT[0]: bcrypt.hashpw(RIGHT[1].encode(), bcrypt.gensalt(6)).decode()}
    door = Authentication(PlainTextResponse("in"), users, None)
    costs, check = [], bcrypt.checkpw

    def counted(password: bytes, hashed: bytes) -> bool:
        costs.append(hashed[:7])
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counted)

    found = ask(door, RIGHT, WRONG, ("nobody", RIGHT[1]))
    assert found == [200, 401, 401]
    assert costs == [b"$2b$06$"] * 3
