"""The whole chain as real processes on free ports: exporter, receiver, Prometheus, Alertmanager, and the sandbox."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.demo.sandbox import Options, Sandbox
from deploy.prometheus.quicken import quicken
from tests.databases import free_port
from tests.programs import program
from tests.waiting import until

DIVIDE = 60  # a `for` of a minute is a second here; scrape, evaluation and grouping are shortened alike

# The load of the machine that runs the tests is no part of the story.
EXPORTER_SETTINGS = """\
default_interval: 1s
thresholds:
  ColdChainCpuHigh: off
  ColdChainMemoryHigh: off
  ColdChainDiskHigh: off
  ColdChainDatabaseSlow: off
"""


@dataclass
class Process:
    """One running program and the file that it logs to."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after the signal; AssertionError with its log where it does not end in 20 s."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"{self.name} did not end in 20 s\n{self.log.read_text()}") from None


@dataclass
class Chain:
    """Addresses and processes of a chain; `start` begins it, leaving the context ends it."""

    folder: Path
    database_url: str
    sandbox: Sandbox
    processes: dict[str, Process] = field(default_factory=dict)
    ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("exporter", "receiver", "prometheus", "alertmanager")}
    )
    settings: str = EXPORTER_SETTINGS
    receiver_settings: str = ""

    def __post_init__(self) -> None:
        (self.folder / "exporter.yaml").write_text(self.settings)
        (self.folder / "receiver.yaml").write_text(self.receiver_settings)

    def url(self, name: str, path: str = "") -> str:
        """An address of one of the four."""
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def start(self) -> None:
        """Starts what is not running, and returns when all of it says that it is ready."""
        smtp_host, smtp_port = self.sandbox.smtp
        quicken(
            self.folder,
            divide=DIVIDE,
            scrape_interval="1s",
            exporter=f"127.0.0.1:{self.ports['exporter']}",
            receiver=f"127.0.0.1:{self.ports['receiver']}",
            alertmanager=f"127.0.0.1:{self.ports['alertmanager']}",
            smarthost=f"{smtp_host}:{smtp_port}",
            email_to="native@example.com",
        )
        for name in ("exporter", "receiver", "alertmanager", "prometheus"):
            self.run(name)
        for name in self.processes:
            self.wait_ready(name)

    def run(self, name: str) -> Process:
        """Starts one of the four by its name; its predecessor, if any, has ended."""
        address = f"--web.listen-address=127.0.0.1:{self.ports[name]}"
        commands = {
            "exporter": [sys.executable, "-m", "exporter", address, f"--config.file={self.folder}/exporter.yaml"],
            "receiver": [sys.executable, "-m", "receiver", address, f"--config.file={self.folder}/receiver.yaml"],
            "alertmanager": [
                *(program("prometheus-alertmanager", "alertmanager"), address, "--cluster.listen-address="),
                *(f"--config.file={self.folder}/alertmanager.yml", f"--storage.path={self.folder}/alertmanager"),
            ],
            "prometheus": [
                *(program("prometheus"), address, f"--config.file={self.folder}/prometheus.yml"),
                f"--storage.tsdb.path={self.folder}/prometheus",
                "--rules.alert.resend-delay=1s",  # what fires before Alertmanager is known is sent again after this
            ],
        }
        host, port = self.sandbox.smtp
        account = self.sandbox.options.aligo
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DATABASE_URL": self.database_url,
            "RECEIVER_DATABASE_URL": f"sqlite:///{self.folder}/receiver.db",
            "SMTP_HOST": host,
            "SMTP_PORT": str(port),
            "SMTP_TLS": "none",
            "SMTP_FROM": "noreply@example.com",
            "ALERT_EMAIL_TO": "duty@example.com",
            "SLACK_WEBHOOK_URL": self.sandbox.slack_webhook_url,
            "ALIGO_BASE_URL": self.sandbox.aligo_base_url,
            "ALIGO_API_KEY": account.key,
            "ALIGO_USER_ID": account.user_id,
            "ALIGO_SENDER": account.senders[0],
            "ALERT_SMS_TO": "010-8765-4321",
        }
        log = self.folder / f"{name}.log"
        with log.open("ab") as stream:
            popen = subprocess.Popen(commands[name], stdout=stream, stderr=stream, env=environment)
        self.processes[name] = Process(name, popen, log)
        return self.processes[name]

    def wait_ready(self, name: str) -> None:
        """Returns when the program answers 200 at `/-/ready`; AssertionError with its log otherwise."""

        def ready() -> bool:
            process = self.processes[name]
            assert process.popen.poll() is None, f"{name} has ended:\n{process.log.read_text()}"
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(self.url(name, "/-/ready")).status_code == 200
            return False

        until(ready, f"{name} is ready", 60)

    def metrics(self) -> dict[str, float]:
        """The exporter's samples of this moment, by name with labels."""
        return {
            name: float(value)
            for name, _, value in (
                line.rpartition(" ")
                for line in httpx.get(self.url("exporter", "/metrics")).text.splitlines()
                if not line.startswith("#")
            )
        }

    def alerts(self) -> set[tuple[str, str]]:
        """Name and severity of each alert that fires in Prometheus."""
        found = httpx.get(self.url("prometheus", "/api/v1/alerts")).json()["data"]["alerts"]
        return {(a["labels"]["alertname"], a["labels"]["severity"]) for a in found if a["state"] == "firing"}

    def mails(self, alert_words: str, to: str = "duty@example.com") -> list[dict[str, Any]]:
        """What arrived by mail with these words in its subject or text."""
        return [
            mail
            for mail in self.sandbox.messages("smtp")
            if to in mail["recipients"] and alert_words in f"{mail['subject']}\n{mail['text']}"
        ]

    def slacks(self, words: str) -> list[str]:
        """The payloads that arrived in Slack with these words, as text."""
        texts = [repr(message["payload"]) for message in self.sandbox.messages("slack")]
        return [text for text in texts if words in text]

    def texts(self, words: str = "") -> list[dict[str, Any]]:
        """The SMS that arrived with these words."""
        return [message for message in self.sandbox.messages("aligo") if words in message["msg"]]


@contextlib.contextmanager
def running_chain(
    folder: Path, database_url: str, settings: str = EXPORTER_SETTINGS, receiver_settings: str = ""
) -> Iterator[Chain]:
    """A chain that watches `database_url`, ended with everything in it at the end."""
    with Sandbox(Options(slack_rate=0)) as sandbox:
        chain = Chain(folder, database_url, sandbox, settings=settings, receiver_settings=receiver_settings)
        try:
            chain.start()
            yield chain
        finally:
            for process in reversed(chain.processes.values()):
                process.end(signal.SIGTERM if process.name in {"exporter", "receiver"} else signal.SIGKILL)
