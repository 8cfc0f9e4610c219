"""The mail server, spoken to by smtplib."""

import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from deploy.demo.sandbox import Options, Sandbox
from deploy.demo.sandbox.smtp import Account


def mail(*recipients: str, subject: str = "[주의] 배차 대기 주문 많음") -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "콜드체인 <monitor@example.com>"
    message["To"] = ", ".join(recipients or ("ops@example.com",))
    message["Subject"] = subject
    message["Message-ID"] = "<1@example.com>"
    message.set_content("2시간 이상 배차 대기 중인 주문이 11건 있습니다\n.\n끝\n")
    message.add_alternative("<p style='color:#c00'><b>11건</b></p>", subtype="html")
    return message


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[smtplib.SMTP]:
    client = smtplib.SMTP(*sandbox.smtp, timeout=10)
    yield client
    client.close()


def test_mail_is_kept_as_envelope_bytes_and_what_people_read(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    client.send_message(mail("ops@example.com"), to_addrs=["ops@example.com", "hidden@example.com"])
    (kept,) = sandbox.messages("smtp")
    assert kept["mail_from"] == "monitor@example.com"
    assert kept["recipients"] == ["ops@example.com", "hidden@example.com"]
    assert kept["subject"] == "[주의] 배차 대기 주문 많음"
    assert kept["from"] == "콜드체인 <monitor@example.com>"
    assert kept["text"] == "2시간 이상 배차 대기 중인 주문이 11건 있습니다\r\n.\r\n끝\r\n"
    assert kept["html"] == "<p style='color:#c00'><b>11건</b></p>\r\n"
    assert ["Message-ID", "<1@example.com>"] in kept["headers"]
    assert (kept["tls"], kept["user"], kept["refused"], kept["size"]) == (False, None, {}, len(kept["raw"].encode()))


def test_raw_mail_is_kept_byte_for_byte(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    raw = "Subject: 제목\r\n\r\n..점으로 시작하는 줄\r\n".encode()
    client.sendmail("a@example.com", ["b@example.com"], raw, mail_options=["BODY=8BITMIME"])
    (kept,) = sandbox.messages("smtp")
    assert kept["raw"].encode() == raw
    assert sandbox.raw(kept["id"]) == raw


def test_mail_with_unknown_charset_and_broken_headers_is_still_shown(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    raw = b"Subject: =?nonsense?b?4pyT?= \xff\r\nContent-Type: text/plain; charset=nonsense\r\n\r\nhello \xff\r\n"
    client.sendmail("a@example.com", ["b@example.com"], raw)
    (kept,) = sandbox.messages("smtp")
    assert kept["text"] == "hello �\r\n"


def test_order_of_arrival_is_kept(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    for number in range(5):
        client.send_message(mail(subject=f"{number}"))
    kept = sandbox.messages("smtp")
    assert [one["subject"] for one in kept] == ["0", "1", "2", "3", "4"]
    assert sorted(one["time"] for one in kept) == [one["time"] for one in kept]
    assert [one["subject"] for one in sandbox.messages("smtp", after=kept[2]["id"])] == ["3", "4"]


def test_refused_recipient_does_not_stop_the_others(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    sandbox.misbehave(channel="smtp", refuse={"gone@example.com": 550, "full@example.com": 452}, times=1)
    refused = client.send_message(mail(), to_addrs=["gone@example.com", "ops@example.com", "full@example.com"])
    assert {address: code for address, (code, _) in refused.items()} == {
        "gone@example.com": 550,
        "full@example.com": 452,
    }
    (kept,) = sandbox.messages("smtp")
    assert kept["recipients"] == ["ops@example.com"]
    assert kept["refused"] == {"gone@example.com": 550, "full@example.com": 452}


def test_refusal_counts_once_a_mail(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    sandbox.misbehave(channel="smtp", refuse={"full@example.com": 452}, times=2)
    everybody = ["full@example.com", "ops@example.com"]
    assert [len(client.send_message(mail(), to_addrs=everybody)) for _ in range(3)] == [1, 1, 0]


def test_all_recipients_refused_is_an_error(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    sandbox.misbehave(channel="smtp", stage="rcpt", status=550)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        client.send_message(mail("a@example.com", "b@example.com"))
    assert sandbox.messages("smtp") == []


@pytest.mark.parametrize(
    ("stage", "status", "error"),
    [
        ("connect", 421, smtplib.SMTPConnectError),
        ("connect", 554, smtplib.SMTPConnectError),
        ("ehlo", 554, smtplib.SMTPHeloError),
        ("mail", 451, smtplib.SMTPSenderRefused),
        ("rcpt", 450, smtplib.SMTPRecipientsRefused),
        ("data", 554, smtplib.SMTPDataError),
        ("message", 451, smtplib.SMTPDataError),
        ("message", 554, smtplib.SMTPDataError),
    ],
)
def test_each_stage_can_be_refused(sandbox: Sandbox, stage: str, status: int, error: type[Exception]) -> None:
    sandbox.misbehave(channel="smtp", stage=stage, status=status, body="no room today")
    with pytest.raises(error, match="no room today"), smtplib.SMTP(*sandbox.smtp, timeout=10) as client:
        client.send_message(mail())
    assert sandbox.messages("smtp") == []
    assert sandbox.calls("smtp")[0]["answer"] == f"{status} no room today"


def test_refusal_ends_after_its_times(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    sandbox.misbehave(channel="smtp", status=451, times=1)
    with pytest.raises(smtplib.SMTPDataError):
        client.send_message(mail())
    client.send_message(mail())
    assert len(sandbox.messages("smtp")) == 1
    assert [call["accepted"] for call in sandbox.calls("smtp")] == [False, True]


def test_421_closes_the_connection(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    sandbox.misbehave(channel="smtp", stage="mail", status=421)
    with pytest.raises(smtplib.SMTPSenderRefused):
        client.send_message(mail())
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.noop()


@pytest.mark.parametrize("accept", [False, True])
def test_connection_dropped_after_data(sandbox: Sandbox, client: smtplib.SMTP, accept: bool) -> None:
    sandbox.misbehave(channel="smtp", drop=True, accept=accept)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.send_message(mail())
    assert len(sandbox.messages("smtp")) == accept
    assert [call["answer"] for call in sandbox.calls("smtp")] == ["dropped"]


def test_accepted_mail_whose_answer_hangs_is_there_at_once(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="smtp", hang=True, accept=True, times=1)
    client = smtplib.SMTP(*sandbox.smtp, timeout=0.3)
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        client.send_message(mail())
    assert len(sandbox.messages("smtp")) == 1
    assert [call["answer"] for call in sandbox.calls("smtp")] == ["hung"]


def test_greeting_that_hangs_is_let_go_when_cleared(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="smtp", stage="connect", hang=True)
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        smtplib.SMTP(*sandbox.smtp, timeout=0.3)
    sandbox.behave()
    with smtplib.SMTP(*sandbox.smtp, timeout=10) as client:
        client.send_message(mail())
    assert len(sandbox.messages("smtp")) == 1


def test_hang_lasts_until_it_is_cleared_and_stays_listed(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    sandbox.misbehave(channel="smtp", stage="data", hang=True, times=1)
    client.ehlo()
    client.mail("a@example.com")
    client.rcpt("b@example.com")
    client.putcmd("data")
    assert client.sock is not None
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    assert [one["left"] for one in sandbox.behaviours()] == [0]
    sandbox.behave()
    client.sock.settimeout(10)
    assert client.sock.recv(1) == b""


def test_a_thousand_mails_pass_over_a_few_connections(sandbox: Sandbox) -> None:
    for _ in range(4):
        with smtplib.SMTP(*sandbox.smtp, timeout=10) as client:
            for _ in range(250):
                client.sendmail("a@example.com", ["b@example.com"], "Subject: x\r\n\r\nx\r\n")
    assert len(sandbox.messages("smtp")) == 1000


# TLS and AUTH


@pytest.fixture(scope="module")
def tls_sandbox(certificate: tuple[Path, Path]) -> Iterator[Sandbox]:
    cert, key = certificate
    options = Options(
        smtps=("127.0.0.1", 0), certificate=cert, key=key, smtp_account=Account("monitor", "correct horse")
    )
    with Sandbox(options) as sandbox:
        yield sandbox


@pytest.fixture
def context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


def test_starttls_and_login_as_on_port_587(tls_sandbox: Sandbox, context: ssl.SSLContext) -> None:
    tls_sandbox.clear()
    with smtplib.SMTP(*tls_sandbox.smtp, timeout=10) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        client.starttls(context=context)
        client.login("monitor", "correct horse")
        client.send_message(mail())
    (kept,) = tls_sandbox.messages("smtp")
    assert (kept["tls"], kept["user"]) == (True, "monitor")


def test_implicit_tls_as_on_port_465(tls_sandbox: Sandbox, context: ssl.SSLContext) -> None:
    tls_sandbox.clear()
    assert tls_sandbox.smtps is not None
    with smtplib.SMTP_SSL(*tls_sandbox.smtps, timeout=10, context=context) as client:
        client.login("monitor", "correct horse")
        client.send_message(mail())
    (kept,) = tls_sandbox.messages("smtp")
    assert (kept["tls"], kept["user"]) == (True, "monitor")


def test_wrong_password_is_a_permanent_refusal(tls_sandbox: Sandbox, context: ssl.SSLContext) -> None:
    with smtplib.SMTP(*tls_sandbox.smtp, timeout=10) as client:
        client.starttls(context=context)
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login("monitor", "wrong")
    assert refused.value.smtp_code == 535


def test_mail_without_login_is_refused_where_there_is_an_account(tls_sandbox: Sandbox) -> None:
    with smtplib.SMTP(*tls_sandbox.smtp, timeout=10) as client, pytest.raises(smtplib.SMTPSenderRefused) as refused:
        client.send_message(mail())
    assert refused.value.smtp_code == 530


def test_starttls_that_is_not_offered(tls_sandbox: Sandbox, context: ssl.SSLContext) -> None:
    tls_sandbox.misbehave(channel="smtp", starttls=False, times=1)
    with smtplib.SMTP(*tls_sandbox.smtp, timeout=10) as client, pytest.raises(smtplib.SMTPNotSupportedError):
        client.starttls(context=context)


def test_starttls_that_is_refused(tls_sandbox: Sandbox, context: ssl.SSLContext) -> None:
    tls_sandbox.misbehave(channel="smtp", stage="starttls", status=454, times=1)
    with smtplib.SMTP(*tls_sandbox.smtp, timeout=10) as client, pytest.raises(smtplib.SMTPResponseException) as refused:
        client.starttls(context=context)
    assert refused.value.smtp_code == 454


def test_server_without_account_offers_no_auth(sandbox: Sandbox, client: smtplib.SMTP) -> None:
    client.ehlo()
    assert not client.has_extn("auth")
