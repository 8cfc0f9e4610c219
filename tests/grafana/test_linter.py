"""The rules of grafana/dashboard-linter, by the names it gives them, but for the exclusions of `.lint`."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.promql import parse
from tests.grafana.dashboards import FOLDER, Json, panels

EXCLUDED = yaml.safe_load((FOLDER / ".lint").read_text("utf-8"))["exclusions"]
DATASOURCE = {"$datasource", "${datasource}"}


def variable(dashboard: Json, name: str) -> Json:
    """The template variable of this name."""
    (found,) = (each for each in dashboard["templating"]["list"] if each["name"] == name)
    result: Json = found
    return result


def targets(dashboard: Json, rule: str = "") -> Iterator[tuple[str, str]]:
    """Title and expression of each query that the rule is not excluded for."""
    excluded = {(entry["dashboard"], entry["panel"]) for entry in EXCLUDED.get(rule, {}).get("entries", [])}
    for panel in panels(dashboard):
        if (dashboard["title"], panel["title"]) not in excluded:
            yield from ((panel["title"], target["expr"]) for target in panel["targets"])


def test_template_datasource_rule(dashboard: Json) -> None:
    (source,) = (each for each in dashboard["templating"]["list"] if each["type"] == "datasource")
    assert (source["name"], source["label"], source["query"]) == ("datasource", "Data source", "prometheus")


@pytest.mark.parametrize("name", ["job", "instance"])
def test_template_job_and_instance_rules(dashboard: Json, name: str) -> None:
    found = variable(dashboard, name)
    assert found["datasource"]["uid"] in DATASOURCE
    assert (found["type"], found["label"], found["multi"], found["allValue"]) == ("query", name.title(), True, ".+")


def test_template_label_promql_and_on_time_change_reload_rules(dashboard: Json) -> None:
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            assert re.fullmatch(r"label_values\(\w+\{.+\}, \w+\)", each["query"])
            assert each["refresh"] == 2


def test_uneditable_dashboard_rule(dashboard: Json) -> None:
    assert dashboard["editable"] is False


def test_panel_rules(dashboard: Json) -> None:
    """panel-datasource-, panel-title-description-, panel-units- and panel-no-targets-rule."""
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {target["datasource"]["uid"] for target in panel["targets"]} <= DATASOURCE
        assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("name", ["job", "instance"])
def test_target_job_and_instance_rules(dashboard: Json, name: str) -> None:
    missing = [
        (title, selector)
        for title, expr in targets(dashboard, f"target-{name}-rule")
        for selector in parse(expr).selectors
        if (name, "=~", f"${name}") not in selector.matchers
    ]
    assert missing == []


def test_exclusions_are_of_panels_that_need_them() -> None:
    overview = yaml.safe_load((FOLDER / "coldchain-overview.json").read_text("utf-8"))
    entries = EXCLUDED["target-instance-rule"]["entries"]
    needing = {
        panel["title"] for panel in panels(overview) if any('"$instance|"' in t["expr"] for t in panel["targets"])
    }
    assert (set(EXCLUDED), {entry["panel"] for entry in entries}) == ({"target-instance-rule"}, needing)
    assert EXCLUDED["target-instance-rule"]["reason"]


def test_target_rate_interval_rule(dashboard: Json) -> None:
    for title, expr in targets(dashboard):
        # irate( and rate( with the range behind the last brace of their selector
        ranges: list[Any] = re.findall(r"\bi?rate\([^()]*\[([^\]]+)\]", expr)
        assert set(ranges) <= {"$__rate_interval"}, title


def test_target_counter_agg_rule(dashboard: Json) -> None:
    for title, expr in targets(dashboard):
        for selector in parse(expr).selectors:
            if selector.metric.endswith("_total"):
                assert re.search(rf"\b(rate|irate|increase)\({selector.metric}\{{[^}}]*\}}\[", expr), title
