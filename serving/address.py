"""Listen addresses as Prometheus's tools spell them: HOST:PORT, :PORT for every interface, [::1]:PORT."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

__all__ = ["Address", "AddressError", "bind", "parse"]


class AddressError(Exception):
    """The address cannot be read or listened on; the message says why and what to do."""


@dataclass(frozen=True)
class Address:
    """Where to listen; an empty host is every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str) -> Address:
    """Raises AddressError where `text` is not HOST:PORT."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise AddressError(f"--web.listen-address={text}: write HOST:PORT, for example 127.0.0.1:19110")
    return Address(host, int(port))


def bind(address: Address) -> socket.socket:
    """A socket bound to the address, not yet listening; raises AddressError naming what is in the way."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise AddressError(f"cannot listen on {address}: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
    except OSError as error:
        listener.close()
        hint = "; another program listens there: stop it or choose another --web.listen-address"
        raise AddressError(
            f"cannot listen on {address}: {error.strerror}{hint if error.errno == errno.EADDRINUSE else ''}"
        ) from None
    return listener
