"""What serving/README.md tells of limits and keys is what the code has, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from uvicorn import Config

from serving import guessing, protocol
from serving.web import TlsServer, WebConfig

FOLDER = Path(__file__).resolve().parents[2] / "serving"
SECONDS = {"README.md": " s", "README.ko.md": "초"}


@pytest.mark.parametrize(("name", "unit"), SECONDS.items())
def test_the_limits_are_those_in_force(name: str, unit: str) -> None:
    text = (FOLDER / name).read_text("utf-8")
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    keep_alive = Config(app="none").timeout_keep_alive
    assert [row[1].strip() for row in rows[:6]] == [
        str(protocol.CONNECTIONS),
        f"{protocol.HANDSHAKE_SECONDS:g}{unit}",
        f"{protocol.REQUEST_SECONDS:g}{unit}",
        f"{protocol.ANSWER_SECONDS:g}{unit}",
        f"{keep_alive}{unit}",
        f"{protocol.HEAD_BYTES // 1024} KiB",
    ]


@pytest.mark.parametrize("name", SECONDS)
def test_the_most_connections_are_told(name: str) -> None:
    assert f"{protocol.BURST:,}" in (FOLDER / name).read_text("utf-8")


@pytest.mark.parametrize(("name", "unit"), SECONDS.items())
def test_the_pauses_are_those_in_force(name: str, unit: str) -> None:
    text = " ".join((FOLDER / name).read_text("utf-8").split())
    pauses = (guessing.FIRST_SECONDS, 2 * guessing.FIRST_SECONDS, guessing.LONGEST_SECONDS)
    assert [f"{pause:g}{unit}" in text for pause in pauses] == [True] * 3
    assert (guessing.WAITING, guessing.FORGOTTEN_AFTER_SECONDS) == (8, 300)  # in words


@pytest.mark.parametrize("name", SECONDS)
def test_the_example_has_every_key_and_no_other(name: str) -> None:
    found = re.search(r"```yaml\n(.*?)```", (FOLDER / name).read_text("utf-8"), re.DOTALL)
    assert found is not None
    example = yaml.safe_load(found[1])
    assert example.keys() == WebConfig.model_fields.keys()
    assert example["tls_server_config"].keys() == TlsServer.model_fields.keys()
