"""Whether a process would listen as its flags say: what `check-config` and `doctor` of both find."""

from __future__ import annotations

import argparse
import http.client
import re
import socket
import ssl
from collections.abc import Iterator

from serving import address, web
from serving.settings import ConfigError

__all__ = ["port", "problems"]

_TIMEOUT_SECONDS = 2


def problems(options: argparse.Namespace, *, token: bool = False) -> Iterator[str]:
    """Why it would refuse to start, one line a problem. `token`: a bearer's is configured."""
    try:
        place = address.parse(options.listen_address)
        config = web.read(options.web_config_file) if options.web_config_file is not None else web.WebConfig()
        problem = web.exposed(place, config, token=token)
        if problem is not None and not options.allow_anonymous:
            yield problem
    except address.AddressError as error:
        yield str(error)
    except ConfigError as error:
        yield from error.problems


def port(options: argparse.Namespace, name: str) -> tuple[bool, str]:
    """Whether it could listen, or does already, and the words for it. `name` is what the process is called."""
    try:
        place = address.parse(options.listen_address)
        address.bind(place).close()
    except address.AddressError as error:
        if _answers(options.listen_address) or _shows_ours(options):
            return True, f"{options.listen_address}: the {name} is running there"
        return False, str(error)
    return True, f"{place} is free"


def _answers(text: str) -> bool:
    """Whether something healthy of ours listens there, in the clear or by TLS."""
    try:
        place = address.parse(text)
    except address.AddressError:
        return False
    context = _trusting()
    host = place.host or "localhost"
    for connection in (
        http.client.HTTPConnection(host, place.port, timeout=_TIMEOUT_SECONDS),
        http.client.HTTPSConnection(host, place.port, timeout=_TIMEOUT_SECONDS, context=context),
    ):
        try:
            connection.request("GET", "/-/healthy")
            if connection.getresponse().read(20) == b"Healthy\n":
                return True
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False


def _shows_ours(options: argparse.Namespace) -> bool:
    """Whether who listens there shows the certificate of our own: it may demand another's before it answers."""
    try:
        place = address.parse(options.listen_address)
        tls = web.read(options.web_config_file).tls_server_config if options.web_config_file is not None else None
        if tls is None:
            return False
        ours = _FIRST_CERTIFICATE.search(tls.cert_file.read_text())
        with (
            socket.create_connection((place.host or "localhost", place.port), _TIMEOUT_SECONDS) as connection,
            _trusting().wrap_socket(connection) as encrypted,
        ):
            shown = encrypted.getpeercert(binary_form=True)
    except (OSError, address.AddressError, ConfigError):
        return False
    return ours is not None and shown == ssl.PEM_cert_to_DER_cert(ours.group())


_FIRST_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def _trusting() -> ssl.SSLContext:
    """Whose certificate it is does not matter: only whether it is ours that holds the port."""
    return ssl._create_unverified_context()  # noqa: S323, SLF001 - nothing is sent but GET /-/healthy
