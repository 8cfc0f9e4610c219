"""Who asks: a program, a page of our own, or a page of somebody else's in a browser that is let in."""

import pytest

from serving.sites import from_another_site


@pytest.mark.parametrize(
    ("headers", "other"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),  # an address that somebody typed
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://monitor.example:8000"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://behind-a-gateway.example"}, False),
        ({"origin": "http://monitor.example:8000"}, False),
        ({"origin": "https://Monitor.Example:8000"}, False),
        ({"origin": "http://monitor.example"}, True),
        ({"origin": "http://evil.example/monitor.example:8000"}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
    ],
)
def test_a_page_of_somebody_elses_is_known_by_what_its_browser_says(headers: dict[str, str], *, other: bool) -> None:
    assert from_another_site({"host": "monitor.EXAMPLE:8000"} | headers) is other
