"""A real Alertmanager that sends the same thing twice, for a bad reason and for a good one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.demo.sandbox import Sandbox
from tests.databases import free_port
from tests.programs import program
from tests.receiver.serving import served
from tests.receiver.test_process import Process, running
from tests.waiting import until

pytestmark = pytest.mark.e2e

CONFIG = """
receivers:
  - name: receiver
    webhook_configs: [{{url: "{webhook}", send_resolved: true}}]
route: {{receiver: receiver, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: {repeat}}}
"""
DEADLINE = 10  # seconds that Alertmanager waits for an answer at least: max(group_interval, 10 s)


class Alertmanager:
    """A real one, with one alert that fires."""

    def __init__(self, folder: Path, webhook: str, repeat: str) -> None:
        self._folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        (folder / "alertmanager.yml").write_text(CONFIG.format(webhook=webhook, repeat=repeat))
        self._program = program("prometheus-alertmanager", "alertmanager")
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and tells it of the alert, as Prometheus does again and again."""
        command = [
            self._program,
            f"--config.file={self._folder / 'alertmanager.yml'}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address={self._address}",
            "--cluster.listen-address=",
        ]
        with (self._folder / "alertmanager.log").open("ab") as log:
            self._popen = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._tell, "Alertmanager listens")

    def _tell(self) -> bool:
        alert = {
            "labels": {"alertname": "ColdChainVehicleUtilizationLow", "severity": "info"},
            "annotations": {"summary": "차량 활용률 낮음"},
            "startsAt": "2026-01-27T13:00:00Z",
            "endsAt": "2099-01-01T00:00:00Z",
        }
        with contextlib.suppress(httpx.TransportError):
            return httpx.post(f"http://{self._address}/api/v2/alerts", json=[alert], trust_env=False).is_success
        return False

    def kill(self) -> None:
        """As by a power cut: what it notified of is not written down."""
        if self._popen is not None:
            self._popen.send_signal(signal.SIGKILL)
            self._popen.wait()


@contextlib.contextmanager
def alertmanager(folder: Path, webhook: str, repeat: str) -> Iterator[Alertmanager]:
    one = Alertmanager(folder, webhook, repeat)
    one.start()
    try:
        yield one
    finally:
        one.kill()


@pytest.fixture
def start(sandbox: Sandbox, tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """A receiver with a dedup_window of so long."""
    with contextlib.ExitStack() as opened:

        def make(window: str) -> Process:
            process = Process(sandbox, tmp_path)
            with (tmp_path / "quick.yaml").open("a") as file:
                file.write(f"dedup_window: {window}\n")
            return opened.enter_context(running(process))

        yield make


def webhooks(process: Process, result: str) -> int:
    lines = process.metrics().splitlines()
    prefix = f'coldchain_receiver_webhooks_total{{result="{result}"}} '
    return int(float(next(line.removeprefix(prefix) for line in lines if line.startswith(prefix))))


def test_alertmanager_that_was_killed_and_tells_it_again_is_a_duplicate(
    start: Callable[[str], Process], sandbox: Sandbox, tmp_path: Path
) -> None:
    process = start("20m")
    with alertmanager(tmp_path, f"http://{process.address}/webhook", "1h") as one:
        until(lambda: sandbox.messages("slack"), "it arrives")
        one.kill()
        one.start()
        until(lambda: webhooks(process, "duplicate") == 1, "it is told again")
    assert webhooks(process, "accepted") == 1
    assert len(sandbox.messages("slack")) == 1


def test_answer_that_comes_too_late_makes_a_duplicate(
    start: Callable[[str], Process], sandbox: Sandbox, tmp_path: Path
) -> None:
    process = start("20m")
    calls = itertools.count()

    async def forward(request: Request) -> Response:
        headers = {"Content-Type": "application/json"}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"http://{process.address}/webhook", content=await request.body(), headers=headers
            )
        if next(calls) == 0:
            await asyncio.sleep(DEADLINE + 1)
        return Response(answer.content, answer.status_code)

    config = uvicorn.Config(
        Starlette(routes=[Route("/webhook", forward, methods=["POST"])]), port=0, log_config=None, ws="none"
    )
    with served(config) as url, alertmanager(tmp_path, f"{url}/webhook", "1h"):
        until(lambda: webhooks(process, "duplicate") == 1, "it is told again", DEADLINE * 3)
    assert webhooks(process, "accepted") == 1
    assert len(sandbox.messages("slack")) == 1


def test_reminder_goes_out(start: Callable[[str], Process], sandbox: Sandbox, tmp_path: Path) -> None:
    process = start("2s")
    with alertmanager(tmp_path, f"http://{process.address}/webhook", "4s"):
        until(lambda: len(sandbox.messages("slack")) == 2, "the reminder arrives")
    assert webhooks(process, "duplicate") == 0
