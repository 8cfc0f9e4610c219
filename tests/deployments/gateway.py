"""The shipped gateway in a real nginx on free ports, and small servers that stand in for those behind it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.databases import free_port
from tests.programs import program
from tests.waiting import until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
GUIDE_CURLS = (Path(__file__).parent / "guide_curls.txt").read_text("utf-8").splitlines()

# What an nginx package brings around conf.d, as far as it concerns a gateway.
SURROUNDINGS = """
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    include {folder}/mime.types;
    default_type application/octet-stream;
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/conf.d/*.conf;
}}
"""


@dataclass
class StandIn:
    """A server that answers every request with what it has seen of it."""

    name: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[StandIn]:
        """Serves on a free port of loopback until the end."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = {
                    "by": stand_in.name,
                    "method": self.command,
                    "path": self.path,
                    "headers": {name.lower(): value for name, value in self.headers.items()},
                    "body": self.rfile.read(length).decode(),
                }
                stand_in.seen.append(request)
                if self.headers.get("Upgrade") == "websocket" and self.headers.get("Connection") == "upgrade":
                    self.send_response(101)
                    self.send_header("Upgrade", "websocket")
                    self.send_header("Connection", "Upgrade")
                    self.end_headers()
                    self.wfile.write(b"echo " + self.rfile.readline())
                    self.close_connection = True
                    return
                body = json.dumps(request).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer  # noqa: N815 - http.server names them so

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server names it so
                """Nothing is logged."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@dataclass
class Gateway:
    """A running nginx."""

    folder: Path
    port: int
    tls_port: int

    @property
    def log(self) -> str:
        """What nginx has complained of."""
        return (self.folder / "error.log").read_text("utf-8")


def lay_out(folder: Path, instead: Mapping[str, str], *, tls: bool = False) -> None:
    """Puts the shipped files where a package has them, with `instead` for what is shipped; every text must be there."""
    conf = folder / "conf.d"
    conf.mkdir(parents=True)
    shutil.copytree(DEPLOY / "gateway" / "coldchain", folder / "coldchain")
    shutil.copy(DEPLOY / "gateway" / "coldchain.conf", conf)
    if tls:
        shutil.copy(DEPLOY / "gateway" / "coldchain-tls.conf", conf)
    (folder / "mime.types").write_text("types { text/html html; text/markdown md; }\n")
    files = [*conf.iterdir(), *(folder / "coldchain").iterdir()]
    for shipped, value in instead.items():
        having = [file for file in files if shipped in file.read_text("utf-8")]
        assert having, f"no shipped file says {shipped}"
        for file in having:
            file.write_text(file.read_text("utf-8").replace(shipped, value), "utf-8")
    # nginx's workers give up root for a user who cannot read a test's folder
    user = "user root root;" if Path("/proc/self").owner() == "root" else ""
    (folder / "nginx.conf").write_text(SURROUNDINGS.format(folder=folder, user=user))


@contextlib.contextmanager
def running_gateway(
    folder: Path,
    *,
    exporter: int,
    receiver: int,
    backend: int,
    instead: Mapping[str, str] | None = None,
    tls: bool = False,
) -> Iterator[Gateway]:
    """The gateway before these ports of loopback, ended at the end."""
    nginx = program("nginx")
    gateway = Gateway(folder, free_port(), free_port())
    addresses = {
        "listen 127.0.0.1:8000;": f"listen 127.0.0.1:{gateway.port};",
        "server 127.0.0.1:19110;": f"server 127.0.0.1:{exporter};",
        "server 127.0.0.1:19111;": f"server 127.0.0.1:{receiver};",
        "server 127.0.0.1:8001;": f"server 127.0.0.1:{backend};",
        "/usr/share/coldchain-monitor/runbooks/": f"{DEPLOY}/runbooks/",
    }
    if tls:
        addresses["listen 8443 ssl;"] = f"listen 127.0.0.1:{gateway.tls_port} ssl;"
    lay_out(folder, {**addresses, **(instead or {})}, tls=tls)
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert "[warn]" not in checked.stderr
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:

        def listens() -> bool:
            assert process.poll() is None, gateway.log
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", gateway.port)):
                return True
            return False

        until(listens, "nginx listens")
        yield gateway
    finally:
        process.terminate()
        process.wait(20)
