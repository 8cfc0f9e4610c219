"""`make up`: the whole chain in one command, and nothing left of it after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.demo.sandbox import Client
from tests.databases import free_port
from tests.programs import program
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

PROGRAMS = ("exporter", "receiver", "sandbox", "smtp", "prometheus", "alertmanager")
GIVEN = {"DATABASE_URL", "SMTP_HOST", "SLACK_WEBHOOK_URL", "ALIGO_API_KEY"}


def environment(folder: Path) -> dict[str, str]:
    """Ours without what would replace the demo's parts, and with the programs that Debian keeps out of PATH."""
    found = {program("prometheus"), program("prometheus-alertmanager", "alertmanager")}
    folders = sorted({str(Path(path).parent) for path in found})
    kept = {name: value for name, value in os.environ.items() if name not in GIVEN}
    return {**kept, "PATH": os.pathsep.join([*folders, kept["PATH"]]), "TMPDIR": str(folder)}


def left_of(state: Path) -> list[str]:
    """The commands of processes that still work on this run's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(state) in command:
            found.append(command)
    return found


def asked(what: str, state: Path) -> None:
    """`make incident` or `make resolve`, as it is typed beside a `make up` of that folder."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo.company", what, "--database", str(state / "company.db")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "2분 안에" in done.stdout


def told(sandbox: Client, words: str) -> str:
    """The mail with these words in its subject, as text, once Slack has it too; empty before."""
    if not any(words in message["payload"]["text"] for message in sandbox.messages("slack")):
        return ""
    return next((str(mail["text"]) for mail in sandbox.messages("smtp") if words in mail["subject"]), "")


def test_an_incident_reaches_the_sandbox_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ports = {name: free_port() for name in PROGRAMS}
    log = tmp_path / "up.log"
    command = [sys.executable, "-m", "deploy.demo.up", f"--state={state}", "--seed=7"]
    with log.open("wb") as stream:
        up = subprocess.Popen(
            [*command, *(f"--{name}-port={port}" for name, port in ports.items())],
            stdout=stream,
            stderr=stream,
            env=environment(tmp_path),
        )
    try:

        def says(words: str) -> bool:
            assert up.poll() is None, log.read_text()
            return words in log.read_text()

        until(lambda: says("Ctrl-C ends everything"), "everything is ready", 120)
        for name in ("exporter", "receiver", "sandbox", "prometheus", "alertmanager"):
            assert f"http://localhost:{ports[name]} " in log.read_text()

        assert f"make incident STATE={state} " in log.read_text()
        metrics = httpx.get(f"http://127.0.0.1:{ports['exporter']}/metrics", trust_env=False).text
        up_now = re.findall(r'^coldchain_source_up\{source="(\w+)"\} (\S+)$', metrics, re.MULTILINE)
        assert dict(up_now) == dict.fromkeys(
            ("host", "database", "orders", "dispatches", "vehicles", "vehicle_temperature"), "1.0"
        )

        asked("incident", state)
        with Client(f"http://127.0.0.1:{ports['sandbox']}") as sandbox:
            words = "배차 대기 주문 많음"
            until(
                lambda: told(sandbox, words),
                "the mail and the Slack message arrive",
                150,
            )
            alerts = f"http://127.0.0.1:{ports['receiver']}/api/v1/alerts"
            until(lambda: httpx.get(alerts, trust_env=False).json()["alertmanager"] == "asked", "Alertmanager is asked")
            links = re.findall(r"https?://[^\s<>]+", told(sandbox, words))
            assert [link.partition("?")[0] for link in links] == [
                f"http://localhost:{ports['sandbox']}/runbooks/ko/ColdChainOrdersWaiting.md",
                f"http://localhost:{ports['alertmanager']}/#/silences/new",
            ]
            assert [httpx.get(link, trust_env=False).status_code for link in links] == [200, 200]

            asked("resolve", state)
            until(lambda: told(sandbox, f"[해소] {words}"), "so does the message that says it is over", 150)
    finally:
        up.send_signal(signal.SIGINT)
        code = up.wait(60)
    assert code == 0, log.read_text()
    assert left_of(state) == []
    assert not state.exists()


def test_without_prometheus_it_says_what_is_missing_and_runs_the_rest(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ports = {name: free_port() for name in PROGRAMS}
    log = tmp_path / "up.log"
    with log.open("wb") as stream:
        up = subprocess.Popen(
            [
                *(sys.executable, "-m", "deploy.demo.up", f"--state={state}", "--seed=7"),
                *(f"--{name}-port={port}" for name, port in ports.items()),
            ],
            stdout=stream,
            stderr=stream,
            env={**environment(tmp_path), "PATH": str(tmp_path)},
        )
    try:
        until(lambda: up.poll() is not None or "Ctrl-C ends everything" in log.read_text(), "the rest is ready", 120)
        said = log.read_text()
        assert "Not running, for want of Prometheus: apt-get install prometheus\n" in said
        assert "Not running, for want of Alertmanager: apt-get install prometheus-alertmanager\n" in said
        assert "make incident" not in said  # nobody would tell of it
        for name in ("exporter", "receiver"):
            assert httpx.get(f"http://127.0.0.1:{ports[name]}/-/ready", trust_env=False).status_code == 200
    finally:
        up.send_signal(signal.SIGTERM)
        code = up.wait(60)
    assert code == 0, log.read_text()
    assert left_of(state) == []


def test_a_port_that_is_taken_is_named_with_what_holds_it(tmp_path: Path) -> None:
    ports = {name: free_port() for name in PROGRAMS}
    with socket.create_server(("127.0.0.1", ports["receiver"])):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "deploy.demo.up", f"--state={tmp_path}/state"),
                *(f"--{name}-port={port}" for name, port in ports.items()),
            ],
            capture_output=True,
            text=True,
            env=environment(tmp_path),
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: port {ports['receiver']}, for the receiver, is taken by "
        f"{psutil.Process().name()} (process {os.getpid()})."
    )
    assert not (tmp_path / "state").exists()
