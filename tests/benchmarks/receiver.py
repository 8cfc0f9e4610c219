"""`make bench-receiver`: the receiver against Alertmanager's own notifiers and the disk's own commits, in one run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from deploy.demo.sandbox import Client
from receiver.store import Store, read_url
from tests.benchmarks import product
from tests.benchmarks.measure import Row, megabytes, table
from tests.databases import free_port
from tests.programs import program
from tests.waiting import until

CONNECTIONS = 16
WARM_UP = 20
"""Groups sent before the measured ones, by either: nobody's receiver has been started for the alert that comes now."""


@contextlib.contextmanager
def process(name: str, command: list[str], folder: Path, environ: dict[str, str] | None = None) -> Iterator[int]:
    """A program of its own; gives its process number."""
    with (folder / f"{name}.log").open("wb") as log:
        popen = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path.cwd(), env=product.environment(environ))
        try:
            yield popen.pid
        finally:
            popen.terminate()
            popen.wait(30)


def answers(url: str) -> None:
    """Returns as soon as the page is there."""

    def there() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    until(there, f"{url} answers", 60)


@contextlib.contextmanager
def sandbox(folder: Path) -> Iterator[tuple[Client, str]]:
    """The sandbox as a process of its own, without Slack's rate limit; its client and its mail server's address."""
    http_port, smtp_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "deploy.demo.sandbox", "--slack-rate", "0", "--keep", "20000"),
        *("--http", f"127.0.0.1:{http_port}", "--smtp", f"127.0.0.1:{smtp_port}"),
    ]
    with process("sandbox", command, folder):
        answers(f"http://127.0.0.1:{http_port}/-/healthy")
        with Client(f"http://127.0.0.1:{http_port}") as client:
            yield client, f"127.0.0.1:{smtp_port}"


