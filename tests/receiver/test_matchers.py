"""Matchers read as Alertmanager's, and what can be told of several of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.matchers import Matcher, contradictory, implied, parse

LABELS = {"severity": "critical", "category": "database", "alertname": "ColdChainDatabaseDown"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('severity="critical"', True),
        ("severity=critical", True),
        (' severity = "critical" ', True),
        ('{severity="critical"}', True),
        ('severity="warning"', False),
        ('severity!="warning"', True),
        ('category=~"system|database"', True),
        ('category=~"data"', False),  # the whole value
        ('category=~"data.*"', True),
        ('category!~"system|business"', True),
        ('team=""', True),  # what is not there is empty
        ('team=~".+"', False),
        ('team!="night"', True),
        ('severity="critical",category=~"system|database"', True),
        ('severity="critical", category="system"', False),
    ],
)
def test_matcher(text: str, matches: bool) -> None:
    assert all(matcher.matches(LABELS) for matcher in parse(text)) is matches


def test_quoted_value_may_hold_anything() -> None:
    assert parse(r'path="a,\"b\"\\c=\n"') == (Matcher("path", "=", 'a,"b"\\c=\n'),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("severity", 'write one such as severity="critical"'),
        ("", 'write one such as severity="critical"'),
        ("1st=x", 'write one such as severity="critical"'),
        ('severity="critical', "quotation marks do not match"),
        ('severity=cri"tical', "put the whole value between quotation marks"),
        ('severity=~"("', "not a regular expression: missing )"),
    ],
)
def test_matcher_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(text)


@given(
    name=st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True),
    value=st.text(),
    operator=st.sampled_from(["=", "!="]),
)
def test_matcher_is_read_back_as_it_is_written(name: str, value: str, operator: str) -> None:
    matcher = Matcher(name, operator, value)
    assert parse(str(matcher)) == (matcher,)


@pytest.mark.parametrize(
    ("matchers", "known", "certain"),
    [
        ('severity="critical"', 'severity="critical", category="system"', True),
        ('category=~"system|database"', 'category="system"', True),
        ('category!="business"', 'category=~"system|database"', True),
        ('category=~"sys.*"', 'category="system"', True),
        ('category="system"', 'category=~"system|database"', False),
        ('category="system"', 'severity="critical"', False),
        ('category!="business"', 'severity="critical"', False),
        ('category="system"', 'category=~"sys.*"', False),  # cannot be told
    ],
)
def test_implication(matchers: str, known: str, certain: bool) -> None:
    assert implied(parse(matchers), parse(known)) is certain


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ('category="system", category="database"', True),
        ('category="system", category!~"sys.*"', True),
        ('category=~"system|database", category!="system"', False),
        ('category="system", severity="critical"', False),
        ('category=~"a.*", category=~"b.*"', False),  # cannot be told
    ],
)
def test_contradiction(text: str, certain: bool) -> None:
    assert contradictory(parse(text)) is certain


value = st.sampled_from(["", "a", "b", "c"])
matcher = st.builds(
    Matcher,
    name=st.sampled_from(["x", "y"]),
    operator=st.sampled_from(["=", "!=", "=~", "!~"]),
    value=st.sampled_from(["a", "b", "a|b", "a|c", "[ab]", ".*", ".+"]),
)


@given(st.lists(matcher, min_size=1, max_size=3), st.lists(matcher, max_size=3), value, value)
def test_what_is_certain_holds_for_every_alert(matchers: list[Matcher], known: list[Matcher], x: str, y: str) -> None:
    labels = {"x": x, "y": y}
    if all(one.matches(labels) for one in known):
        assert not contradictory(known)
        assert not implied(matchers, known) or all(one.matches(labels) for one in matchers)
