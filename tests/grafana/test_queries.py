"""Every query of the dashboards: of series and labels that exist, in PromQL, never adding up windows that overlap."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.deploy.contract import ALERTS, SERIES, THRESHOLDS
from tests.deploy.files import RULE_FILES, recorded
from tests.deploy.promql import problems
from tests.grafana.dashboards import ALL, FILES, Json, document, queries

ALERT_LABELS = {
    "alertname": frozenset(name for name, _ in ALERTS),
    "severity": frozenset(severity for _, severity in ALERTS),
    "category": frozenset(alert.category for alert in ALERTS.values()),
}
KNOWN = {
    **SERIES,
    **recorded(RULE_FILES),
    "ALERTS": {**ALERT_LABELS, "alertstate": frozenset({"pending", "firing"})},
    "ALERTS_FOR_STATE": ALERT_LABELS,
}
FILLED = {**ALL, "plate": "1234"}


def test_queries_use_only_what_exists_and_add_up_no_windows(dashboard: Json) -> None:
    expressions = [query.expr for query in queries(dashboard, FILLED)]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert found
            expressions.append(f"count by ({found[2]}) ({found[1]})")
    assert problems([expression.replace(".+", "$all") for expression in expressions], KNOWN) == []


def test_every_query_parses(dashboard: Json, tmp_path: Path, tool: Callable[[str], str]) -> None:
    rules = [{"record": f"query_{n}", "expr": query.expr} for n, query in enumerate(queries(dashboard, FILLED))]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": dashboard["uid"], "rules": rules}]}), "utf-8")
    done = subprocess.run([tool("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(rules)} rules found" in done.stdout


def test_limits_come_from_the_exporter_alone() -> None:
    """No number of `thresholds:` stands in a dashboard; what is constant there is constant in a rule."""
    asked = {
        found
        for path in FILES
        for query in queries(document(path), FILLED)
        for found in re.findall(r'coldchain_alert_threshold\{[^}]*alert="(\w+)", severity="(\w+)"', query.expr)
    }
    assert asked == THRESHOLDS


def test_recorded_series_are_what_the_trends_are_drawn_from() -> None:
    used = " ".join(query.expr for path in FILES for query in queries(document(path), FILLED))
    assert {name for name in recorded(RULE_FILES) if name not in used} == {
        "instance_alert_limit:coldchain_alert_threshold:expected"  # for ColdChainThresholdMissing alone
    }
