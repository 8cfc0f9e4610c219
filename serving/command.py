"""The command line that both processes share, and the server that they run under."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import structlog
import uvicorn
from pydantic import SecretStr
from starlette.types import ASGIApp

from serving import address, logs, systemd, web
from serving.authentication import Authentication
from serving.protocol import BURST, BoundedHttp, allow_files
from serving.reload import Reload
from serving.settings import ConfigError

__all__ = ["Add", "parser", "quietly", "report", "run"]

log = structlog.get_logger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


Add: TypeAlias = Callable[..., object]
"""argparse's add_argument, for flags alone."""


def parser(
    prog: str, description: str, version: str, *, default_address: str, own: Callable[[Add], None] = lambda _add: None
) -> tuple[argparse.ArgumentParser, Any]:  # argparse gives the second no public type
    """A parser with the flags of Prometheus's tools, and what sub-commands are added to. `own` adds further flags.

    A sub-command understands the flags as well: people write them where they think of them.
    """
    result = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    behind = argparse.ArgumentParser(add_help=False)

    def again(name: str, **options: Any) -> None:
        behind.add_argument(name, **options | {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS})

    for add in (result.add_argument, again):
        _add_flags(add, default_address)
        own(add)
    result.add_argument("--version", action="version", version=f"%(prog)s {version}")

    class Command(argparse.ArgumentParser):
        def __init__(self, **options: Any) -> None:
            super().__init__(parents=[behind], allow_abbrev=False, **options)

    return result, result.add_subparsers(dest="command", metavar="COMMAND", parser_class=Command)


def _add_flags(add: Add, default_address: str) -> None:
    add(
        "--web.listen-address",
        dest="listen_address",
        metavar="HOST:PORT",
        default=default_address,
        help="where to listen (default: %(default)s)",
    )
    add(
        "--web.config.file",
        dest="web_config_file",
        metavar="FILE",
        type=Path,
        help="TLS and basic-auth users, in the exporter-toolkit's format",
    )
    add(
        "--web.allow-anonymous",
        dest="allow_anonymous",
        action="store_true",
        help="listen beyond loopback although no authentication is configured",
    )
    add("--config.file", dest="config_file", metavar="FILE", type=Path, help="settings, in YAML")
    add("--log.level", dest="log_level", choices=logs.LEVELS, default="info", help="default: %(default)s")
    add("--log.format", dest="log_format", choices=("logfmt", "json"), default="logfmt", help="default: %(default)s")


def report(error: ConfigError) -> None:
    """Prints what is wrong with the settings, one line a problem, for the person at the terminal."""
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)


def quietly(work: Callable[[], int]) -> int:
    """Its exit code; without a traceback where it is interrupted, or where nobody reads what it prints any more."""
    try:
        return work()
    except KeyboardInterrupt:
        return 130  # as shells count it
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in it is written at the end
        return 141


