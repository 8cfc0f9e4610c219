"""Receivers killed with -9 again and again under a stream from a real Alertmanager: everything arrives.

In short as it stands; KILLS=50 makes it 50 kills and 1,000 notifications.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text

from deploy.demo.sandbox import Sandbox
from receiver.store import read_url
from tests.databases import free_port
from tests.programs import program
from tests.receiver.test_process import Process
from tests.waiting import until

KILLS = int(os.environ.get("KILLS", "5"))
BATCH = 20  # notifications between two kills
CHANNELS = ("email", "slack")
ALERTMANAGER = """\
route: {{receiver: ours, group_by: ['...'], group_wait: 0s, group_interval: 5s, repeat_interval: 4h}}
receivers:
  - name: ours
    webhook_configs: [{hooks}]
"""
# One message a notification, so that each can be counted; its number is all that a message must show.
SETTINGS = "storm: {messages: 0}\nslack: {pause: 0s}\n"
IN_FLIGHT = """\
SELECT lead.channel, notifications.payload FROM deliveries AS lead
JOIN deliveries AS told ON told.id = lead.id OR told.merged_into = lead.id
JOIN notifications ON notifications.id = told.notification_id
WHERE lead.lease_owner LIKE :owner AND lead.state IN ('pending', 'held', 'retrying')
"""
LEASE_ENDS = "UPDATE deliveries SET lease_until = claimed_at WHERE lease_owner LIKE :owner"


@contextlib.contextmanager
def alertmanager(folder: Path, receivers: list[Process]) -> Iterator[str]:
    """Its address; it posts each alert by itself, to every receiver."""
    hooks = ", ".join(f"{{url: 'http://{one.address}/webhook', send_resolved: true}}" for one in receivers)
    (folder / "alertmanager.yml").write_text(ALERTMANAGER.format(hooks=hooks))
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(program("prometheus-alertmanager", "alertmanager"), f"--config.file={folder}/alertmanager.yml"),
        *(f"--storage.path={folder}/alertmanager", f"--web.listen-address={address}", "--cluster.listen-address="),
    ]
    with (folder / "alertmanager.log").open("wb") as log, subprocess.Popen(command, stderr=log) as started:
        try:
            until(lambda: _answers(f"http://{address}/-/ready"), "Alertmanager is ready")
            yield f"http://{address}"
        finally:
            started.kill()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False


def fire(address: str, numbers: range) -> None:
    alerts = [
        {
            "labels": {"alertname": "ColdChainOrdersWaiting", "severity": "warning", "number": f"n{number:05}"},
            "annotations": {"summary": f"n{number:05}"},
        }
        for number in numbers
    ]
    assert httpx.post(f"{address}/api/v2/alerts", json=alerts).status_code == 200


class Arrivals:
    """What has arrived; each message is read once, for there are thousands."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._last = dict.fromkeys(CHANNELS, 0)
        self._told = {channel: Counter[str]() for channel in CHANNELS}

    def told(self) -> dict[str, Counter[str]]:
        """By channel, how many messages told each number."""
        for channel, wire in (("email", "smtp"), ("slack", "slack")):
            for message in self._sandbox.messages(wire, after=self._last[channel]):
                words = message["subject"] + message["text"] if channel == "email" else json.dumps(message["payload"])
                self._told[channel].update(set(re.findall(r"n\d{5}", words)))
                self._last[channel] = max(self._last[channel], message["id"])
        return self._told


def waiting(receiver: Process) -> float:
    """How many deliveries are still to be settled."""
    found = re.findall(r'outbox_deliveries\{.*state="(?:pending|retrying)"\} (\S+)', receiver.metrics())
    return sum(map(float, found))


@pytest.mark.e2e
@pytest.mark.timeout(1_800)
def test_everything_arrives_and_only_what_was_in_flight_twice(
    sandbox: Sandbox, database_url: str, tmp_path: Path
) -> None:
    chance, arrivals = random.Random(KILLS), Arrivals(sandbox)
    database = create_engine(read_url(database_url))
    receivers = []
    for number in range(2 if database.dialect.name == "postgresql" else 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "receiver.yaml").write_text(SETTINGS)
        receivers.append(Process(sandbox, folder, "--config.file=receiver.yaml", RECEIVER_DATABASE_URL=database_url))
    in_flight: dict[str, set[str]] = {channel: set() for channel in CHANNELS}
    try:
        for one in receivers:
            one.start()
        with alertmanager(tmp_path, receivers) as address:
            for kill in range(KILLS):
                # every other kill falls between the peer's acceptance and our note of it
                if kill % 2:
                    sandbox.misbehave(channel="slack", delay=1, times=1)
                    sandbox.misbehave(channel="smtp", delay=1, times=1)
                fire(address, range(kill * BATCH, (kill + 1) * BATCH))
                time.sleep(chance.uniform(0, 0.8))  # the random moment itself
                killed = chance.choice(receivers)
                assert killed.popen is not None
                owner = {"owner": f"%-{killed.popen.pid}-%"}
                killed.end(signal.SIGKILL)
                sandbox.behave()
                with database.begin() as connection:
                    for channel, payload in connection.execute(text(IN_FLIGHT), owner):
                        in_flight[channel] |= set(re.findall(r"n\d{5}", payload))
                    connection.execute(text(LEASE_ENDS), owner)  # rather than wait 15 s each time
                killed.start()
            every = {f"n{number:05}" for number in range(KILLS * BATCH)}
            until(
                lambda: all(set(numbers) == every for numbers in arrivals.told().values()), "everything arrives", 300, 3
            )
            until(lambda: waiting(receivers[0]) == 0, "nothing is left", 60)
            told = arrivals.told()
    finally:
        for one in receivers:
            if one.popen is not None and one.popen.poll() is None:
                one.end(signal.SIGKILL)
            one.client.close()
        database.dispose()
    twice = {channel: {number for number, times in told[channel].items() if times > 1} for channel in CHANNELS}
    print(
        f"{database.dialect.name}: {KILLS} kills, {len(every)} notifications, in flight",
        {channel: len(some) for channel, some in in_flight.items()},
        "twice",
        {channel: len(some) for channel, some in twice.items()},
    )
    for channel in CHANNELS:
        assert twice[channel] <= in_flight[channel]
