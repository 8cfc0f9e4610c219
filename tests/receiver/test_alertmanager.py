"""Alertmanager's body: what is understood, what is refused in which words, and that nothing else can happen."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.alertmanager import InvalidPayloadError, dump, parse
from tests.receiver.making import body, payload, payload_alert


def test_sample_of_alertmanager_is_read(sample: Callable[[str], bytes]) -> None:
    found = parse(sample("mixed_2firing_1resolved"))
    assert (found.group_key, found.truncated, found.external_url) == (
        '{}:{alertname="HostDown"}',
        0,
        "http://vm:41093",
    )
    assert [(alert.fingerprint, alert.firing, alert.severity) for alert in found.alerts] == [
        ("2993e3e5da48cfe2", True, "critical"),
        ("db2c0489ee02c8fd", False, "critical"),
        ("8a877f984b5c79dc", True, "critical"),
    ]
    assert found.alerts[0].starts_at == datetime(2026, 11, 22, 21, 30, 29, 523505, tzinfo=UTC)
    assert found.alerts[0].ends_at is None
    assert found.alerts[1].ends_at == datetime(2026, 11, 22, 21, 30, 31, 431450, tzinfo=UTC)


@pytest.mark.parametrize("name", ["firing_3", "mixed_2firing_1resolved", "resolved_all", "truncated_2_of_5"])
def test_what_is_kept_reads_back_the_same(sample: Callable[[str], bytes], name: str) -> None:
    found = parse(sample(name))
    assert parse(dump(found).encode()) == found


def test_root_status_is_not_trusted() -> None:
    assert parse(body(status="resolved")).firing is True


def test_unknown_fields_are_ignored() -> None:
    assert parse(body([payload_alert(extra={"a": 1})], routeLabels=[1], notification_reason="x")).reason == "x"


def test_optional_fields_may_be_missing() -> None:
    bare = {"status": "firing", "fingerprint": "f", "labels": {}, "startsAt": "2026-01-27T13:00:00Z"}
    found = parse(json.dumps({"groupKey": "g", "alerts": [bare]}).encode())
    assert (found.truncated, found.alerts[0].annotations, found.alerts[0].generator_url) == (0, {}, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-27T13:00:00Z", datetime(2026, 1, 27, 13, tzinfo=UTC)),
        ("2026-01-27T22:00:00+09:00", datetime(2026, 1, 27, 13, tzinfo=UTC)),
        ("2026-01-27T13:00:00.5Z", datetime(2026, 1, 27, 13, 0, 0, 500000, tzinfo=UTC)),
        ("2026-01-27T13:00:00.123456789Z", datetime(2026, 1, 27, 13, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_fraction_and_offset_of_a_time_may_vary(text: str, expected: datetime) -> None:
    assert parse(body([payload_alert(startsAt=text)])).alerts[0].starts_at == expected


@pytest.mark.parametrize(
    ("severity", "expected"),
    [
        ("critical", "critical"),
        ("Critical ", "critical"),
        ("info", "info"),
        ("none", "none"),
        (None, "warning"),
        ("page", "warning"),
        ("", "warning"),
    ],
)
def test_missing_or_unknown_severity_is_a_warning(severity: str | None, expected: str) -> None:
    assert parse(body([payload_alert(severity=severity)])).alerts[0].severity == expected


def test_half_a_surrogate_and_nul_are_replaced() -> None:
    text = '"\\ud83d here, \\u0000 there, \\ud83d\\ude00 whole"'
    raw = body([payload_alert(annotations={"summary": "TEXT"})]).replace(b'"TEXT"', text.encode())
    assert parse(raw).alerts[0].annotations["summary"] == "\ufffd here, \ufffd there, 😀 whole"


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    raw = body([payload_alert(annotations={"summary": "TEXT"})]).replace(b"TEXT", b"\xff\xfe")
    assert parse(raw).alerts[0].annotations["summary"] == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{", "the body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"NaN", "the body is not JSON: NaN is no number of JSON's"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b"[]", "the body must be an object, not a list"),
        (b"null", "the body must be an object, not null"),
        (b"{}", "alerts: is missing"),
        (body(version="3"), "version: only Alertmanager's version 4 is understood, not a string"),
        (b'{"groupKey": "g", "alerts": {}}', "alerts: must be a list, not an object"),
        (body([]), "alerts: must hold at least one alert"),
        (body(groupKey=None), "groupKey: is missing"),
        (body(groupKey=7), "groupKey: must be a string, not a number"),
        (body(truncatedAlerts=-1), "truncatedAlerts: must be a number from 0 to 1000000000"),
        (body(truncatedAlerts=True), "truncatedAlerts: must be a number from 0 to 1000000000"),
        (body(truncatedAlerts=1.5), "truncatedAlerts: must be a number from 0 to 1000000000"),
        (body(truncatedAlerts="5"), "truncatedAlerts: must be a number from 0 to 1000000000"),
        (body(groupLabels=[]), "groupLabels: must be an object, not a list"),
        (body(groupLabels={"a": 1}), "groupLabels.a: must be a string, not a number"),
        (body([7]), "alerts[0]: must be an object, not a number"),  # type: ignore[list-item] # wrong on purpose
        (body([payload_alert(), payload_alert(status=None)]), "alerts[1].status: is missing"),
        (body([payload_alert(status="burning")]), "alerts[0].status: must be firing or resolved"),
        (body([payload_alert(labels=None)]), "alerts[0].labels: is missing"),
        (body([payload_alert(labels=[])]), "alerts[0].labels: must be an object, not a list"),
        (body([payload_alert(labels={"a": 1})]), "alerts[0].labels.a: must be a string, not a number"),
        (body([payload_alert(annotations={"a": True})]), "alerts[0].annotations.a: must be a string, not a boolean"),
        (body([payload_alert() | {"fingerprint": None}]), "alerts[0].fingerprint: must be a string, not null"),
        (body([payload_alert("")]), "alerts[0].fingerprint: must have 1 to 64 characters"),
        (body([payload_alert("f" * 65)]), "alerts[0].fingerprint: must have 1 to 64 characters"),
        (body([payload_alert(startsAt=None)]), "alerts[0].startsAt: is missing"),
        (
            body([payload_alert(startsAt="yesterday")]),
            "alerts[0].startsAt: must be a time with its offset, such as 2026-01-27T22:00:00Z",
        ),
        (
            body([payload_alert(startsAt="9999-12-31T23:59:59Z")]),
            "alerts[0].startsAt: must be a time with its offset, such as 2026-01-27T22:00:00Z",
        ),
        (
            body([payload_alert(startsAt="1969-12-31T23:59:59Z")]),
            "alerts[0].startsAt: must be a time with its offset, such as 2026-01-27T22:00:00Z",
        ),
        (
            body([payload_alert(startsAt="2026-01-27T22:00:00")]),
            "alerts[0].startsAt: must be a time with its offset, such as 2026-01-27T22:00:00Z",
        ),
    ],
)
def test_refusal_names_the_field_and_what_is_wrong(raw: bytes, expected: str) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        parse(raw)
    assert str(caught.value) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
@settings(max_examples=150)
def test_any_json_is_understood_or_refused(document: object) -> None:
    try:
        parse(json.dumps(document).encode())
    except InvalidPayloadError:
        return


@given(st.sampled_from(sorted(payload())), JSON)
@settings(max_examples=150)
def test_any_value_in_the_root_is_understood_or_refused(field: str, value: object) -> None:
    try:
        found = parse(json.dumps(payload() | {field: value}).encode())
    except InvalidPayloadError:
        return
    assert parse(dump(found).encode()) == found


@given(st.sampled_from(sorted(payload_alert())), JSON)
@settings(max_examples=150)
def test_any_value_in_an_alert_is_understood_or_refused(field: str, value: object) -> None:
    try:
        found = parse(json.dumps(payload([payload_alert() | {field: value}])).encode())
    except InvalidPayloadError:
        return
    assert parse(dump(found).encode()) == found


@given(st.binary(max_size=200))
@settings(max_examples=150)
def test_any_bytes_are_understood_or_refused(raw: bytes) -> None:
    with pytest.raises(InvalidPayloadError):
        parse(raw)
