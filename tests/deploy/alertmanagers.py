"""A real Alertmanager with the shipped configuration, sped up, and a webhook that keeps what it is sent."""

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.waiting import until

Labels = dict[str, str]


def free_address() -> str:
    """HOST:PORT of loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass
class Webhook:
    """What Alertmanager posted: (alert name, status, labels) of each alert, in order, and the bodies."""

    address: str
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def alerts(self, name: str, status: str) -> list[Labels]:
        """The labels of the alerts of that name and status, one entry for each time that one was sent."""
        return [
            alert["labels"]
            for body in list(self.bodies)
            for alert in body["alerts"]
            if alert["labels"]["alertname"] == name and alert["status"] == status
        ]


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    """A webhook that answers 200 to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Webhook(f"127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Alertmanager:
    """A running Alertmanager by its address."""

    address: str

    def post(self, *alerts: Labels, resolved: bool = False) -> None:
        """Hands over alerts as Prometheus does: firing from now for another hour, or resolved just now."""
        now = datetime.now(UTC)
        ends = now if resolved else now + timedelta(hours=1)
        body = [{"labels": labels, "startsAt": now.isoformat(), "endsAt": ends.isoformat()} for labels in alerts]
        httpx.post(f"http://{self.address}/api/v2/alerts", json=body).raise_for_status()

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that it knows, each with its `status`."""
        answer = httpx.get(f"http://{self.address}/api/v2/alerts")
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def inhibited(self) -> set[tuple[str, str]]:
        """(alert name, severity) of those that an inhibition keeps back."""
        return {
            (alert["labels"]["alertname"], alert["labels"]["severity"])
            for alert in self.alerts()
            if alert["status"]["inhibitedBy"]
        }


@contextlib.contextmanager
def alertmanager(program: str, folder: Path, *flags: str, address: str | None = None) -> Iterator[Alertmanager]:
    """Runs the program on the `alertmanager.yml` of the folder; by itself unless the flags say otherwise."""
    running = Alertmanager(address or free_address())
    data = folder / running.address.replace(":", "-")
    data.mkdir()
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={data}"),
                *(f"--web.listen-address={running.address}", *(flags or ("--cluster.listen-address=",))),
            ],
            stdout=log,
            stderr=log,
        )
        try:

            def ready() -> bool:
                assert process.poll() is None, (data / "log").read_text()
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(f"http://{running.address}/-/ready").status_code == 200
                return False

            until(ready, "Alertmanager is ready", 60)
            yield running
        finally:
            process.kill()
            process.wait()
