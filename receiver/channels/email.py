"""Mail over SMTP: one connection kept, TLS as configured and never silently without, an outcome for each mailbox."""

from __future__ import annotations

import email.policy
import re
import smtplib
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.header import Header
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import format_datetime, formataddr, parseaddr
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, model_validator

from receiver.channels import DeliveryError, Doubt, Message, Outcome
from serving.settings import CommaSeparated, Duration, Env, Settings

__all__ = ["Addresses", "Email", "EmailSettings"]

T = TypeVar("T")

_ADDRESS = re.compile(r"[^@\s<>()\[\],;:\\\"]+@[A-Za-z0-9.-]+")
_LONGEST_ADDRESS = 254  # RFC 5321, 4.5.3.1.3: a path has 256 octets, its brackets included
_NO_HEADER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_POLICY = email.policy.compat32.clone(linesep="\r\n", max_line_length=76)
_BOUNDARY = "=_part"  # RFC 2045, 6.7: what base64 never yields
_IMPLICIT_TLS_PORT = 465


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for position, value in enumerate(values, 1):
        if len(value) > _LONGEST_ADDRESS or not value.isascii() or not _ADDRESS.fullmatch(value):
            raise ValueError(f"number {position} is no mail address such as admin@example.com")
    return tuple(dict.fromkeys(values))


def _host(value: str | None) -> str | None:
    if value is not None and re.search(r"[\s/@]|^[^:]*:[^:]*$", value):
        raise ValueError(
            "expected the server's name alone, such as smtp.gmail.com: its port goes into port (SMTP_PORT)"
        )
    return value


def _sender(value: str | None) -> str | None:
    if value is not None and not _ADDRESS.fullmatch(parseaddr(value)[1]):
        raise ValueError("expected a mail address such as noreply@example.com or Monitoring <noreply@example.com>")
    return value


Addresses = Annotated[CommaSeparated, AfterValidator(_addresses)]


class EmailSettings(Settings):
    """Off without `host`."""

    host: Annotated[str | None, Env("SMTP_HOST"), AfterValidator(_host)] = None
    port: Annotated[int, Env("SMTP_PORT"), Field(ge=1, le=65535)] = 587
    user: Annotated[str | None, Env("SMTP_USER")] = None
    password: Annotated[SecretStr | None, Env("SMTP_PASSWORD")] = None
    sender: Annotated[str | None, Env("SMTP_FROM"), AfterValidator(_sender)] = None
    tls: Annotated[Literal["starttls", "implicit", "none"] | None, Env("SMTP_TLS")] = None
    ca_file: Path | None = None
    to: Annotated[Addresses, Env("ALERT_EMAIL_TO")] = ()
    timeout: Duration = timedelta(seconds=10)
    workers: Annotated[int, Field(ge=1, le=32)] = 4

    @model_validator(mode="after")
    def _is_whole(self) -> EmailSettings:
        if self.host is not None and self.sender is None:
            raise ValueError("host (SMTP_HOST) is given without sender (SMTP_FROM)")
        if (self.user is None) != (self.password is None):
            raise ValueError("user (SMTP_USER) and password (SMTP_PASSWORD) go together")
        if self.user is not None and self.encryption == "none":
            raise ValueError(
                "tls is none (SMTP_TLS), so the password would travel in the clear: use starttls or implicit"
            )
        return self

    @property
    def encryption(self) -> str:
        """starttls, implicit or none; by the port where nothing is said."""
        return self.tls or ("implicit" if self.port == _IMPLICIT_TLS_PORT else "starttls")

    @property
    def missing(self) -> tuple[str, ...]:
        """The variables without which no mail goes out."""
        return tuple(name for name, value in (("SMTP_HOST", self.host), ("ALERT_EMAIL_TO", self.to)) if not value)