@contextlib.contextmanager
def alertmanager(folder: Path, receiver: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """A real one, every alert a group of its own and sent at once; its address and process number."""
    port = free_port()
    config = {
        "route": {"receiver": "one", "group_by": ["..."], "group_wait": "0s", "group_interval": "5m"},
        "receivers": [{"name": "one", **receiver}],
    }
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    shutil.rmtree(folder / "alertmanager", ignore_errors=True)
    command = [
        *(program("prometheus-alertmanager", "alertmanager"), f"--config.file={folder}/alertmanager.yml"),
        *(f"--storage.path={folder}/alertmanager", f"--web.listen-address=127.0.0.1:{port}"),
        "--cluster.listen-address=",
    ]
    with process("alertmanager", command, folder) as pid:
        answers(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}", pid


@contextlib.contextmanager
def our_receiver(programs: Path, folder: Path, channel: str, client: Client, smtp: str) -> Iterator[tuple[str, int]]:
    """Ours with one channel and its rate limits lifted; its address and process number."""
    port = free_port()
    for file in folder.glob("receiver.db*"):
        file.unlink()
    url = f"sqlite:///{folder}/receiver.db"
    store = Store(read_url(url))  # the tables are there, as at every start but a version's first
    store.start()
    store.read(lambda _connection: None)
    store.close()
    (folder / "receiver.yaml").write_text(
        yaml.safe_dump({"slack": {"pause": "0s", "workers": 16}, "email": {"workers": 16}, "storm": {"messages": 0}})
    )
    host, _, smtp_port = smtp.partition(":")
    environ = {
        "RECEIVER_DATABASE_URL": url,
        **(
            {"SLACK_WEBHOOK_URL": client.slack_webhook_url}
            if channel == "slack"
            else {
                "SMTP_HOST": host,
                "SMTP_PORT": smtp_port,
                "SMTP_TLS": "none",
                "SMTP_FROM": "noreply@example.com",
                "ALERT_EMAIL_TO": "duty@example.com",
            }
        ),
    }
    command = [
        *(str(programs / "coldchain-receiver"), f"--web.listen-address=127.0.0.1:{port}"),
        *(f"--config.file={folder}/receiver.yaml", "--log.level=error"),
    ]
    with process("receiver", command, folder, environ) as pid:
        answers(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}", pid


def post(address: str, groups: int, start: int) -> None:
    """That many alerts, each a group of its own, into an Alertmanager."""
    alerts = [
        {
            "labels": {"alertname": "Bench", "severity": "warning", "category": "system", "n": str(start + n)},
            "annotations": {"summary": "CPU 사용률 주의", "description": f"CPU 사용률이 75.3%입니다 ({start + n})"},
        }
        for n in range(groups)
    ]
    httpx.post(f"{address}/api/v2/alerts", json=alerts, timeout=60).raise_for_status()


def arrival(address: str, client: Client, channel: str, groups: int) -> float:
    """Seconds from the post to the arrival of the last message, by a program that has sent some before."""
    _arrival(address, client, channel, WARM_UP, 0)
    return _arrival(address, client, channel, groups, WARM_UP)


def _arrival(address: str, client: Client, channel: str, groups: int, start: int) -> float:
    client.clear()
    begin = datetime.now(UTC)
    post(address, groups, start)
    times: dict[int, str] = {}

    def arrived() -> bool:  # each is read once: the sandbox has other things to do than to repeat itself
        times.update({m["id"]: m["time"] for m in client.messages(channel, after=max(times, default=0))})
        return len(times) >= groups

    until(arrived, f"{groups} messages arrive by {channel}", 600, pause=0.2)
    return (max(map(datetime.fromisoformat, times.values())) - begin).total_seconds()


def native(channel: str, client: Client, smtp: str) -> dict[str, Any]:
    """Alertmanager's own notifier to the same sandbox."""
    if channel == "slack":
        return {"slack_configs": [{"api_url": client.slack_webhook_url, "channel": "#bench", "send_resolved": True}]}
    email = {"to": "duty@example.com", "from": "am@example.com", "smarthost": smtp, "require_tls": False}
    return {"email_configs": [{**email, "send_resolved": True}]}


def bare_commits(folder: Path, seconds: float = 3) -> float:
    """Single-row commits a second on this disk, with full fsync: one connection, SQLite in WAL mode."""
    path = folder / "bare.db"
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            connection.execute("INSERT INTO t (body) VALUES (?)", ("x" * 500,))
            count += 1
    return count / seconds


_WRK = """
local n = 0
request = function()
  n = n + 1
  local id = tostring(wrk.thread and wrk.thread:get("id") or 0) .. "-" .. n .. "-" .. RUN
  local body = BODY:gsub("NUMBER", id)
  return wrk.format("POST", "/webhook", {["Content-Type"] = "application/json"}, body)
end
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
"""


def accepted_per_second(address: str, folder: Path, seconds: int = 5) -> float:
    """Webhooks a second, each a new notification, at 16 connections; raises where one is not accepted."""
    alert = {
        "status": "firing",
        "labels": {"alertname": "Bench", "severity": "none", "n": "NUMBER"},
        "annotations": {"summary": "s", "description": "d"},
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://p",
        "fingerprint": "NUMBER",
    }
    body = {
        "version": "4",
        "groupKey": "{}:{n=NUMBER}",
        "truncatedAlerts": 0,
        "receiver": "r",
        "status": "firing",
        "alerts": [alert],
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://a",
    }
    script = folder / "webhook.lua"
    script.write_text(f"RUN = {time.time_ns()}\nBODY = {json.dumps(json.dumps(body))}\n{_WRK}")
    done = subprocess.run(
        [
            *(program("wrk"), "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)),
            f"{address}/webhook",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    if "Non-2xx" in done.stdout:
        raise RuntimeError(done.stdout)
    page = httpx.get(f"{address}/metrics").text
    counted = [line for line in page.splitlines() if "webhooks_total" in line and 'result="accepted"' in line]
    return float(counted[0].rpartition(" ")[2]) / seconds


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(psutil.Process(pid).memory_info().rss)


def peak(pid: int) -> int:
    """The most bytes of memory that a process has had: a machine must have room for that."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def main() -> int:
    """Prints the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench-receiver")
    parser.add_argument("--quick", action="store_true", help="200 groups alone, once")
    parser.add_argument(
        "--cache", type=Path, default=Path("/var/tmp/coldchain-bench"), help="programs and stores, on disk"
    )
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    print(f"load average at the start: {os.getloadavg()[0]:.2f} (a disturbed machine tells nothing)", flush=True)
    _say("installing the receiver into an environment of its own")
    programs = product.installed(options.cache)
    with tempfile.TemporaryDirectory(prefix="receiver-", dir=options.cache) as name:
        rows = _measure(programs, Path(name), quick=options.quick)
    print(table(rows))
    return 0 if all(row.reached for row in rows) else 1


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def _measure(programs: Path, folder: Path, *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    memory: dict[str, int] = {}
    with sandbox(folder) as (client, smtp):
        for channel, wire, bar in (("email", "smtp", 1.0), ("slack", "slack", 1.5)):
            found: dict[tuple[str, int], list[float]] = {}
            for _ in range(1 if quick else 3):
                for groups in (200,) if quick else (200, 2000):
                    _say(f"{groups} groups by {channel}: Alertmanager's own, then ours")
                    with alertmanager(folder, native(channel, client, smtp)) as (address, pid):
                        seconds = arrival(address, client, wire, groups)
                        found.setdefault(("native", groups), []).append(seconds)
                        memory[f"alertmanager {channel} {groups}"] = peak(pid)
                    with our_receiver(programs, folder, channel, client, smtp) as (ours, pid):
                        memory.setdefault("idle", resident(pid))
                        webhook = {"webhook_configs": [{"url": f"{ours}/webhook", "send_resolved": True}]}
                        with alertmanager(folder, webhook) as (address, _):
                            seconds = arrival(address, client, wire, groups)
                        found.setdefault(("ours", groups), []).append(seconds)
                        memory[f"ours {channel} {groups}"] = peak(pid)
            for groups in (200,) if quick else (200, 2000):
                mine, theirs = (statistics.median(found[who, groups]) for who in ("ours", "native"))
                what = f"{groups} groups by {channel}, against Alertmanager's own notifier"
                rows.append(Row(what, f"{mine:.2f} s", f"{theirs:.2f} s", mine / theirs, bar))
        _say("accepted webhooks a second, and bare commits")
        rates, commits = [], []
        for _ in range(1 if quick else 3):
            commits.append(bare_commits(folder))
            with our_receiver(programs, folder, "email", client, smtp) as (ours, _):
                rates.append(accepted_per_second(ours, folder))
        rate, commit = statistics.median(rates), statistics.median(commits)
        what = f"accepted webhooks/s at {CONNECTIONS} connections, against bare single-row commits/s"
        rows.append(Row(what, f"{rate:.0f}", f"{commit:.0f}", rate / commit, 0.5, higher_is_better=True))
    if not quick:
        mine, theirs = memory["ours email 2000"], memory["alertmanager email 2000"]
        what = "peak of resident memory over 2000 mails, against Alertmanager's"
        rows.append(Row(what, megabytes(mine), megabytes(theirs), mine / theirs, 1))
    rows.append(Row("resident memory idle, against 80 MB", megabytes(memory["idle"]), "80 MB", memory["idle"] / 8e7, 1))
    return rows


if __name__ == "__main__":
    sys.exit(main())
