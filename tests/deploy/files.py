"""The shipped Prometheus and Alertmanager files, read."""

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yml"
ALERTMANAGER = DEPLOY / "alertmanager" / "alertmanager.yml"
RUNBOOKS = DEPLOY / "runbooks"
RULE_FILES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
NODE_RULE_FILES = sorted((DEPLOY / "prometheus" / "rules" / "node_exporter").glob("*.yml"))


def document(path: Path) -> Any:
    """The YAML of a file."""
    return yaml.safe_load(path.read_text("utf-8"))


def rules(paths: list[Path]) -> list[dict[str, Any]]:
    """Every rule of the files, recording and alerting, in order."""
    return [rule for path in paths for group in document(path)["groups"] for rule in group["rules"]]


def alerts(paths: list[Path]) -> list[dict[str, Any]]:
    """Every alerting rule of the files."""
    return [rule for rule in rules(paths) if "alert" in rule]


def recorded(paths: list[Path]) -> dict[str, dict[str, frozenset[str]]]:
    """The recorded series with their labels, which the level in front of a name says: instance_mountpoint:…"""
    names = [rule["record"] for rule in rules(paths) if "record" in rule]
    return {name: dict.fromkeys(name.partition(":")[0].split("_"), frozenset[str]()) for name in names}


PROMETHEUS_OWN = {
    "ALERTS": {
        "alertname": frozenset(str(rule["alert"]) for rule in alerts(RULE_FILES)),
        "alertstate": frozenset({"pending", "firing"}),
    }
}
"""What Prometheus makes of the rules by itself."""