class Email:
    """A mail server's one connection, opened when it is needed and again when it has gone stale."""

    name: ClassVar[str] = "email"

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        self._connection: smtplib.SMTP | None = None

    def send(self, message: Message, recipients: Sequence[str], *, doubt: Doubt | None) -> Outcome:  # noqa: ARG002 - no mail server can be asked
        body = self._compose(message, recipients)
        try:
            connection = self._begin()
            refused = self._recipients(connection, recipients)
            if len(refused) < len(recipients):
                self._hand_over(connection, body)
            else:
                connection.rset()
        except DeliveryError:
            self.close()
            raise
        except (smtplib.SMTPException, OSError) as error:
            self.close()
            raise _failure(error) from None
        return {address: refused.get(address) for address in recipients}

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def check(self) -> str:
        """Connects and authenticates; what the server calls itself. Raises DeliveryError."""
        try:
            connection = self._open()
            connection.quit()
        except (smtplib.SMTPException, OSError) as error:
            raise _failure(error) from None
        return f"{self._settings.host}:{self._settings.port} ({self._settings.encryption})"

    def _compose(self, message: Message, recipients: Sequence[str]) -> bytes:
        sender = self._settings.sender or ""
        domain = parseaddr(sender)[1].partition("@")[2]
        # The older of the library's two interfaces takes a quarter of the time; _header keeps the newer one's rule.
        mail = MIMEMultipart("alternative", boundary=_BOUNDARY)
        mail["From"] = _header(formataddr(parseaddr(sender), "utf-8"))
        mail["To"] = _header(", ".join(recipients))
        subject = Header(_header(message.parts["subject"]), header_name="Subject")
        mail["Subject"] = subject  # type: ignore[assignment] # typeshed knows texts alone, which would be folded twice
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = _header(f"<{message.id}@{domain}>")
        # A thread's first mail need not exist: mail programs gather what refers to the same one.
        mail["In-Reply-To"] = mail["References"] = _header(f"<{message.thread}@{domain}>")
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office reply, please
        for part, kind in (("text", "plain"), ("html", "html")):  # in base64, so that no server needs 8BITMIME
            lines = message.parts[part].split("\n")
            mail.attach(MIMEText("".join(f"{line}\r\n" for line in lines), kind, "utf-8"))
        return mail.as_bytes(policy=_POLICY)

    def _begin(self) -> smtplib.SMTP:
        """A connection on which MAIL FROM was accepted."""
        sender = parseaddr(self._settings.sender or "")[1]
        if self._connection is not None:
            try:
                code, _ = self._connection.mail(sender)
            except (smtplib.SMTPServerDisconnected, OSError):
                code = 421
            if code == 250:
                return self._connection
            self.close()  # servers close what is idle, or after so many mails
        self._connection = self._open()
        code, words = self._connection.mail(sender)
        if code != 250:
            raise _refusal(f"sender {sender}", code, words)
        return self._connection

    def _open(self) -> smtplib.SMTP:
        settings = self._settings
        host, seconds = settings.host or "", settings.timeout.total_seconds()
        # the machine's name without asking the DNS for it, as smtplib would
        name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "localhost"
        connection: smtplib.SMTP
        if settings.encryption == "implicit":
            connection = smtplib.SMTP_SSL(host, settings.port, name, timeout=seconds, context=self._tls())
        else:
            connection = smtplib.SMTP(host, settings.port, name, timeout=seconds)
        try:
            if settings.encryption == "starttls":
                connection.starttls(context=self._tls())
            if settings.user is not None and settings.password is not None:
                connection.login(settings.user, settings.password.get_secret_value())
            connection.ehlo_or_helo_if_needed()
        except BaseException:
            connection.close()
            raise
        return connection

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._settings.ca_file)

    def _recipients(self, connection: smtplib.SMTP, recipients: Sequence[str]) -> dict[str, DeliveryError]:
        refused = {}
        for address in recipients:
            code, words = connection.rcpt(address)
            if code == 421:
                raise _refusal("recipient", code, words)
            if code not in (250, 251):
                refused[address] = _refusal(address, code, words)
        return refused

    def _hand_over(self, connection: smtplib.SMTP, body: bytes) -> None:
        try:
            code, words = connection.data(body)
        except smtplib.SMTPDataError as error:
            raise _refusal("mail", error.smtp_code, error.smtp_error) from None
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            raise DeliveryError(f"no answer after the mail was handed over: {_words(error)}", uncertain=True) from None
        if code != 250:
            raise _refusal("mail", code, words)


def _header(value: str) -> str:
    """Raises ValueError where it would end the header and begin another."""
    if _NO_HEADER.search(value):
        raise ValueError("a header must not contain line ends or control characters")
    return value


def _failure(error: smtplib.SMTPException | OSError) -> DeliveryError:
    match error:
        case smtplib.SMTPAuthenticationError():
            return _refusal("login", error.smtp_code, error.smtp_error)
        case smtplib.SMTPResponseException():
            return _refusal("connection", error.smtp_code, error.smtp_error)
        case smtplib.SMTPNotSupportedError():
            return DeliveryError(
                f"the mail server does not offer what the settings ask for: {_words(error)}", permanent=True
            )
        case _:
            return DeliveryError(f"connection to the mail server failed: {_words(error)}")


def _refusal(what: str, code: int, words: bytes | str) -> DeliveryError:
    """RFC 5321, 4.2.1: 4yz may pass, 5yz will not."""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    return DeliveryError(f"{what} refused: {code} {' '.join(text.split())[:200]}", permanent=500 <= code < 600)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(getattr(error, "strerror", None) or error)[:200]
