"""The real programs with shorter limits of time, and clients that mean them no good."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.databases import free_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HOST = b"Host: localhost\r\n"


@dataclass
class Target:
    """A running exporter or receiver."""

    name: str
    port: int
    log_file: Path
    popen: subprocess.Popen[bytes]
    scheme: str = "http"

    def url(self, path: str = "/metrics") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def listens_at(self) -> int:
        """The port that it says it has."""
        (found,) = re.findall(r"msg=listening address=\S+:(\d+)", self.log())
        return int(found)

    def serves_others(self, **options: Any) -> bool:
        """Somebody else's request is answered within the time that Prometheus would wait; AssertionError otherwise."""
        answer = httpx.get(self.url(), timeout=10, verify=False, **options)
        assert (answer.status_code, "process_open_fds" in answer.text) == (200, True), answer.text[:500]
        return True

    def open_connections(self) -> int:
        """How many sockets towards its clients it has."""
        found = psutil.Process(self.popen.pid).net_connections("tcp")
        return sum(1 for one in found if one.laddr.port == self.port and one.status != psutil.CONN_LISTEN)

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """A connection; with a small buffer the other side notices soon that nothing is read."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        if self.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context.wrap_socket(connection)
        return connection

    def ask(self, raw: bytes) -> bytes:
        """Everything that is answered to these bytes until the server closes or a request of ours at the end is."""
        with self.connect() as connection:
            connection.sendall(raw)
            received = b""
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(65536):
                    received += piece
        return received


def statuses(received: bytes) -> list[int]:
    """The status codes of the answers."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@contextlib.contextmanager
def running(name: str, folder: Path, *flags: str, settings: str = "", **environment: str) -> Iterator[Target]:
    """An exporter or a receiver with nothing to watch and nobody to tell, unless the environment says so."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    (folder / f"{name}.yaml").write_text(settings)
    command = [
        *(sys.executable, "-m", "tests.serving.quick", name),
        *(f"--web.listen-address=127.0.0.1:{port}", f"--config.file={folder}/{name}.yaml", *flags),
    ]
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("ab") as log:
        popen = subprocess.Popen(command, cwd=folder, env=kept | environment, stdout=log, stderr=log)
    tls = any(flag.startswith("--web.config.file=") and "tls_server_config" in Path(flag.partition("=")[2]).read_text()
              for flag in flags)  # fmt: skip
    target = Target(name, port, folder / "log", popen, "https" if tls else "http")

    def listens() -> bool:
        assert popen.poll() is None, target.log()
        return "msg=listening" in target.log()

    try:
        until(listens, "it listens", 60)
        yield target
        assert "Traceback" not in target.log(), target.log()[-6000:]
        assert popen.poll() is None, target.log()
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(20) == 0, target.log()
    finally:
        if popen.poll() is None:
            popen.kill()
            popen.wait()
