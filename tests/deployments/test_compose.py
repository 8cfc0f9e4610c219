"""compose.yaml as it is written: closed on all sides, limited, pinned, without a secret. Running it: test_engine.py."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from exporter.settings import ExporterSettings
from receiver.settings import ReceiverSettings
from serving.settings import environment_names
from tests.deployments.gateway import DEPLOY

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


@pytest.mark.parametrize(("name", "port"), [("prometheus", 9090), ("alertmanager", 9093)])
def test_links_in_messages_lead_where_people_can_go_and_not_to_the_name_of_this_host(name: str, port: int) -> None:
    command = SERVICES[name]["command"]
    assert f"--web.external-url=${{{name.upper()}_EXTERNAL_URL:-http://localhost:{port}}}" in command
    assert "--web.route-prefix=/" in command  # a path in that address is the proxy's, and not asked for here


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
