"""compose.yaml is closed on all sides as it is written, and runs the whole chain when a container engine runs it."""

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

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from deploy.demo.sandbox.aligo import AligoAccount
from deploy.prometheus.quicken import quicken
from exporter.settings import ExporterSettings
from receiver.settings import ReceiverSettings
from serving.settings import environment_names
from tests.databases import SQLite
from tests.deployments.engine import GRAFANA, NGINX, Engine, checkout, compose_plugin, stand_in
from tests.deployments.gateway import DEPLOY, GUIDE_CURLS
from tests.programs import program
from tests.waiting import until

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS: dict[str, type[BaseModel]] = {"exporter": ExporterSettings, "receiver": ReceiverSettings}


def secret_names(model: type[BaseModel]) -> set[str]:
    """The environment variables that hold a secret."""
    found = set()
    for name, path in environment_names(model).items():
        inner: Any = model
        for part in path[:-1]:
            inner = type(inner.model_fields[part].default)
        if SecretStr in (
            inner.model_fields[path[-1]].annotation,
            *getattr(inner.model_fields[path[-1]].annotation, "__args__", ()),
        ):
            found.add(name)
    return found


@pytest.mark.parametrize("name", SERVICES)
class TestEachService:
    """As it is written, without an engine."""

    def test_may_do_nothing_that_it_need_not(self, name: str) -> None:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "pid", "ipc", "devices", "ports"} & service.keys()

    def test_has_limits(self, name: str) -> None:
        limits = SERVICES[name]["deploy"]["resources"]["limits"]
        assert limits.keys() == {"cpus", "memory", "pids"}
        assert SERVICES[name]["logging"]["options"] == {"max-size": "10m", "max-file": "3"}

    def test_has_a_health_check_and_starts_again(self, name: str) -> None:
        check = SERVICES[name]["healthcheck"]
        assert check["test"][0] == "CMD"
        assert "http://127.0.0.1:" in check["test"][-1]
        assert SERVICES[name]["restart"] == "unless-stopped"

    def test_has_a_pinned_image(self, name: str) -> None:
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", SERVICES[name]["image"])
        assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+[\w.-]*", image)

    def test_is_no_root(self, name: str) -> None:
        if name in OURS:
            assert "\nUSER 65532:65532\n" in (DEPLOY / "Dockerfile").read_text("utf-8")
        else:
            assert int(SERVICES[name]["user"].partition(":")[0]) > 0

    def test_mounts_what_is_not_its_own_read_only(self, name: str) -> None:
        for volume in SERVICES[name]["volumes"]:
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).partition(":")[0]
            assert source in COMPOSE["volumes"] or re.search(r":ro(,|$)", volume), volume


@pytest.mark.parametrize("name", OURS)
def test_secrets_are_files_and_other_variables_are_settings_that_exist(name: str) -> None:
    known = environment_names(OURS[name]).keys()
    secrets = secret_names(OURS[name])
    assert secrets
    given = set(SERVICES[name]["environment"])
    assert not given & secrets
    assert {variable.removesuffix("_FILE") for variable in given} <= known


def test_the_example_of_env_names_what_compose_reads_and_all_of_it() -> None:
    read = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text("utf-8")))
    named = set(re.findall(r"^#([A-Z_]+)=", (DEPLOY / ".env.example").read_text("utf-8"), re.MULTILINE))
    rare = {"COLDCHAIN_IMAGE", "RECEIVER_LOCALE", "RECEIVER_TOKEN_FILE", "SMTP_TLS", "ALIGO_BASE_URL", "ALIGO_TESTMODE"}
    assert named == read - rare


def test_prometheus_keeps_ninety_days() -> None:
    assert "--storage.tsdb.retention.time=90d" in SERVICES["prometheus"]["command"]


def test_the_image_is_built_from_locked_packages_alone() -> None:
    script = (DEPLOY / "venv.sh").read_text("utf-8")
    installs = [line for line in script.splitlines() if "pip install" in line]
    assert len(installs) == 3
    assert [("--require-hashes" in line) or ("--no-deps" in line) for line in installs] == [True, True, True]


# From here on with an engine.


@dataclass
class Stack:
    """The chain as compose.yaml runs it, and the sandbox that it sends to."""

    engine: Engine
    project: Path
    settings: dict[str, str]
    database: SQLite

    def compose(self, *arguments: str) -> str:
        return self.engine.compose(self.project, self.settings, *arguments)

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


@pytest.fixture(scope="module")
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


@pytest.mark.e2e
@pytest.mark.timeout(600)  # the first of them builds everything
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
