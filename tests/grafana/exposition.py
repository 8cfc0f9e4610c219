"""Made-up scrapes with every series and label of the contract: two exporters and a receiver, calm or in trouble."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.deploy.contract import SERIES, THRESHOLDS

# For labels whose values the contract leaves open.
SOME = {
    "mountpoint": ["/", "/data"],
    "device": ["eth0"],
    "mode": ["idle", "user", "system", "iowait"],
    "plate": ["12가3456", "34나5678"],
    "compartment": ["A", "B"],
    "le": ["1.0", "5.0", "30.0", "+Inf"],
    "version": ["0.1.0"],
    "python": ["3.11"],
}
LIMITS = {"ColdChainOrdersWaiting": 10.0, "ColdChainDispatchesOverdue": 5.0, "ColdChainVehicleUtilizationLow": 0.3}
CALM = {
    "coldchain_host_cpu_usage_ratio": 0.25,
    "coldchain_host_cpus": 8,
    "coldchain_host_memory_usage_ratio": 0.46,
    "coldchain_host_filesystem_usage_ratio": 0.62,
    "coldchain_database_up": 1,
    "coldchain_database_response_seconds": 0.045,
    "coldchain_orders_waiting": 3,
    "coldchain_orders_oldest_waiting_seconds": 7500,
    "coldchain_dispatches_overdue": 1,
    "coldchain_vehicles_utilization_ratio": 0.4,
    "coldchain_source_up": 1,
    "coldchain_source_interval_seconds": 15,
    "coldchain_vehicle_temperature_celsius": -19.5,
    "coldchain_vehicle_temperature_min_celsius": -25,
    "coldchain_vehicle_temperature_max_celsius": -18,
    "coldchain_vehicle_temperature_expected": 1,
    "coldchain_receiver_channel_up": 1,
    "coldchain_receiver_outbox_deliveries": 0,
    "coldchain_receiver_outbox_oldest_seconds": 0,
    "coldchain_receiver_sms_balance_messages": 900,
}
TROUBLE = CALM | {
    "coldchain_host_cpu_usage_ratio": 0.95,
    "coldchain_host_filesystem_usage_ratio": 0.93,
    "coldchain_database_response_seconds": 1.2,
    "coldchain_orders_waiting": 14,
    "coldchain_orders_oldest_waiting_seconds": 12000,
    "coldchain_dispatches_overdue": 8,
    "coldchain_vehicle_temperature_celsius": -12.0,
    "coldchain_receiver_outbox_deliveries": 2,
    "coldchain_receiver_outbox_oldest_seconds": 700,
}


def scrape(process: str, values: dict[str, float], started: float) -> str:
    """What the exporter or the receiver serves: counters but failures rise by 10 a second, times are 5 seconds ago."""
    now = time.time()
    lines = []
    for metric, labels in SERIES.items():
        if metric == "up" or metric.startswith("coldchain_receiver_") is not (process == "receiver"):
            continue
        choices = [sorted(labels[name] or SOME[name]) for name in labels]
        for chosen in itertools.product(*choices):
            of = dict(zip(labels, chosen, strict=True))
            value = values.get(metric, 100.0)
            if metric == "coldchain_alert_threshold":
                if (of["alert"], of["severity"]) not in THRESHOLDS:
                    continue
                value = LIMITS.get(of["alert"], 0.9 if of["severity"] == "critical" else 0.7)
            elif metric.endswith("_timestamp_seconds"):
                value = now - 5
            elif metric.endswith(("_total", "_bucket", "_count", "_sum")):
                value = 0 if of.get("outcome") == "failed" else 10 * (now - started)
            shown = ",".join(f'{name}="{text}"' for name, text in of.items())
            lines.append(f"{metric}{{{shown}}} {value!r}\n")
    return "".join(lines)


def history(instances: list[str], values: dict[str, float], until: float) -> str:
    """What forecasts are made of, of the last 7 hours but the last minute, for promtool to make blocks of."""
    times = range(int(until) - 7 * 3600, int(until) - 60, 60)
    lines = []
    for metric in ("coldchain_orders_waiting", "coldchain_host_filesystem_available_bytes"):
        lines.append(f"# TYPE {metric} gauge\n")
        for instance, mountpoint in itertools.product(instances, SOME["mountpoint"]):
            disk = f',mountpoint="{mountpoint}"' if "filesystem" in metric else ""
            if disk or mountpoint == "/":
                labels = f'job="coldchain-exporter",instance="{instance}"{disk}'
                lines += [f"{metric}{{{labels}}} {values.get(metric, 100.0)} {at}\n" for at in times]
    return "".join([*lines, "# EOF\n"])


@contextmanager
def served(answer: Callable[[], str]) -> Iterator[str]:
    """The address at which `answer` is served to every GET."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
