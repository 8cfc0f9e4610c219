"""The shipped Prometheus configuration in real servers that send to a real Alertmanager."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from deploy.prometheus.quicken import quicken
from tests.deploy.alertmanagers import alertmanager, free_address, webhook
from tests.deploy.conftest import Tool
from tests.waiting import until


@contextlib.contextmanager
def prometheus(program: str, folder: Path) -> Iterator[str]:
    """Runs the program on the `prometheus.yml` of the folder; its address."""
    address = free_address()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
                f"--web.listen-address={address}",
                # what fires before Alertmanager is found (5 s) is sent again after this: a minute by default
                "--rules.alert.resend-delay=1s",
            ],
            stdout=log,
            stderr=log,
        )
        try:

            def ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(f"http://{address}/-/ready").status_code == 200
                return False

            until(ready, "Prometheus is ready", 60)
            yield address
        finally:
            process.terminate()
            process.wait()


def fired(address: str) -> set[str]:
    """The names of the alerts that fire in Prometheus."""
    answer = httpx.get(f"http://{address}/api/v1/alerts").json()
    return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"] if alert["state"] == "firing"}


def test_a_pair_of_prometheus_servers_raises_one_alert(tmp_path: Path, tool: Tool) -> None:
    nobody = free_address()
    expected = {"ColdChainWatchdog", "ColdChainExporterDown", "ColdChainReceiverDown"}
    with webhook() as hook, contextlib.ExitStack() as stack:
        (tmp_path / "alertmanager").mkdir()
        quicken(tmp_path / "alertmanager", divide=60, receiver=hook.address)
        running = stack.enter_context(alertmanager(tool("alertmanager"), tmp_path / "alertmanager"))
        for replica in "ab":
            folder = tmp_path / replica
            quicken(folder, divide=60, exporter=nobody, receiver=nobody, alertmanager=running.address)
            file = folder / "prometheus.yml"
            text = file.read_text("utf-8")
            labelled = text.replace("# external_labels: {replica: a}", f"external_labels: {{replica: {replica}}}")
            assert labelled != text
            file.write_text(labelled, "utf-8")
            address = stack.enter_context(prometheus(tool("prometheus"), folder))
            until(lambda at=address: fired(at) == expected, f"{expected} fire in replica {replica}", 60)  # type: ignore[misc]
        until(lambda: len(running.alerts()) >= 3, "Alertmanager has them")
        known = running.alerts()
    assert sorted(alert["labels"]["alertname"] for alert in known) == sorted(expected)
    assert not [alert for alert in known if "replica" in alert["labels"]]