def run(
    app: ASGIApp,
    options: argparse.Namespace,
    *,
    reload: Reload,
    token: Callable[[], SecretStr | None],
    refused: Callable[[str], None] = lambda _path: None,
    around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Serves `app` until SIGTERM or SIGINT; the exit code is 0 after a clean end, 1 where it cannot start.

    SIGHUP calls `reload`, after the web configuration was read again. `token` gives the bearer token in force, if any.
    `refused` is told the path of each request that is refused for want of a credential, for a count.
    `around` puts middleware outside of authentication, for what can show no credential: a browser's preflights.
    `stopping` is called when the process is told to end, while requests are still under way: they are waited for.
    """
    try:
        server = _Server(app, options, token, refused, around, stopping)
        listener = address.bind(server.address)
    except ConfigError as error:
        report(error)
        return 1
    except address.AddressError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    reload.surround(server.check_web, server.reload_web)

    def read_again() -> None:
        with contextlib.suppress(ConfigError):  # it is logged already, and there is nobody to answer
            reload()

    def on_hangup(_signal: int, _frame: FrameType | None) -> None:
        threading.Thread(target=read_again, name="reload", daemon=True).start()

    def on_stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)  # before the server has taken over these signals, and when it hands them back at its end

    signal.signal(signal.SIGHUP, on_hangup)
    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)
    server.serve(listener)
    return 0


class _Uvicorn(uvicorn.Server):
    """Says how it is: to systemd, and to the application, which learns only with its last request that it is to end."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None], ending: Callable[[], None]) -> None:
        """`stopping` is called by the signal, wherever the process is then; `ending` soon after, on the event loop."""
        super().__init__(config)
        self._stopping = stopping
        self._ending = ending
        self._every = systemd.watchdog_seconds()
        self._told_at = -math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            systemd.notify("READY=1")

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if self._every is not None and now - self._told_at >= self._every:
            systemd.notify("WATCHDOG=1")
            self._told_at = now
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        systemd.notify("STOPPING=1")
        self._ending()
        await super().shutdown(sockets)


class _Server:
    """uvicorn with the web configuration, read again without closing the door."""

    def __init__(
        self,
        app: ASGIApp,
        options: argparse.Namespace,
        token: Callable[[], SecretStr | None],
        refused: Callable[[str], None],
        around: Callable[[ASGIApp], ASGIApp],
        stopping: Callable[[], None],
    ) -> None:
        self.address = address.parse(options.listen_address)
        self._file: Path | None = options.web_config_file
        self._token = token
        config = web.read(self._file) if self._file is not None else web.WebConfig()
        self._stopping = stopping
        self._allow_anonymous: bool = options.allow_anonymous
        self._refuse_open(config)
        tls = config.tls_server_config
        self._tls = web.ServedTls(tls) if tls is not None else None
        self._authentication = Authentication(
            app, dict(config.basic_auth_users), token(), refused, certified=config.asks_for_certificate
        )
        self._app = around(self._authentication)

    def serve(self, listener: socket.socket) -> None:
        def context(_config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            if self._tls is None:
                raise AssertionError("asked for TLS without a certificate")
            return self._tls

        config = uvicorn.Config(
            self._app,
            log_config=None,
            log_level="error",  # what a client does wrong is said by BoundedHttp, not once a request
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=BoundedHttp,
            loop="serving.protocol:Loop",
            backlog=BURST,
            # 503, which Prometheus and Alertmanager try again, where the server works for so many. Twice, for the task
            # of a connection that had to make room is counted for a moment longer.
            limit_concurrency=2 * BURST,
            headers=list(SECURITY_HEADERS.items()),
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=5,
            ssl_context_factory=context if self._tls is not None else None,
        )
        allow_files()
        listener.listen(BURST)  # from now on a caller is heard, if not answered yet
        host, port = listener.getsockname()[:2]
        log.info("listening", address=str(address.Address(host, port)), tls=self._tls is not None)
        _Uvicorn(config, self._stopping, self._authentication.end).run(sockets=[listener])

    def _refuse_open(self, config: web.WebConfig) -> None:
        """Raises ConfigError where everybody could get in from beyond loopback."""
        problem = web.exposed(self.address, config, token=self._token() is not None)
        if problem is not None and not self._allow_anonymous:
            raise ConfigError([problem])

    def check_web(self) -> web.WebConfig:
        """What is in the file now; raises ConfigError where it cannot be taken."""
        config = web.read(self._file) if self._file is not None else web.WebConfig()
        if (config.tls_server_config is not None) != (self._tls is not None):
            raise ConfigError([f"{self._file}: TLS can be switched on or off only by a restart"])
        return config

    def reload_web(self) -> None:
        """Users, token and certificates from now on; raises ConfigError and changes nothing where they are wrong."""
        config = self.check_web()
        self._refuse_open(config)
        tls = config.tls_server_config
        if tls is not None and self._tls is not None:
            self._tls.renew(tls)
        self._authentication.configure(
            dict(config.basic_auth_users), self._token(), certified=config.asks_for_certificate
        )
