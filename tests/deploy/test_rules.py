"""The shipped rules: what they are called, what they say, and that they fire, hold and resolve on two Prometheuses."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.prometheus.quicken import SHIPPED, seconds
from receiver.channels.sms import SMS_BYTES, byte_length
from tests.deploy.conftest import Tool
from tests.deploy.contract import ALERTS, NODE_SERIES, SERIES, THRESHOLDS
from tests.deploy.files import (
    DEPLOY,
    NODE_RULE_FILES,
    PROMETHEUS,
    PROMETHEUS_OWN,
    RULE_FILES,
    alerts,
    document,
    recorded,
    rules,
)
from tests.deploy.promql import parse, problems

TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))
ALL_RULE_FILES = [*RULE_FILES, *NODE_RULE_FILES]
SHIPPED_ALERTS = alerts(RULE_FILES)
ALL_ALERTS = alerts(ALL_RULE_FILES)


def name(rule: dict[str, Any]) -> str:
    """An alert as a test's id: ColdChainCpuHigh-critical."""
    return f"{rule['alert']}-{rule['labels']['severity']}"


def run(*command: str | Path) -> str:
    """The output of a program that must end well."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_configuration_and_every_rule_file(tool: Tool) -> None:
    run(tool("promtool"), "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS)
    run(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *ALL_RULE_FILES)


@pytest.mark.parametrize("scenarios", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_hold_and_resolve(tool: Tool, scenarios: Path) -> None:
    run(tool("promtool"), "test", "rules", scenarios)


def test_every_alert_has_a_scenario_that_reads_its_words() -> None:
    read: set[tuple[str, str, str]] = set()
    for path in TESTS:
        for case in (case for test in document(path)["tests"] for case in test.get("alert_rule_test", [])):
            read |= {(path.stem, case["alertname"], alert["exp_labels"]["severity"]) for alert in case["exp_alerts"]}
    assert read == {
        *((path.stem, rule["alert"], rule["labels"]["severity"]) for path in RULE_FILES for rule in alerts([path])),
        *(("node_exporter", rule["alert"], rule["labels"]["severity"]) for rule in alerts(NODE_RULE_FILES)),
    }


def test_an_excursion_is_told_whole_in_one_short_message() -> None:
    told = [
        f"[위험] {alert['exp_annotations']['summary']}\n{alert['exp_annotations']['description']}"
        for path in TESTS
        for test in document(path)["tests"]
        for case in test.get("alert_rule_test", [])
        for alert in case["exp_alerts"]
        if case["alertname"] == "ColdChainTemperatureOutOfRange"
    ]
    assert "[위험] 적재함 온도 이탈\n차량 서울34나5678 적재함 a의 마지막 온도 -25.0℃ (허용 -22~-18℃)" in told
    assert [text for text in told if byte_length(text) > SMS_BYTES] == []


def test_alerts_are_those_of_the_contract() -> None:
    assert {
        (rule["alert"], rule["labels"]["severity"]): (
            rule["for"],
            rule["labels"]["category"],
            rule["annotations"]["summary"],
        )
        for rule in SHIPPED_ALERTS
    } == {key: (alert.held, alert.category, alert.title) for key, alert in ALERTS.items()}
    assert len(SHIPPED_ALERTS) == len(ALERTS)


def test_node_exporter_rules_are_the_host_rules_from_other_series() -> None:
    host = {name(rule): rule for rule in alerts([path for path in RULE_FILES if path.stem == "host"])}
    node = {name(rule): rule for rule in alerts(NODE_RULE_FILES)}
    assert list(node) == list(host)
    for key, rule in node.items():
        same = ("for", "keep_firing_for", "annotations")
        assert {field: rule[field] for field in same} == {field: host[key][field] for field in same}


@pytest.mark.parametrize("rule", ALL_ALERTS, ids=name)
def test_alert_has_its_words_in_both_languages_and_its_links(rule: dict[str, Any]) -> None:
    annotations = rule["annotations"]
    assert set(annotations) == {
        *("summary", "description", "summary_en", "description_en"),
        *("runbook_url", "runbook_url_en", "dashboard_url"),
    }
    hangul = re.compile("[가-힣]")
    assert hangul.search(annotations["summary"])
    assert hangul.search(annotations["description"])
    assert not hangul.search(annotations["summary_en"] + annotations["description_en"])
    assert annotations["runbook_url"] == f"{SHIPPED['runbooks']}/ko/{rule['alert']}.md"
    assert annotations["runbook_url_en"] == f"{SHIPPED['runbooks']}/en/{rule['alert']}.md"
    assert annotations["dashboard_url"].startswith(f"{SHIPPED['dashboards']}/coldchain-")


@pytest.mark.parametrize("rule", ALL_ALERTS, ids=name)
def test_alert_compares_with_its_own_threshold(rule: dict[str, Any]) -> None:
    compared = [
        {label: value for label, _, value in selector.matchers}
        for selector in parse(rule["expr"]).selectors
        if selector.metric == "coldchain_alert_threshold" and selector.matchers
    ]
    own = (rule["alert"], rule["labels"]["severity"])
    assert compared == ([{"alert": own[0], "severity": own[1]}] if own in THRESHOLDS else [])


def test_a_missing_threshold_is_noticed_for_each_pair() -> None:
    expected = [
        (rule["labels"]["alert"], rule["labels"]["limit"])
        for rule in rules(RULE_FILES)
        if rule.get("record") == "instance_alert_limit:coldchain_alert_threshold:expected"
    ]
    assert len(expected) == len(set(expected))
    assert set(expected) == THRESHOLDS


def test_rules_use_only_series_and_labels_that_exist() -> None:
    known = {**SERIES, **PROMETHEUS_OWN, **recorded(RULE_FILES)}
    assert problems([rule["expr"] for rule in rules(RULE_FILES)], known) == []
    node = {**known, **NODE_SERIES, **recorded(NODE_RULE_FILES)}
    assert problems([rule["expr"] for rule in rules(NODE_RULE_FILES)], node) == []


def test_annotations_use_only_labels_that_the_expression_leaves() -> None:
    # The labels that a rule adds are not among $labels, so a name in a text that only the rule adds comes out empty.
    known = {**SERIES, **NODE_SERIES, **PROMETHEUS_OWN, **recorded(ALL_RULE_FILES)}
    for rule in ALL_ALERTS:
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        selected = [known[selector.metric] for selector in parse(rule["expr"]).selectors]
        assert used <= {"job", "instance"}.union(*selected), rule["alert"]


def test_an_alert_is_held_until_what_inhibits_it_fires() -> None:
    # A series vanishes at the scrape that fails, or when its source is stale. The inhibitor's alert is pending from the
    # next evaluation on, and fires one evaluation after its `for` at the latest.
    scrape = seconds(document(PROMETHEUS)["global"]["scrape_interval"])
    evaluation = seconds(document(PROMETHEUS)["global"]["evaluation_interval"])
    inhibitors = {"ColdChainExporterDown", "ColdChainReceiverDown", "ColdChainSourceStale"}
    slowest = max(seconds(rule["for"]) for rule in SHIPPED_ALERTS if rule["alert"] in inhibitors)
    held = {name(rule): seconds(rule.get("keep_firing_for", "0s")) for rule in ALL_ALERTS}
    unheld = {key for key, hold in held.items() if hold <= scrape + slowest + 2 * evaluation}
    assert unheld == {
        "ColdChainWatchdog-none",
        "ColdChainExporterDown-critical",
        "ColdChainReceiverDown-critical",
        "ColdChainSourceStale-warning",
    }


def test_a_database_that_is_back_is_not_told_as_stale_sources() -> None:
    # The sources take a scrape more to be fresh again, and their alert is held itself; the groups of the two rules may
    # be evaluated an interval apart.
    scrape = seconds(document(PROMETHEUS)["global"]["scrape_interval"])
    evaluation = seconds(document(PROMETHEUS)["global"]["evaluation_interval"])
    held = {rule["alert"]: seconds(rule.get("keep_firing_for", "0s")) for rule in SHIPPED_ALERTS}
    assert held["ColdChainDatabaseDown"] >= scrape + held["ColdChainSourceStale"] + 2 * evaluation


@pytest.mark.parametrize(
    "rule", [rule for rule in rules(ALL_RULE_FILES) if "record" in rule], ids=lambda rule: rule["record"]
)
def test_a_recorded_series_says_in_its_name_over_how_long_it_looks(rule: dict[str, Any]) -> None:
    level, _, operations = rule["record"].split(":")
    assert level.startswith("instance")
    assert re.findall(r"\[(\w+)\]", rule["expr"]) == re.findall(r"[a-z](\d+[mhd])(?=_|$)", operations)


def test_rule_globs_match_something_those_commented_out_too() -> None:
    globs = re.findall(r"^\s*(?:# )?- (rules/\S+)$", PROMETHEUS.read_text("utf-8"), re.MULTILINE)
    assert globs == ["rules/*.yml", "rules/node_exporter/*.yml"]
    for glob in globs:
        assert list((DEPLOY / "prometheus").glob(glob)), glob
    assert document(PROMETHEUS)["rule_files"] == globs[:1]


def test_jobs_are_those_that_the_rules_know() -> None:
    jobs = [job["job_name"] for job in document(PROMETHEUS)["scrape_configs"]]
    named = {
        value
        for rule in rules(RULE_FILES)
        for selector in parse(rule["expr"]).selectors
        for label, _, value in selector.matchers
        if label == "job"
    }
    assert jobs == ["coldchain-exporter", "coldchain-receiver"]
    assert named == set(jobs)
