"""Mail: what it looks like on arrival, and that it never travels otherwise than configured."""

from __future__ import annotations

import contextlib
import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from deploy.demo.sandbox import Options, Sandbox
from deploy.demo.sandbox.smtp import Account
from receiver.channels import DeliveryError, Outcome
from receiver.channels.email import Email, EmailSettings
from tests.receiver.sending import MAILBOXES, attempt, email_settings, message


def send(settings: EmailSettings, times: int = 1) -> Outcome | DeliveryError:
    """The last outcome of so many mails over one channel."""
    channel = Email(settings)
    try:
        for _ in range(times):
            outcome = attempt(channel, message(), MAILBOXES)
    finally:
        channel.close()
    return outcome


def arrived(sandbox: Sandbox) -> EmailMessage:
    """The one mail, as a mail program reads it."""
    (mail,) = sandbox.messages("smtp")
    found = email.message_from_string(mail["raw"], policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def test_mail_has_text_and_html_and_says_that_it_is_automatic(sandbox: Sandbox) -> None:
    send(email_settings(sandbox))
    mail = arrived(sandbox)
    assert mail["Subject"] == "[CRITICAL] CPU 사용률 높음"
    assert mail["From"] == "콜드체인 <noreply@example.com>"
    assert mail["To"] == "a@example.com, b@example.com"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    text, html = (part.get_content() for part in mail.iter_parts())
    assert (text, html) == ("CPU 사용률이 95.3%로 매우 높습니다\r\n", "<p>높음</p>\r\n")


def test_mails_of_a_group_are_one_thread(sandbox: Sandbox) -> None:
    send(email_settings(sandbox))
    mail = arrived(sandbox)
    assert mail["Message-ID"] == "<coldchain.1@example.com>"
    assert (mail["In-Reply-To"], mail["References"]) == ("<coldchain.group@example.com>",) * 2


def test_mail_needs_no_server_that_takes_eight_bits(sandbox: Sandbox) -> None:
    send(email_settings(sandbox))
    (mail,) = sandbox.messages("smtp")
    assert mail["raw"].isascii()


@pytest.mark.parametrize(
    "subject",
    [
        "[INFO] [Slack 대신] 배차 대기 주문 많음",
        "🟠 [WARNING] CPU 사용률 주의",
        "[CRITICAL] " + "가나다라마바사 " * 20 + "끝",
        "[CRITICAL] " + "plain words " * 15 + "end",
        "x" * 200 + " 끝",
        "👨‍👩‍👧 경고",
    ],
)
def test_subject_arrives_as_it_was_written(sandbox: Sandbox, subject: str) -> None:
    with contextlib.closing(Email(email_settings(sandbox))) as channel:
        attempt(channel, message(headline=subject), MAILBOXES)
    assert sandbox.messages("smtp")[0]["subject"] == subject
    assert max(len(line) for line in sandbox.messages("smtp")[0]["raw"].splitlines()) <= 78


def test_line_end_in_the_subject_adds_no_header(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="a header must not contain line ends"):
        attempt(Email(email_settings(sandbox)), message(headline="a\r\nBcc: c@example.com"), MAILBOXES)
    assert sandbox.messages("smtp") == []


def test_one_refused_mailbox_does_not_stop_the_other(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="smtp", refuse={"a@example.com": 550})
    outcome = send(email_settings(sandbox))
    assert not isinstance(outcome, DeliveryError)
    assert outcome["b@example.com"] is None
    refused = outcome["a@example.com"]
    assert isinstance(refused, DeliveryError)
    assert refused.permanent is True
    assert [mail["recipients"] for mail in sandbox.messages("smtp")] == [["b@example.com"]]


def connections(sandbox: Sandbox) -> int:
    return len(sandbox._room.connections)


def test_connection_is_used_again(sandbox: Sandbox) -> None:
    channel = Email(email_settings(sandbox))
    before = connections(sandbox)
    for _ in range(3):
        assert attempt(channel, message(), MAILBOXES) == dict.fromkeys(MAILBOXES)
    assert connections(sandbox) == before + 1
    channel.close()


@pytest.mark.parametrize("gone", [{"drop": True}, {"status": 421}], ids=["closed", "timed out"])
def test_connection_that_has_gone_stale_is_opened_again(sandbox: Sandbox, gone: dict[str, Any]) -> None:
    channel = Email(email_settings(sandbox))
    attempt(channel, message(), MAILBOXES)
    sandbox.misbehave(channel="smtp", stage="mail", times=1, **gone)
    assert attempt(channel, message(), MAILBOXES) == dict.fromkeys(MAILBOXES)
    assert len(sandbox.messages("smtp")) == 2
    channel.close()


def test_connection_is_good_after_a_mail_that_nobody_took(sandbox: Sandbox) -> None:
    channel = Email(email_settings(sandbox))
    sandbox.misbehave(channel="smtp", refuse={"a@example.com": 550, "b@example.com": 550}, times=1)
    attempt(channel, message(), MAILBOXES)
    assert attempt(channel, message(), MAILBOXES) == dict.fromkeys(MAILBOXES)
    channel.close()


@pytest.fixture(scope="module")
def secure(certificate: tuple[Path, Path]) -> Iterator[Sandbox]:
    """With STARTTLS, a port of implicit TLS, and an account."""
    cert, key = certificate
    account = Account("monitoring", "mail-secret")
    options = Options(certificate=cert, key=key, smtps=("127.0.0.1", 0), smtp_account=account)
    with Sandbox(options) as sandbox:
        yield sandbox


@pytest.fixture
def locked(secure: Sandbox, certificate: tuple[Path, Path]) -> Iterator[tuple[Sandbox, dict[str, Any]]]:
    """The sandbox and the settings that it asks for."""
    yield (
        secure,
        {
            "tls": "starttls",
            "ca_file": certificate[0],
            "user": "monitoring",
            "password": SecretStr("mail-secret"),
            "timeout": "5s",
        },
    )
    secure.behave()
    secure.clear()


def test_starttls_and_login(locked: tuple[Sandbox, dict[str, Any]]) -> None:
    sandbox, asked = locked
    assert send(email_settings(sandbox, **asked)) == dict.fromkeys(MAILBOXES)
    assert [(mail["tls"], mail["user"]) for mail in sandbox.messages("smtp")] == [(True, "monitoring")]


def test_implicit_tls_and_login(locked: tuple[Sandbox, dict[str, Any]]) -> None:
    sandbox, asked = locked
    assert sandbox.smtps is not None
    host, port = sandbox.smtps
    settings = email_settings(sandbox, **asked | {"tls": "implicit", "host": host, "port": port})
    assert send(settings) == dict.fromkeys(MAILBOXES)
    assert [(mail["tls"], mail["user"]) for mail in sandbox.messages("smtp")] == [(True, "monitoring")]


def test_mail_never_travels_in_the_clear_when_starttls_is_not_offered(locked: tuple[Sandbox, dict[str, Any]]) -> None:
    sandbox, asked = locked
    sandbox.misbehave(channel="smtp", starttls=False)
    outcome = send(email_settings(sandbox, **asked))
    assert isinstance(outcome, DeliveryError)
    assert outcome.permanent is True
    assert "STARTTLS extension not supported" in str(outcome)
    assert sandbox.messages("smtp") == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_certificate_of_an_unknown_authority_is_refused(locked: tuple[Sandbox, dict[str, Any]], tls: str) -> None:
    sandbox, asked = locked
    assert sandbox.smtps is not None
    host, port = sandbox.smtps if tls == "implicit" else sandbox.smtp
    outcome = send(email_settings(sandbox, **asked | {"tls": tls, "host": host, "port": port, "ca_file": None}))
    assert isinstance(outcome, DeliveryError)
    assert str(outcome) == "connection to the mail server failed: certificate refused: self-signed certificate"
    assert sandbox.messages("smtp") == []


def test_wrong_password_is_permanent_and_not_repeated_in_the_error(locked: tuple[Sandbox, dict[str, Any]]) -> None:
    sandbox, asked = locked
    outcome = send(email_settings(sandbox, **asked | {"password": SecretStr("wrong-secret")}))
    assert isinstance(outcome, DeliveryError)
    assert (outcome.permanent, str(outcome)) == (
        True,
        "login refused: 535 5.7.8 Authentication credentials invalid",
    )


@pytest.mark.parametrize(
    ("given", "encryption"),
    [
        ({"port": 587}, "starttls"),
        ({"port": 465}, "implicit"),
        ({"port": 25}, "starttls"),
        ({"port": 465, "tls": "starttls"}, "starttls"),
        ({"port": 25, "tls": "none"}, "none"),
    ],
)
def test_port_465_is_implicit_tls_and_every_other_starttls(given: dict[str, Any], encryption: str) -> None:
    assert EmailSettings(host="h", sender="a@example.com", **given).encryption == encryption


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"host": "h"}, "host (SMTP_HOST) is given without sender (SMTP_FROM)"),
        ({"sender": "nobody"}, "expected a mail address"),
        ({"to": "a@example.com, b"}, "number 2 is no mail address"),
        ({"to": f"{'a' * 243}@example.com"}, "number 1 is no mail address"),
        ({"to": "a@example.com\r\nBcc: c@example.com"}, "number 1 is no mail address"),
        ({"user": "u"}, "user (SMTP_USER) and password (SMTP_PASSWORD) go together"),
        ({"user": "u", "password": "p", "tls": "none"}, "the password would travel in the clear"),
        ({"port": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EmailSettings(**given)
    assert problem in str(caught.value)
