"""What deploy/scale ships for a bigger site, tried: long history in VictoriaMetrics, receivers that share the work."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.demo.sandbox import Options, Sandbox
from deploy.prometheus.quicken import quicken
from tests.databases import PostgreSQL, SQLite, free_port
from tests.deploy.alertmanagers import Alertmanager, alertmanager
from tests.deployments.gateway import DEPLOY
from tests.e2e.chain import Chain
from tests.programs import program
from tests.receiver.test_process import Process
from tests.serving.authority import Authority, web_file
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

REMOTE_WRITE = (DEPLOY / "scale" / "remote-write.yml").read_text("utf-8")
REPLICAS = (DEPLOY / "scale" / "replicas.yml").read_text("utf-8")


@contextlib.contextmanager
def victoria_metrics(folder: Path) -> Iterator[str]:
    """A server for long history; its address."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(program("victoria-metrics", "victoria-metrics-prod"), f"-storageDataPath={folder}/data"),
        # what was just written is found at once, rather than after 30 s
        *(f"-httpListenAddr={address}", "-retentionPeriod=5y", "-search.latencyOffset=0s"),
    ]
    folder.mkdir()
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:

            def answers() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(f"http://{address}/health").status_code == 200
                return False

            until(answers, "VictoriaMetrics answers", 60)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def names(address: str) -> set[str]:
    """The names of the series that a server of Prometheus's API knows."""
    found: set[str] = set(httpx.get(f"http://{address}/api/v1/label/__name__/values").json()["data"])
    return found


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """What a server of Prometheus's API finds."""
    answer = httpx.get(f"http://{address}/api/v1/query", params={"query": expression}).json()
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def test_victoria_metrics_keeps_what_people_look_at_and_outlives_prometheus(tmp_path: Path) -> None:
    with Sandbox(Options()) as sandbox, victoria_metrics(tmp_path / "long") as long:
        chain = Chain(tmp_path, SQLite(tmp_path / "dispatch.db").url, sandbox)
        quicken(
            tmp_path,
            divide=60,
            scrape_interval="1s",
            exporter=f"127.0.0.1:{chain.ports['exporter']}",
            receiver=f"127.0.0.1:{chain.ports['receiver']}",
        )
        file = tmp_path / "prometheus.yml"
        shipped = file.read_text("utf-8")
        assert "127.0.0.1:8428" in REMOTE_WRITE
        # one of a pair: its name is not written
        written = shipped.replace("# external_labels: {replica: a}", "external_labels: {replica: a}")
        assert written != shipped
        file.write_text(written + REMOTE_WRITE.replace("127.0.0.1:8428", long), "utf-8")
        try:
            for name in ("exporter", "prometheus"):
                chain.run(name)
                chain.wait_ready(name)
            short = chain.url("prometheus").removeprefix("http://")
            vehicles = 'coldchain_vehicles{status="in_use"}'
            watchdog = 'ALERTS{alertname="ColdChainWatchdog",alertstate="firing"}'
            recorded = '{__name__=~".+:coldchain_.+"}'
            for expression in (vehicles, watchdog, recorded):
                until(lambda wanted=expression: query(long, wanted), f"{expression} is written", 90, 0.3)  # type: ignore[misc] # mypy sees no T in a lambda with a default

            wanted = re.compile(r"coldchain_.+|[a-z_]+:coldchain_.+|ALERTS|up")

            def same() -> bool:
                return {name for name in names(short) if wanted.fullmatch(name)} == names(long)

            until(same, "VictoriaMetrics has all that is to be kept, and nothing else", 60, 0.3)
            assert query(long, vehicles)[0]["metric"].keys() == {"__name__", "instance", "job", "status"}

            # Prometheus loses its disk: what it had written is still there.
            chain.processes["prometheus"].end(signal.SIGKILL)
            shutil.rmtree(tmp_path / "prometheus")
            before = query(long, "sum_over_time(up{job='coldchain-exporter'}[1h])")[0]["value"][1]
            chain.run("prometheus")
            chain.wait_ready("prometheus")

            def grows() -> bool:
                found = query(long, "sum_over_time(up{job='coldchain-exporter'}[1h])")
                return float(found[0]["value"][1]) > float(before) + 2

            until(grows, "the new one goes on writing where the old one ended", 60)
        finally:
            for process in reversed(chain.processes.values()):
                process.end(signal.SIGTERM if process.name == "exporter" else signal.SIGKILL)


