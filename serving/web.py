"""The web configuration of Prometheus's exporter-toolkit: TLS and basic-auth users in a YAML file of their own."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import AfterValidator, Field, model_validator

from serving.address import Address
from serving.settings import ConfigError, Settings, load

__all__ = ["ServedTls", "TlsServer", "WebConfig", "exposed", "read"]

log = structlog.get_logger(__name__)

# Keys that exporter-toolkit knows and this server does not: what to do instead.
_HINTS = {
    "http_server_config": "HTTP/2 and headers of your own are a proxy's, such as deploy/gateway",
    "rate_limit": "limit requests in a proxy, such as deploy/gateway; guessing of credentials is slowed anyway",
    "tls_server_config.cert": "write it to a file and name that: cert_file",
    "tls_server_config.key": "write it to a file and name that: key_file",
    "tls_server_config.client_ca": "write it to a file and name that: client_ca_file",
    "tls_server_config.client_allowed_sans": "every certificate that client_ca_file has signed gets in: use an "
    "authority of its own, or check names in a proxy",
    "tls_server_config.max_version": "min_version is the only limit; the newest version that both know is used",
    "tls_server_config.cipher_suites": "OpenSSL's own choice holds",
    "tls_server_config.prefer_server_cipher_suites": "OpenSSL's own choice holds",
    "tls_server_config.curve_preferences": "OpenSSL's own choice holds",
    "tls_server_config.client_auth_type": "the other kinds of exporter-toolkit verify nothing",
}


# What the library computes, rather than refuses at each login: the salt's last character holds two bits. A cost above
# 17 takes longer than a scrape may.
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-7])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")


def _bcrypt_hash(value: str) -> str:
    if not _BCRYPT.fullmatch(value):
        raise ValueError(
            "expected a bcrypt hash ($2b$…, 60 characters, cost 4 to 17); make one with `htpasswd -nBC 10 USER`"
        )
    return value


class TlsServer(Settings):
    """`tls_server_config`: paths are relative to the web configuration's folder."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_auth_type: Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"] = "NoClientCert"
    min_version: Literal["TLS12", "TLS13"] = "TLS12"

    @model_validator(mode="after")
    def _client_ca(self) -> TlsServer:
        if self.client_auth_type != "NoClientCert" and self.client_ca_file is None:
            raise ValueError(f"client_auth_type {self.client_auth_type} needs client_ca_file")
        if self.client_auth_type == "NoClientCert" and self.client_ca_file is not None:
            raise ValueError("client_ca_file is given, but client_auth_type is NoClientCert: nobody would be checked")
        return self


class WebConfig(Settings):
    """What `--web.config.file` may say; any other key is refused by name."""

    tls_server_config: TlsServer | None = None
    basic_auth_users: dict[str, Annotated[str, AfterValidator(_bcrypt_hash)]] = Field(default_factory=dict)

    @property
    def asks_for_certificate(self) -> bool:
        """Whether nobody gets in without a client certificate."""
        tls = self.tls_server_config
        return tls is not None and tls.client_auth_type == "RequireAndVerifyClientCert"


def exposed(place: Address, config: WebConfig, *, token: bool = False) -> str | None:
    """Why nobody may listen there, for want of authentication; None where one may. `token`: there is a bearer's."""
    if place.is_loopback or config.basic_auth_users or token or config.asks_for_certificate:
        return None
    return (
        f"--web.listen-address={place} is beyond loopback and no authentication is configured: give "
        "--web.config.file with basic_auth_users (or a token), or allow it with --web.allow-anonymous"
    )


def read(path: Path) -> WebConfig:
    """Reads and checks the file, its certificates too; raises ConfigError."""
    try:
        config = load(WebConfig, environ={}, config_file=path)
    except ConfigError as error:
        raise ConfigError([_with_hint(problem) for problem in error.problems]) from None
    if config.tls_server_config is not None:
        tls = config.tls_server_config
        config = config.model_copy(
            update={
                "tls_server_config": tls.model_copy(
                    update={
                        name: path.parent / value
                        for name in ("cert_file", "key_file", "client_ca_file")
                        if (value := getattr(tls, name)) is not None
                    }
                )
            }
        )
        try:
            _context(config.tls_server_config or tls)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError([f"{path}: tls_server_config: {_words(error)}"]) from None
    return config


def _with_hint(problem: str) -> str:
    hint = next((hint for name, hint in _HINTS.items() if f": {name}: " in problem), None)
    return f"{problem}. {hint[0].upper()}{hint[1:]}" if hint is not None else problem


_REQUIREMENTS = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


class ServedTls(ssl.SSLContext):
    """What a server is given once: each connection gets the files as they are by then, as exporter-toolkit has it.

    A certificate that was renewed is taken without a signal; one that does not fit its key leaves the old in force.
    """

    def __new__(cls, tls: TlsServer) -> Self:  # noqa: ARG004 - goes to __init__
        """Of no use by itself: connections are wrapped by the context in force."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, tls: TlsServer) -> None:
        self.renew(tls)

    def renew(self, tls: TlsServer) -> None:
        """Serves these from now on; raises OSError or ssl.SSLError and changes nothing where they do not fit."""
        seen = _fingerprint(tls)
        self._in_force = _context(tls)
        self._tls, self._seen = tls, seen

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Called by asyncio for each connection."""
        seen = _fingerprint(self._tls)
        if seen != self._seen:
            self._seen = seen
            try:
                self.renew(self._tls)
                log.info("certificate read again", file=str(self._tls.cert_file))
            except (OSError, ssl.SSLError) as error:
                log.warning("certificate refused, the old one stays", error=_words(error))
        return self._in_force.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _fingerprint(tls: TlsServer) -> list[tuple[int, int, int] | None]:
    """Changes with each of the files."""
    found: list[tuple[int, int, int] | None] = []
    for path in (tls.cert_file, tls.key_file, tls.client_ca_file):
        try:
            status = path.stat() if path is not None else None
        except OSError:
            status = None
        found.append((status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None)
    return found


def _words(error: OSError | ssl.SSLError) -> str:
    words = error.strerror or str(error)
    return f"cannot read {error.filename}: {words}" if error.filename else words


def _context(tls: TlsServer) -> ssl.SSLContext:
    """Raises OSError or ssl.SSLError where a file is missing or does not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}[tls.min_version]
    for file in (tls.cert_file, tls.key_file, tls.client_ca_file):
        if file is not None:
            file.open("rb").close()  # OpenSSL's own words would not name it
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
    context.verify_mode = _REQUIREMENTS[tls.client_auth_type]
    return context
