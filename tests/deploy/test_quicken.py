"""The copy of the shipped files with other timings and addresses changes those and nothing else."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.prometheus.quicken import SHIPPED, divided, main, quicken, seconds
from tests.deploy.conftest import Tool
from tests.deploy.files import ALERTMANAGER, PROMETHEUS, RULE_FILES, document, rules

TIMINGS = {
    *("scrape_interval", "evaluation_interval", "interval", "for", "keep_firing_for"),
    *("group_wait", "group_interval", "repeat_interval"),
}


def without_timings(node: Any) -> Any:
    """The document with each timing blanked."""
    if isinstance(node, dict):
        return {key: None if key in TIMINGS else without_timings(value) for key, value in node.items()}
    return [without_timings(value) for value in node] if isinstance(node, list) else node


def timings(node: Any, at: str = "") -> dict[str, str]:
    """Each timing of the document by its path."""
    if isinstance(node, list):
        return {
            path: value for number, item in enumerate(node) for path, value in timings(item, f"{at}/{number}").items()
        }
    if not isinstance(node, dict):
        return {}
    own = {f"{at}/{key}": value for key, value in node.items() if key in TIMINGS}
    return own | {path: text for key, value in node.items() for path, text in timings(value, f"{at}/{key}").items()}


@pytest.mark.parametrize(
    ("shipped", "divide", "quick"),
    [
        ("2m", 30, "4s"),
        ("30s", 30, "1s"),
        ("15s", 60, "1s"),
        ("0s", 60, "0s"),
        ("1h", 7, "514286ms"),
        ("1h30m", 1, "1h30m"),
        ("10s", 0.5, "20s"),
        ("24h", 60, "1440s"),
    ],
)
def test_duration_is_divided_to_no_less_than_a_second(shipped: str, divide: float, quick: str) -> None:
    assert divided(shipped, divide) == quick


@pytest.mark.parametrize("wrong", ["", "5", "1.5m", "five minutes", "-1m"])
def test_what_is_no_duration_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no duration: write it as 15s"):
        seconds(wrong)


def test_a_copy_undivided_is_the_original(tmp_path: Path) -> None:
    quicken(tmp_path)
    for shipped in [PROMETHEUS, ALERTMANAGER]:
        assert (tmp_path / shipped.name).read_bytes() == shipped.read_bytes()
    for shipped in PROMETHEUS.parent.glob("rules/**/*.yml"):
        assert (tmp_path / shipped.relative_to(PROMETHEUS.parent)).read_bytes() == shipped.read_bytes()


@pytest.mark.parametrize("path", [PROMETHEUS, ALERTMANAGER, *RULE_FILES], ids=lambda path: path.stem)
def test_timings_are_divided_and_nothing_else_changes(tmp_path: Path, path: Path) -> None:
    quicken(tmp_path, divide=30)
    copy = document(next(tmp_path.rglob(path.name)))
    assert without_timings(copy) == without_timings(document(path))
    shipped = timings(document(path))
    assert shipped
    expected = {at: 0 if seconds(text) == 0 else max(1, seconds(text) / 30) for at, text in shipped.items()}
    assert {at: seconds(text) for at, text in timings(copy).items()} == pytest.approx(expected)


def test_addresses_intervals_and_token_are_set_where_they_are_used(tmp_path: Path) -> None:
    token = tmp_path / "token"
    quicken(
        tmp_path,
        divide=60,
        scrape_interval="2s",
        exporter="127.0.0.1:1001",
        receiver="127.0.0.1:1002",
        alertmanager="127.0.0.1:1003",
        smarthost="127.0.0.1:1004",
        email_to="duty@example.com",
        runbooks="https://wiki.example.com/runbooks/",
        dashboards="https://grafana.example.com/d",
        receiver_token_file=token,
    )
    prometheus = document(tmp_path / "prometheus.yml")
    assert prometheus["global"] == {"scrape_interval": "2s", "evaluation_interval": "2s"}
    assert prometheus["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["127.0.0.1:1003"]}]}]
    authorization = {"authorization": {"credentials_file": str(token)}}
    assert prometheus["scrape_configs"] == [
        {"job_name": "coldchain-exporter", "static_configs": [{"targets": ["127.0.0.1:1001"]}]},
        {"job_name": "coldchain-receiver", "static_configs": [{"targets": ["127.0.0.1:1002"]}], **authorization},
    ]
    alertmanager = document(tmp_path / "alertmanager.yml")
    assert alertmanager["global"]["smtp_smarthost"] == "127.0.0.1:1004"
    email, webhook = alertmanager["receivers"]
    assert email["email_configs"][0]["to"] == "duty@example.com"
    assert webhook["webhook_configs"] == [
        {"url": "http://127.0.0.1:1002/webhook", "send_resolved": True, "http_config": authorization},
    ]
    text = (tmp_path / "rules" / "host.yml").read_text("utf-8")
    assert "https://wiki.example.com/runbooks/ko/ColdChainCpuHigh.md" in text
    assert "https://grafana.example.com/d/coldchain-host?var-instance=" in text
    assert "localhost" not in text


def test_links_to_dashboards_can_be_left_out(tmp_path: Path) -> None:
    quicken(tmp_path, dashboards="")
    for path in RULE_FILES:
        copied = [rule for rule in rules([tmp_path / "rules" / path.name]) if "alert" in rule]
        assert [set(rule["annotations"]) for rule in copied] == [
            set(rule["annotations"]) - {"dashboard_url"} for rule in rules([path]) if "alert" in rule
        ]


def test_no_alert_is_held_for_longer_than_it_may(tmp_path: Path) -> None:
    quicken(tmp_path, hold="30s")
    for path in RULE_FILES:
        copied = rules([tmp_path / "rules" / path.name])
        for shipped, copy in zip(rules([path]), copied, strict=True):
            assert {**copy, "keep_firing_for": None} == {**shipped, "keep_firing_for": None}
            if "keep_firing_for" in shipped:
                assert seconds(copy["keep_firing_for"]) == min(30, seconds(shipped["keep_firing_for"]))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_can_be_replaced_is_in_the_shipped_files(name: str) -> None:
    files = [PROMETHEUS, ALERTMANAGER, *RULE_FILES]
    assert any(re.search(re.escape(SHIPPED[name]), path.read_text("utf-8")) for path in files)


def test_a_quick_copy_is_accepted_by_prometheus_and_alertmanager(tmp_path: Path, tool: Tool) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    quicken(tmp_path, divide=60, scrape_interval="1s", receiver_token_file=token)
    for command in (
        [tool("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        [tool("amtool"), "check-config", str(tmp_path / "alertmanager.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_command_writes_the_copy_by_a_python_that_has_no_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "deploy.prometheus.quicken", "--divide", "30", "--out", str(tmp_path)]
    subprocess.run([*command, "--email-to", "duty@example.com"], check=True, cwd=PROMETHEUS.parents[2])
    assert yaml.safe_load((tmp_path / "rules" / "host.yml").read_text("utf-8"))["groups"][0]["rules"][1]["for"] == "4s"
    assert "duty@example.com" in (tmp_path / "alertmanager.yml").read_text("utf-8")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--divide", "0"], "divide by 0.0: give a number above 0"),
        (["--scrape-interval", "2 seconds"], "'2 seconds' is no duration: write it as 15s, 5m or 1h30m"),
    ],
)
def test_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path), *flags])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