@dataclass
class Pair:
    """Two receivers by TLS on one PostgreSQL behind one Alertmanager, and the sandbox that they send to."""

    sandbox: Sandbox
    receivers: list[Process]
    alertmanager: Alertmanager

    def told(self, words: str) -> list[int]:
        """How many mails and how many Slack messages hold these words."""
        mails = [mail for mail in self.sandbox.messages("smtp") if words in f"{mail['subject']} {mail['text']}"]
        posts = [post for post in self.sandbox.messages("slack") if words in repr(post["payload"])]
        return [len(mails), len(posts)]

    def settled(self, words: str) -> bool:
        """Whether every webhook on the way has been answered and every message that came of it has been sent."""
        return self.told(words) != [0, 0] and all(
            not re.search(r'outbox_deliveries\{.*state="(?:pending|retrying)"\} [1-9]', one.metrics())
            for one in self.receivers
            if one.popen is not None and one.popen.poll() is None
        )

    def duplicates(self) -> float:
        """Webhooks that somebody else had stored already."""
        return sum(
            float(value)
            for one in self.receivers
            for value in re.findall(r'webhooks_total\{result="duplicate"\} (\S+)', one.metrics())
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    postgresql.execute("CREATE DATABASE pair", database="postgres")
    url = f"postgresql://owner@/pair?host={postgresql.folder}&port={postgresql.port}"
    token = folder / "token"
    token.write_text("a-token-of-the-pair\n")
    with Sandbox(Options(slack_rate=0)) as sandbox:
        receivers = []
        ours = Authority(folder, "ours")
        trusting = ssl.create_default_context(cafile=str(ours.certificate))
        for name in "ab":
            (folder / name).mkdir()
            web = web_file(folder / name, ours)
            given = {"RECEIVER_DATABASE_URL": url, "RECEIVER_TOKEN_FILE": str(token)}
            receivers.append(Process(sandbox, folder / name, f"--web.config.file={web}", **given))
            receivers[-1].client = httpx.Client(
                base_url=f"https://{receivers[-1].address}",
                headers={"Authorization": f"Bearer {token.read_text().strip()}"},
                verify=trusting,
                timeout=20,
            )
        quicken(folder, divide=60)
        document = yaml.safe_load((folder / "alertmanager.yml").read_text("utf-8"))
        text = REPLICAS
        for shipped, own in (("coldchain-receiver.token", token), ("coldchain-receiver-ca.crt", ours.certificate)):
            assert f"/etc/alertmanager/{shipped}" in text
            text = text.replace(f"/etc/alertmanager/{shipped}", str(own))
        for name, receiver in zip("ab", receivers, strict=True):
            assert f"https://receiver-{name}.example:19111/" in text
            text = text.replace(f"receiver-{name}.example:19111", receiver.address)
        (replaced,) = yaml.safe_load(text)["receivers"]
        others = [one for one in document["receivers"] if one["name"] != replaced["name"]]
        assert len(others) == len(document["receivers"]) - 1
        document["receivers"] = [*others, replaced]
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(document))
        try:
            for receiver in receivers:
                receiver.start()
            with alertmanager(program("prometheus-alertmanager", "alertmanager"), folder) as running:
                yield Pair(sandbox, receivers, running)
        finally:
            for receiver in receivers:
                receiver.end()
                receiver.client.close()


def test_a_pair_of_receivers_tells_once(pair: Pair) -> None:
    before = pair.duplicates()
    pair.alertmanager.post({"alertname": "ColdChainOrdersWaiting", "severity": "warning", "instance": "both-there"})
    until(lambda: pair.duplicates() == before + 1, "the second is told as well", 60)
    until(lambda: pair.settled("both-there"), "all is settled", 60)
    assert pair.told("both-there") == [1, 1]


@pytest.mark.parametrize("away", [0, 1])
def test_either_receiver_may_be_away(pair: Pair, away: int) -> None:
    words = f"without-{'ab'[away]}"
    assert pair.receivers[away].end() == 0
    try:
        pair.alertmanager.post({"alertname": "ColdChainOrdersWaiting", "severity": "warning", "instance": words})
        until(lambda: pair.settled(words), "the other one tells", 60)
    finally:
        pair.receivers[away].start()
    # Alertmanager goes on trying to tell the one that was away: for it, it is a duplicate.
    until(lambda: 'result="duplicate"} 1' in pair.receivers[away].metrics(), "it is told late", 90)
    assert pair.told(words) == [1, 1]
