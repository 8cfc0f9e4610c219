"""What the audit says of what pip-audit found."""

from typing import Any

from tests.audit import report


def test_a_vulnerable_package_is_named_with_the_version_that_mends_it() -> None:
    found: list[dict[str, Any]] = [
        {"name": "good", "version": "1", "vulns": []},
        {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]},
    ]
    assert report(found) == (["bad 2: PYSEC-1, mended in 2.1"], True)


def test_an_advisory_service_that_is_silent_is_said_and_no_failure() -> None:
    found = [{"name": "one", "version": "1", "skip_reason": "not found"}]
    assert report(found) == (["not audited, for the advisory service did not answer: 1 of 1"], False)


def test_nothing_found_is_nothing_said() -> None:
    assert report([{"name": "good", "version": "1", "vulns": []}]) == ([], False)
