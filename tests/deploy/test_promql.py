"""The check of expressions notices what it is for."""

import pytest

from tests.deploy.contract import SERIES
from tests.deploy.promql import Selector, parse, problems, scraped


def test_selectors_are_found_wherever_they_stand() -> None:
    use = parse('round(100 * (a{x="1", y=~"b|c"} > on (job) group_left () min by (z) (b_total)), 0.1) and rate(c[5m])')
    assert use.selectors == [Selector("a", (("x", "=", "1"), ("y", "=~", "b|c"))), Selector("b_total"), Selector("c")]
    assert use.grouped_by == {"job", "z"}


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("coldchain_order_waiting > 1", "nothing serves coldchain_order_waiting"),
        ('coldchain_orders{state="pending"}', "coldchain_orders has no label state"),
        ('coldchain_orders{status="PENDING"}', "coldchain_orders has no status='PENDING'"),
        ('coldchain_orders{status=~"pending|asigned"}', "coldchain_orders has no status=~'pending|asigned'"),
        ('coldchain_alert_threshold{alert="ColdChainCPUHigh"}', "has no alert='ColdChainCPUHigh'"),
        ("sum by (mount) (coldchain_host_filesystem_size_bytes)", "nothing that it selects has the label mount"),
        ("up * on (instanse) coldchain_host_cpus", "nothing that it selects has the label instanse"),
        ("sum(coldchain_orders)", "aggregates coldchain_orders over window"),
        ("sum by (status) (coldchain_orders)", "aggregates coldchain_orders over window"),
        ("max(coldchain_orders) without (window)", "aggregates coldchain_orders over window"),
        ("sum(rate(coldchain_dispatches[5m]))", "aggregates coldchain_dispatches over window"),
    ],
)
def test_a_mistake_is_named_with_its_expression(expression: str, problem: str) -> None:
    (found,) = problems([expression], SERIES)
    assert problem in found
    assert expression in found


@pytest.mark.parametrize(
    "expression",
    [
        'sum(coldchain_orders{window="24h"})',
        "sum by (window, job) (coldchain_orders)",
        "sum without (status) (coldchain_orders)",
        'coldchain_orders{job=~"$job", instance=~"$instance", window="$window"}',
        "increase(coldchain_receiver_webhooks_total[$__rate_interval])",
        "histogram_quantile(0.95, sum by (le) (rate(coldchain_receiver_delivery_seconds_bucket[1h])))",
    ],
)
def test_what_is_right_passes(expression: str) -> None:
    assert problems([expression], SERIES) == []


def test_a_scrape_says_which_labels_and_values_there_are() -> None:
    series = scraped(
        'coldchain_orders{window="1h",status="pending"} 3\ncoldchain_orders{window="1h",status="delivered"} 4\n',
        "coldchain_orders_waiting 2\n",
    )
    assert series == {
        "coldchain_orders": {"window": frozenset({"1h"}), "status": frozenset({"pending", "delivered"})},
        "coldchain_orders_waiting": {},
    }
    assert problems(['coldchain_orders{status="pending", window="1h"}'], series) == []
    assert len(problems(['coldchain_orders{window="24h"}', "coldchain_vehicles"], series)) == 2
