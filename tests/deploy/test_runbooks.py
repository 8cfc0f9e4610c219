"""The runbooks: one for each alert in each language, with queries that find something."""

import re
from pathlib import Path

import pytest

from tests.deploy.contract import ALERTS, SERIES
from tests.deploy.files import PROMETHEUS_OWN, RULE_FILES, RUNBOOKS, recorded
from tests.deploy.promql import problems

HEADINGS = {
    "ko": ["무슨 뜻인가", "누가 영향을 받나", "무엇을 보나", "무엇을 하나"],
    "en": ["What it means", "Who is hurt", "What to look at", "What to do"],
}
COMMANDS = "README.md"  # where the pages' commands are run, and as whom
PAGES = sorted(path for path in RUNBOOKS.glob("*/*.md") if path.name != COMMANDS)


def page_name(path: Path) -> str:
    """A page as a test's id: ko-ColdChainCpuHigh."""
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("language", HEADINGS)
def test_every_alert_has_a_runbook_and_every_runbook_an_alert(language: str) -> None:
    assert {path.stem for path in PAGES if path.parent.name == language} == {alert for alert, _ in ALERTS}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_runbook_answers_the_four_questions(path: Path) -> None:
    parts = re.split(r"(?m)^## ", path.read_text("utf-8"))
    assert parts[0].startswith(f"# {path.stem}: ")
    assert [part.partition("\n")[0] for part in parts[1:]] == HEADINGS[path.parent.name]
    assert all(part.partition("\n")[2].strip() for part in parts[1:])


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_runbook_queries_use_only_what_exists(path: Path) -> None:
    blocks = re.findall(r"(?ms)^ *```promql\n(.*?)^ *```", path.read_text("utf-8"))
    assert blocks
    known = {**SERIES, **PROMETHEUS_OWN, **recorded(RULE_FILES)}
    assert problems([query for block in blocks for query in block.splitlines()], known) == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_runbook_leads_to_pages_that_exist(path: Path) -> None:
    for target in re.findall(r"\]\((\w+\.md)\)", path.read_text("utf-8")):
        assert (path.parent / target).exists()


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_a_command_of_ours_is_run_with_the_services_settings(path: Path) -> None:
    text = path.read_text("utf-8")
    # alone, `coldchain-exporter doctor` knows neither the service's environment nor its file, and finds nothing wrong
    assert re.findall(r"coldchain-(?:exporter|receiver) (?:doctor|check-config)", text) == []
    assert (f"]({COMMANDS})" in text) == bool(
        re.search(r"^(?:coldchain|curl|journalctl|systemctl) ", text, re.MULTILINE)
    )


@pytest.mark.parametrize("language", HEADINGS)
def test_where_commands_are_run_is_told_for_every_installation(language: str) -> None:
    text = (RUNBOOKS / language / COMMANDS).read_text("utf-8")
    for way in ("coldchain exporter doctor", "docker compose exec exporter", "docker compose logs", "401"):
        assert way in text


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_tools_of_prometheus_are_told_where_to_look(path: Path) -> None:
    for command in re.findall(r"(?:amtool (?:silence|alert)|promtool check config)[^`\n]*", path.read_text("utf-8")):
        assert "--alertmanager.url=http" in command or command.endswith("/prometheus.yml")


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent.name == "ko"], ids=page_name)
def test_both_languages_show_the_same_queries(path: Path) -> None:
    blocks = re.compile(r"(?ms)^```promql\n(.*?)^```")
    english = RUNBOOKS / "en" / path.name
    assert blocks.findall(path.read_text("utf-8")) == blocks.findall(english.read_text("utf-8"))
