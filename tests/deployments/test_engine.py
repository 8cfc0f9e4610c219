"""Compose's stack and systemd's services, run for real in a container engine of the tests' own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from deploy.demo.sandbox.aligo import AligoAccount
from deploy.prometheus.quicken import quicken
from receiver.tables import REVISION
from tests.databases import SQLite
from tests.deployments.engine import GRAFANA, NGINX, Engine, checkout, compose_plugin, stand_in
from tests.deployments.gateway import DEPLOY, GUIDE_CURLS
from tests.deployments.test_compose import OURS, SERVICES
from tests.e2e.chain import EXPORTER_SETTINGS
from tests.programs import program
from tests.serving.authority import Authority
from tests.waiting import until

# One file for all of it, so that one engine and one base image do. The first test builds everything.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@dataclass
class Stack:
    """The chain as compose.yaml runs it, and the sandbox that it sends to."""

    engine: Engine
    project: Path
    settings: dict[str, str]
    database: SQLite

    def compose(self, *arguments: str) -> str:
        return self.engine.compose(self.project, self.settings, *arguments)

    def shell(self, script: str) -> None:
        """Runs what a page says to run in deploy/."""
        done = subprocess.run(
            ["bash", "-ec", f'docker() {{ shift; {compose_plugin()} "$@"; }}\n{script}'],
            cwd=self.project,
            env=self.engine.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"

    def curl(self, *arguments: str) -> tuple[int, str]:
        """Status and body of what curl fetches in the engine's network."""
        done = subprocess.run(
            self.engine.inside(
                program("curl"), "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def json(self, url: str) -> Any:
        """What is answered with 200."""
        status, body = self.curl("--globoff", url)
        assert status == 200, body
        return json.loads(body)

    def query(self, expression: str) -> list[float]:
        """The values that Prometheus finds."""
        status, body = self.curl(
            "--get", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode", f"query={expression}"
        )
        assert status == 200, body
        return [float(found["value"][1]) for found in json.loads(body)["data"]["result"]]

    def messages(self, channel: str, words: str) -> list[Any]:
        """What arrived in the sandbox with these words."""
        found = self.json(f"http://127.0.0.1:19120/sandbox/messages?channel={channel}")["messages"]
        return [message for message in found if words in json.dumps(message, ensure_ascii=False)]

    def story(self) -> str:
        """What each of the chain says at this moment, for a test that waited in vain."""
        pages = (
            "9090/api/v1/alerts", "9093/api/v2/alerts", "19110/api/v1/monitoring/alerts", "19111/api/v1/notifications",
            "19120/sandbox/messages",
        )  # fmt: skip
        return "\n\n".join([*(self.curl(f"http://127.0.0.1:{page}")[1] for page in pages), self.compose("logs")])

    def inspect(self, service: str) -> Any:
        """What the engine says of the service's container, running or not."""
        return json.loads(self.engine.docker("inspect", self.compose("ps", "--all", "--quiet", service).strip()))[0]


def scripts(page: str, heading: str) -> list[str]:
    """The blocks of shell below the heading of a page."""
    section = (DEPLOY / page).read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found, f"{page} has nothing to run below {heading}"
    return found


def without_comments(script: str) -> list[str]:
    """The lines, however they are spaced."""
    return [" ".join(line.partition("#")[0].split()) for line in script.splitlines()]


def newest(name: str, *alternatives: str) -> Path:
    """Prometheus 3 and its Alertmanager where NEWER_PROMETHEUS has them, else the installed ones."""
    newer = Path(os.environ.get("NEWER_PROMETHEUS", "/nowhere")) / "bin" / name
    return newer if newer.exists() else Path(program(*alternatives, name))


@pytest.fixture(scope="module")
def images(engine: Engine, python_image: str) -> dict[str, str]:
    """The variables of .env that name the stand-ins."""
    compose_plugin()
    return {
        "PYTHON_IMAGE": python_image,
        "PROMETHEUS_IMAGE": stand_in(engine, "prometheus", {"prometheus": newest("prometheus")}),
        "ALERTMANAGER_IMAGE": stand_in(
            engine,
            "alertmanager",
            {
                "alertmanager": newest("alertmanager", "prometheus-alertmanager"),
                "templates": Path("/usr/share/prometheus/alertmanager"),  # where Debian's looks for its own
            },
        ),
        "NGINX_IMAGE": stand_in(engine, "nginx", {"nginx.conf": NGINX}),
        "GRAFANA_IMAGE": stand_in(engine, "grafana", {"grafana.py": GRAFANA}),
    }


@pytest.fixture(scope="class")  # gone before the next one wants its ports
def stack(engine: Engine, images: dict[str, str]) -> Iterator[Stack]:
    """Everything up and healthy, by the README's steps, with timings shortened."""
    project = checkout(engine.folder / "checkout") / "deploy"
    quick = engine.folder / "quick"
    quicken(quick, divide=30, scrape_interval="1s", smarthost="127.0.0.1:19125")
    quick.chmod(0o755)
    business = engine.folder / "business"
    business.mkdir()
    database = SQLite(business / "dispatch.db")
    account = AligoAccount()
    (project / "exporter/exporter.yaml").write_text(EXPORTER_SETTINGS)
    (project / "secrets").chmod(0o700)
    (project / "secrets/exporter/database_url").write_text(f"sqlite:////host{database.path}\n")
    (project / "secrets/receiver/slack_webhook_url").write_text("http://127.0.0.1:19120/services/T0/B0/tried\n")
    (project / "secrets/receiver/aligo_api_key").write_text(account.key)
    (project / "secrets/grafana/admin_password").write_text("a-password-nobody-sees\n")
    settings = {
        "DATABASE_URL_FILE": "/run/secrets/database_url",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": "19125",
        "SMTP_TLS": "none",
        "SMTP_FROM": "noreply@example.com",
        "ALERT_EMAIL_TO": "duty@example.com",
        "SLACK_WEBHOOK_URL_FILE": "/run/secrets/slack_webhook_url",
        "ALIGO_API_KEY_FILE": "/run/secrets/aligo_api_key",
        "ALIGO_USER_ID": account.user_id,
        "ALIGO_SENDER": account.senders[0],
        "ALIGO_BASE_URL": "http://127.0.0.1:19120/aligo",
        "ALERT_SMS_TO": "010-8765-4321",
        "PROMETHEUS_CONFIG": str(quick),
        "ALERTMANAGER_CONFIG": str(quick),
        **images,
    }
    (project / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    with (engine.folder / "sandbox.log").open("wb") as log:
        sandbox = subprocess.Popen(
            engine.inside(sys.executable, "-m", "deploy.demo.sandbox", "--slack-rate=0"), stdout=log, stderr=log
        )
    stack = Stack(engine, project, {}, database)
    try:
        try:
            stack.compose("up", "--detach", "--build", "--quiet-pull", "--wait", "--wait-timeout", "120")
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{stack.compose('ps', '--all')}\n{stack.compose('logs', '--tail=20')}"
            ) from None
        yield stack
    finally:
        with contextlib.suppress(AssertionError):
            stack.compose("down", "--volumes", "--timeout", "15")
        sandbox.terminate()
        sandbox.wait(20)


class TestTheRunningStack:
    """With the real engine, the real Prometheus, Alertmanager and nginx, and a stand-in for Grafana."""

    def test_every_service_is_healthy(self, stack: Stack) -> None:
        states = {name: stack.inspect(name)["State"]["Health"]["Status"] for name in SERVICES}
        assert states == dict.fromkeys(SERVICES, "healthy")

    @pytest.mark.parametrize("service", SERVICES)
    def test_a_service_runs_as_closed_as_it_is_written(self, stack: Stack, service: str) -> None:
        found = stack.inspect(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert min(host["Memory"], host["NanoCpus"], host["PidsLimit"]) > 0
        status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert "0" not in facts["Uid"].split("\t")
        assert (facts["CapEff"], facts["NoNewPrivs"]) == ("0" * 16, "1")

    def test_no_secret_is_seen_from_outside(self, stack: Stack) -> None:
        secrets = ["services/T0/B0/tried", "a-password-nobody-sees", AligoAccount().key]
        said = json.dumps([stack.inspect(name) for name in SERVICES]) + stack.compose("logs")
        said += stack.engine.docker("history", "--no-trunc", "coldchain-monitor:0.1.0")
        assert [secret for secret in secrets if secret in said] == []

    @pytest.mark.parametrize("line", GUIDE_CURLS)
    def test_every_curl_of_the_guide_is_answered(self, stack: Stack, line: str) -> None:
        status, body = stack.curl(*shlex.split(line)[1:])
        assert status == 200, body
        assert isinstance(json.loads(body), dict)

    def test_the_exporter_tells_of_the_host_and_not_of_its_container(self, stack: Stack) -> None:
        status, text = stack.curl("http://127.0.0.1:19110/metrics")
        assert status == 200
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        memory = Path("/proc/meminfo").read_text().split()
        assert float(lines["coldchain_host_memory_total_bytes"]) == int(memory[1]) * 1024
        root = os.statvfs("/")
        assert float(lines['coldchain_host_filesystem_size_bytes{mountpoint="/"}']) == root.f_blocks * root.f_frsize
        assert float(lines["coldchain_host_cpus"]) == os.cpu_count()
        devices = {name.split('"')[1] for name in lines if name.startswith("coldchain_host_network_receive")}
        assert {"lo", "docker0"} <= devices  # of the host's network, which is the engine's here
        assert not [name for name in lines if 'mountpoint="/host' in name or "/run/secrets" in name]

    def test_prometheus_scrapes_both_and_keeps_ninety_days(self, stack: Stack) -> None:
        until(lambda: stack.query("sum(up)") == [2.0], "both are scraped", 30, 0.5)
        flags = stack.json("http://127.0.0.1:9090/api/v1/status/flags")["data"]
        assert flags["storage.tsdb.retention.time"] == "90d"

    def test_grafana_finds_datasources_dashboards_and_its_password(self, stack: Stack) -> None:
        found = stack.json("http://127.0.0.1:3000/api/health")
        assert found["password"] is True
        assert found["provisioning"] == ["dashboards/coldchain.yaml", "datasources/coldchain.yaml"]
        assert found["dashboards"] == sorted(
            path.name for path in (DEPLOY.parent / "grafana/dashboards").glob("*.json")
        )

    def test_an_alert_reaches_mail_and_slack(self, stack: Stack) -> None:
        stack.database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 11) "
            "INSERT INTO orders (order_number, order_date, temperature_zone, status, priority, created_at, updated_at) "
            "SELECT 'C-' || i, date('now'), 'FROZEN', 'PENDING', 1, datetime('now', '-150 minutes'), datetime('now') "
            "FROM n"
        )
        words = "2시간 이상 배차 대기 중인 주문이 11건 있습니다"
        try:
            until(lambda: stack.messages("smtp", words) and stack.messages("slack", words), "it arrives", 90, 0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{stack.story()}") from None
        assert len(stack.messages("smtp", words)) == 1

    def test_the_history_survives_the_receivers_end_which_is_clean(self, stack: Stack) -> None:
        before = stack.json("http://127.0.0.1:19111/api/v1/notifications")["notifications"]
        assert before
        stack.compose("stop", "receiver")
        assert stack.inspect("receiver")["State"]["ExitCode"] == 0
        stack.compose("up", "--detach", "--wait", "--wait-timeout", "60", "receiver")
        after = stack.json("http://127.0.0.1:19111/api/v1/notifications")["notifications"]
        assert {entry["id"] for entry in before} <= {entry["id"] for entry in after}

    def test_what_was_saved_by_the_page_is_there_again_after_restoring_it(self, stack: Stack) -> None:
        save, restore = scripts("compose.md", "Save and restore")
        assert scripts("compose.ko.md", "백업과 복원") == [save, restore]
        url = "http://127.0.0.1:19111/api/v1/notifications?limit=500"
        saved = {entry["id"] for entry in stack.json(url)["notifications"]}
        stack.shell(save)
        later = stack.json("http://127.0.0.1:8000/api/v1/monitoring/test/slack")["notification"]
        stack.shell(restore)
        found = {entry["id"]: entry["source"] for entry in stack.json(url)["notifications"]}
        assert saved <= found.keys()
        assert found.get(later) != "test"

    def test_the_tls_door_of_the_page_opens_for_its_users_alone(self, stack: Stack) -> None:
        (opened,) = scripts("compose.md", "The door for callers on other machines")
        (korean,) = scripts("compose.ko.md", "다른 서버와 PC를 위한 접속 통로")
        assert without_comments(korean) == without_comments(opened)
        certificate, key = Authority(stack.engine.folder, "ours").sign("gateway")
        certificate.rename(stack.project / "fullchain.pem")
        key.rename(stack.project / "privkey.pem")
        hashed = bcrypt.hashpw(b"duty", bcrypt.gensalt(4)).decode()  # the program asks at the terminal
        stack.shell(f"htpasswd() {{ echo 'duty:{hashed}' > \"$3\"; }}\n{opened}")
        asked = ("--cacert", f"{stack.engine.folder}/ours-ca.crt", "https://127.0.0.1:8443/api/v1/monitoring/health")
        assert stack.curl(*asked)[0] == 401
        assert stack.curl("--user", "duty:wrong", *asked)[0] == 401
        status, body = stack.curl("--user", "duty:duty", *asked)
        assert (status, "checks" in json.loads(body)) == (200, True)
        assert stack.curl("http://127.0.0.1:8000/api/v1/monitoring/health")[0] == 200

    def test_upgrading_by_the_page_takes_every_file_that_is_newer(self, stack: Stack) -> None:
        commands = {
            found[1]
            for page in ("compose.md", "compose.ko.md")
            if (found := re.search(r"\| `git pull[^|]*`(docker compose [^`]+)`", (DEPLOY / page).read_text("utf-8")))
        }
        (command,) = commands
        gateway, rules = stack.project / "gateway/coldchain.conf", stack.engine.folder / "quick/rules"
        for file, old, new in (
            (gateway, "listen 127.0.0.1:8000;", "listen 127.0.0.1:8000; add_header X-Newer yes always;"),
            (rules / "host.yml", "alert: ColdChainCpuHigh", "alert: ColdChainNewer"),
        ):
            text = file.read_text("utf-8")
            assert old in text
            file.unlink()  # as git does it
            file.write_text(text.replace(old, new))
        stack.shell(command)
        assert "x-newer: yes" in stack.curl("--head", "http://127.0.0.1:8000/api/v1/monitoring/health")[1].lower()
        assert "ColdChainNewer" in stack.curl("http://127.0.0.1:9090/api/v1/rules")[1]
        assert stack.inspect("receiver")["State"]["Health"]["Status"] == "healthy"

    def test_the_image_holds_the_programs_and_no_installer(self, stack: Stack) -> None:
        for name in OURS:
            said = stack.engine.docker(
                "run", "--rm", "--network=none", "coldchain-monitor:0.1.0", f"coldchain-{name}", "--version"
            )
            assert said.startswith(f"coldchain-{name} ")
        found = stack.engine.docker(
            "run", "--rm", "--network=none", "coldchain-monitor:0.1.0", "sh", "-c", "ls /opt/coldchain-monitor/bin"
        )
        assert not [name for name in found.split() if name.startswith("pip")]


# install.sh on a system that systemd has booted.

FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"
# figures that two processes find alike at whatever moment they look
STEADY = ("_size_bytes", "_total_bytes", "_cpus")


@dataclass
class Machine:
    """A container whose first process is systemd."""

    engine: Engine
    name: str

    def run(self, *command: str) -> str:
        """What the command prints inside."""
        return self.engine.docker("exec", self.name, *command)

    def shell(self, script: str) -> str:
        """What the script prints inside."""
        return self.run("sh", "-ec", script)

    def show(self, unit: str, key: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "--value", "--property", key).strip()

    def ready(self, port: int) -> bool:
        with contextlib.suppress(AssertionError):
            return "Ready" in self.run("python3", "-c", FETCH, f"http://127.0.0.1:{port}/-/ready")
        return False

    def samples(self, port: int) -> dict[str, float]:
        """What an exporter shows of the host and of its limits."""
        text = self.run("python3", "-c", FETCH, f"http://127.0.0.1:{port}/metrics")
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("coldchain_")]
        return {name: float(value) for name, _, value in lines}


@pytest.fixture(scope="module")
def machine(engine: Engine, python_image: str) -> Iterator[Machine]:
    """Booted, and installed upon by the README's one command."""
    source = checkout(engine.folder / "source")
    engine.docker(
        *("run", "--detach", "--name", "machine", "--network", "host", "--cgroupns", "host"),
        # what systemd needs of a container; SYS_RESOURCE, which it can do without, is not everywhere to be given
        *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined"),
        *("--security-opt", "apparmor=unconfined", "--tmpfs", "/run", "--tmpfs", "/tmp"),
        *("--volume", "/sys/fs/cgroup:/sys/fs/cgroup", "--env", "container=docker"),
        *("--volume", f"{source}:/source", python_image, "/lib/systemd/systemd"),
    )
    machine = Machine(engine, "machine")
    try:

        def booted() -> bool:
            with contextlib.suppress(AssertionError):
                return "running" in machine.shell("systemctl is-system-running || true")
            return False

        try:
            until(booted, "systemd has booted", 60, 0.3)
        except AssertionError as error:
            pytest.skip(
                f"systemd does not boot in a container here: {error}: {engine.docker('logs', 'machine')[-500:]}"
            )
        machine.run("/source/deploy/systemd/install.sh")
        until(lambda: machine.ready(19110) and machine.ready(19111), "both are ready", 60, 0.3)
        yield machine
    finally:
        with contextlib.suppress(AssertionError):
            engine.docker("rm", "--force", "--volumes", "machine")


def test_both_run_as_users_of_their_own(machine: Machine) -> None:
    for name in ("coldchain-exporter", "coldchain-receiver"):
        assert machine.show(name, "ActiveState") == "active"
        assert machine.shell(f"stat -c %U /proc/{machine.show(name, 'MainPID')}").strip() == name
    assert machine.shell("stat -c '%U %a' /var/lib/coldchain-receiver").split() == ["coldchain-receiver", "700"]


def test_the_sandbox_falsifies_no_figure_of_the_host(machine: Machine) -> None:
    machine.run(
        *("systemd-run", "--unit=plain", "/opt/coldchain-monitor/current/bin/coldchain-exporter"),
        "--web.listen-address=127.0.0.1:29110",
    )
    until(lambda: machine.ready(29110), "an exporter without a sandbox is ready", 60, 0.3)
    until(lambda: "coldchain_host_cpu_usage_ratio" in machine.samples(29110), "it has looked twice", 30, 0.5)
    boxed, plain = ({n: v for n, v in machine.samples(port).items() if "_host_" in n} for port in (19110, 29110))
    machine.run("systemctl", "stop", "plain")
    assert boxed.keys() == plain.keys()
    steady = [name for name in plain if name.partition("{")[0].endswith(STEADY) and "network" not in name]
    assert {name.partition("{")[0] for name in steady} == {
        "coldchain_host_cpus",
        "coldchain_host_memory_total_bytes",
        "coldchain_host_filesystem_size_bytes",
    }
    assert {name: boxed[name] for name in steady} == {name: plain[name] for name in steady}


def test_a_reload_reads_the_settings_again_without_a_restart(machine: Machine) -> None:
    limit = 'coldchain_alert_threshold{alert="ColdChainOrdersWaiting",severity="warning"}'
    assert machine.samples(19110)[limit] == 10
    before = machine.show("coldchain-exporter", "MainPID")
    machine.shell("sed -i 's/ColdChainOrdersWaiting: {warning: 10}/ColdChainOrdersWaiting: {warning: 25}/' "
                  "/etc/coldchain-monitor/exporter.yaml")  # fmt: skip
    machine.run("systemctl", "reload", "coldchain-exporter", "coldchain-receiver")
    until(lambda: machine.samples(19110)[limit] == 25, "the new limit is in force", 20, 0.3)
    assert machine.show("coldchain-exporter", "MainPID") == before


def test_a_command_runs_as_its_service_does(machine: Machine) -> None:
    # neither the user nor the settings of whoever calls it
    said = machine.shell("coldchain receiver doctor 2>&1 || true")
    assert f"can be written; schema {REVISION}\n" in said
    assert machine.shell("find /var/lib/coldchain-receiver ! -user coldchain-receiver") == ""


def test_a_service_that_is_killed_comes_back(machine: Machine) -> None:
    before = machine.show("coldchain-receiver", "MainPID")
    machine.run("systemctl", "kill", "--signal=KILL", "coldchain-receiver")
    until(lambda: machine.show("coldchain-receiver", "MainPID") not in {before, "0"}, "it runs again", 30, 0.3)
    until(lambda: machine.ready(19111), "it is ready again", 30, 0.3)


def test_a_service_that_hangs_is_started_again(machine: Machine) -> None:
    machine.shell("mkdir -p /run/systemd/system/coldchain-receiver.service.d; printf '[Service]\\nWatchdogSec=2s\\n' > "
                  "/run/systemd/system/coldchain-receiver.service.d/soon.conf; systemctl daemon-reload; "
                  "systemctl restart coldchain-receiver")  # fmt: skip
    before = machine.show("coldchain-receiver", "MainPID")
    machine.run("systemctl", "kill", "--signal=STOP", "coldchain-receiver")
    until(lambda: machine.show("coldchain-receiver", "MainPID") not in {before, "0"}, "it runs again", 60, 0.3)
    assert "Watchdog timeout" in machine.shell("journalctl --no-pager --unit coldchain-receiver")
    machine.shell("rm -r /run/systemd/system/coldchain-receiver.service.d; systemctl daemon-reload; "
                  "systemctl restart coldchain-receiver")  # fmt: skip
    until(lambda: machine.ready(19111), "it is ready again", 30, 0.3)


def test_what_was_saved_by_the_page_is_there_again_after_restoring_it(machine: Machine) -> None:
    save, restore = scripts("systemd/README.md", "Save and restore")
    assert scripts("systemd/README.ko.md", "백업과 복원") == [save, restore]
    webhook = json.dumps(
        {
            "version": "4",
            "groupKey": "saved",
            "status": "firing",
            "receiver": "coldchain-receiver",
            "groupLabels": {},
            "commonLabels": {},
            "commonAnnotations": {},
            "externalURL": "",
            "truncatedAlerts": 0,
            "alerts": [
                {
                    "status": "firing",
                    "labels": {"alertname": "Saved", "severity": "info"},
                    "annotations": {},
                    "startsAt": "2026-01-01T00:00:00Z",
                    "endsAt": "0001-01-01T00:00:00Z",
                    "generatorURL": "",
                    "fingerprint": "5a7ed",
                }
            ],
        }
    )
    post = (
        "import sys, urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:19111/webhook', sys.argv[1].encode(), "
        "{'Content-Type': 'application/json'}), timeout=10)"
    )
    machine.run("python3", "-c", post, webhook)
    machine.shell(save)
    machine.run("python3", "-c", post, webhook.replace("saved", "later").replace("5a7ed", "1a7e5"))
    machine.shell(restore)
    until(lambda: machine.ready(19111), "it is ready again", 30, 0.3)
    history = machine.run("python3", "-c", FETCH, "http://127.0.0.1:19111/api/v1/notifications")
    assert [entry["group_key"] for entry in json.loads(history)["notifications"]] == ["saved"]
    assert machine.shell("stat -c '%U %a' /var/lib/coldchain-receiver/receiver.db").split() == [
        "coldchain-receiver",
        "600",
    ]


def test_stopping_is_clean(machine: Machine) -> None:
    machine.run("systemctl", "restart", "coldchain-exporter", "coldchain-receiver")
    until(lambda: machine.ready(19110) and machine.ready(19111), "both are ready", 60, 0.3)
    machine.run("systemctl", "stop", "coldchain-exporter", "coldchain-receiver")
    for name in ("coldchain-exporter", "coldchain-receiver"):
        assert [machine.show(name, key) for key in ("Result", "ExecMainStatus")] == ["success", "0"]
    machine.run("systemctl", "start", "coldchain-exporter", "coldchain-receiver")


def test_an_upgrade_that_refuses_the_settings_leaves_the_running_version_in_force(machine: Machine) -> None:
    before = machine.shell("readlink /opt/coldchain-monitor/current").strip()
    machine.shell("cp -r /source /newer; echo '# newer' >> /newer/receiver/__init__.py; "
                  "echo 'unheard_of: 1' >> /etc/coldchain-monitor/receiver.yaml")  # fmt: skip
    with pytest.raises(AssertionError, match=r"/etc/coldchain-monitor/receiver\.yaml does not pass"):
        machine.run("/newer/deploy/systemd/install.sh")
    assert machine.shell("readlink /opt/coldchain-monitor/current").strip() == before
    machine.shell("sed -i /unheard_of/d /etc/coldchain-monitor/receiver.yaml")
    pid = machine.show("coldchain-receiver", "MainPID")
    machine.run("/newer/deploy/systemd/install.sh")
    assert machine.show("coldchain-receiver", "MainPID") != pid  # the newer one runs, not the one before
    assert before in machine.shell("rm -r /newer; ls /opt/coldchain-monitor").split()
    until(lambda: machine.ready(19110) and machine.ready(19111), "both are ready", 60, 0.3)


def test_an_upgrade_keeps_what_was_edited_and_the_version_before(machine: Machine) -> None:
    machine.shell(
        "echo '# edited' >> /etc/coldchain-monitor/receiver.env; echo '# newer' >> /source/exporter/__init__.py"
    )
    before = machine.shell("readlink /opt/coldchain-monitor/current").strip()
    pid = machine.show("coldchain-exporter", "MainPID")
    machine.run("/source/deploy/systemd/install.sh")
    after = machine.shell("readlink /opt/coldchain-monitor/current").strip()
    assert after != before
    assert set(machine.shell("ls /opt/coldchain-monitor").split()) == {"current", before, after}
    assert machine.shell("tail -n 1 /etc/coldchain-monitor/receiver.env").strip() == "# edited"
    assert machine.show("coldchain-exporter", "MainPID") != pid
    until(lambda: machine.ready(19110) and machine.ready(19111), "both are ready", 60, 0.3)


def test_uninstalling_with_purge_leaves_nothing(machine: Machine) -> None:
    machine.run("/source/deploy/systemd/uninstall.sh", "--purge")
    left = machine.run(
        *("find", "/", "-xdev", "(", "-path", "/source", "-o", "-path", "/proc", ")", "-prune"),
        *("-o", "-name", "*coldchain*", "-print"),
    )
    assert left.split() == []
    assert "coldchain" not in machine.shell("cat /etc/passwd /etc/group")
    assert machine.shell("systemctl list-units --all 'coldchain*' --plain --no-legend").strip() == ""
