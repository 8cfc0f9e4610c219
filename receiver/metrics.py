"""The receiver's own metrics: counts of what it did, and on each scrape what the outbox holds."""

from __future__ import annotations

import gzip
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from receiver.channels import DeliveryError, Outcome
from receiver.channels.sms import Balance
from receiver.delivery import Observer
from receiver.outbox import Claim, Outbox, Settlement, Waiting
from receiver.store import StoreUnavailableError
from receiver.tables import OPEN_STATES

__all__ = ["Metrics"]

log = structlog.get_logger(__name__)

RESULTS = ("accepted", "duplicate", "invalid", "unauthorized", "unavailable")
OUTCOMES = ("delivered", "partial", "uncertain", "retried", "merged", "suppressed", "failed")
_OUTCOME_OF_STATE = {"retrying": "retried"}
# from what a person does not notice to what a night's outage makes of it
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 14400, 86400)
_PATIENCE_SECONDS = 2.5  # Prometheus waits for 10 by default, and the store is not all there is to tell


class Metrics(Observer):
    """One registry, filled by the doors and the workers."""

    def __init__(self, outbox: Outbox, channels: Sequence[str], version: str, reloaded: Callable[[], bool]) -> None:
        # For the whole process; rate() knows a reset without them.
        disable_created_metrics()  # type: ignore[no-untyped-call] # untyped in prometheus-client
        self.registry = CollectorRegistry()
        webhooks = Counter(
            "coldchain_receiver_webhooks",
            "Notifications posted to the receiver, by what became of them at the door",
            ["result"],
            registry=self.registry,
        )
        self._failures = Counter(
            "coldchain_authentication_failures",
            "Requests refused for want of a right credential",
            registry=self.registry,
        )
        self._deliveries = Counter(
            "coldchain_receiver_deliveries",
            "Attempts to deliver and what they came to",
            ["channel", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "coldchain_receiver_delivery_seconds",
            "Time from the webhook's arrival to the channel's acceptance",
            ["channel"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._up = Gauge(
            "coldchain_receiver_channel_up",
            "Whether the channel's last attempt got through; absent before the first",
            ["channel"],
            registry=self.registry,
        )
        self._balance = Gauge(
            "coldchain_receiver_sms_balance_messages",
            "How many messages of a type the SMS account's money pays for",
            ["type"],
            registry=self.registry,
        )
        self._templates = Counter(
            "coldchain_receiver_template_errors",
            "Messages for which a template of the site's own failed, so that the built-in one was used",
            ["channel"],
            registry=self.registry,
        )
        Gauge(
            "coldchain_receiver_build_info",
            "1, with the versions of the receiver and of Python",
            ["version", "python"],
            registry=self.registry,
        ).labels(version, platform.python_version()).set(1)
        Gauge(
            "coldchain_config_last_reload_successful",
            "Whether the last reading of the configuration was accepted",
            registry=self.registry,
        ).set_function(lambda: float(reloaded()))
        ProcessCollector(registry=self.registry)
        self.registry.register(_OutboxCollector(outbox, channels))
        self._posted = {result: webhooks.labels(result) for result in RESULTS}
        for channel in channels:
            self._seconds.labels(channel)
            self._templates.labels(channel)
            for outcome in OUTCOMES:
                self._deliveries.labels(channel, outcome)

    def posted(self, result: str) -> None:
        """Counts a webhook; `result` is one of RESULTS."""
        self._posted[result].inc()

    def settled(self, channel: str, outcome: str, count: int = 1) -> None:
        """Counts deliveries that came to their end without an attempt; `outcome` is one of OUTCOMES."""
        self._deliveries.labels(channel, outcome).inc(count)

    def template_failed(self, channel: str) -> None:
        """Counts a message that the site's own template could not make."""
        self._templates.labels(channel).inc()

    def refused(self, path: str) -> None:
        """Counts a request that came without a right credential, and a webhook among them."""
        self._failures.inc()
        if path == "/webhook":
            self.posted("unauthorized")

    def attempted(self, claim: Claim, settlement: Settlement, outcome: Outcome | DeliveryError, now: datetime) -> None:
        state = settlement.state
        self.settled(claim.channel, "merged", claim.newly_merged)
        self._deliveries.labels(claim.channel, _OUTCOME_OF_STATE.get(state, state)).inc()
        # A mailbox that is refused says nothing of the channel.
        self._up.labels(claim.channel).set(0 if isinstance(outcome, DeliveryError) or state == "failed" else 1)
        if any(to == "delivered" for to, _ in settlement.recipients.values()):
            since = claim.held_until or claim.created_at
            self._seconds.labels(claim.channel).observe(
                max(0, (now - since).total_seconds())
            )  # the clock may have been set back

    def channel_up(self, channel: str) -> bool | None:
        """What `coldchain_receiver_channel_up` says; None before the first attempt."""
        for sample in next(iter(self._up.collect())).samples:
            if sample.labels["channel"] == channel:
                return sample.value == 1
        return None

    def balance(self, balance: Balance) -> None:
        """Notes what the SMS account has left."""
        self._balance.labels("sms").set(balance.sms)
        self._balance.labels("lms").set(balance.lms)
        self._balance.labels("mms").set(balance.mms)

    def scrape(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """The body and its headers, in the form the scraper asks for."""
        encoder, content_type = choose_encoder(accept)
        body, headers = encoder(self.registry), {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if "gzip" in accept_encoding:
            body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=4), "gzip"
        return body, headers


class _OutboxCollector(Collector):
    """Asks the store on each scrape; what it cannot tell, or not soon enough, is absent."""

    def __init__(self, outbox: Outbox, channels: Sequence[str]) -> None:
        self._outbox = outbox
        self._channels = channels
        self._asking = threading.Lock()
        self._asker = ThreadPoolExecutor(1, "metrics")
        self._asked: Future[tuple[list[Waiting], datetime | None]] | None = None

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            waiting, heartbeat = self._ask().result(_PATIENCE_SECONDS)
        except (StoreUnavailableError, TimeoutError) as error:
            words = str(error) or f"no answer within {_PATIENCE_SECONDS:g} s"
            log.warning("scraped without the store's numbers", error=words)
            return
        now = datetime.now(UTC)
        count = GaugeMetricFamily(
            "coldchain_receiver_outbox_deliveries",
            "Deliveries that are still to be settled, and those that failed and are still in the history",
            labels=["channel", "state"],
        )
        oldest = GaugeMetricFamily(
            "coldchain_receiver_outbox_oldest_seconds",
            "Age of the oldest delivery that is pending or retrying, 0 when none",
            labels=["channel"],
        )
        found = {(row.channel, row.state): row for row in waiting}
        for channel in sorted({*self._channels, *(row.channel for row in waiting)}):
            for state in (*OPEN_STATES, "failed"):
                row = found.get((channel, state))
                count.add_metric([channel, state], row.count if row is not None else 0)
            ages = [
                (now - row.oldest).total_seconds()
                for state in ("pending", "retrying")
                if (row := found.get((channel, state))) is not None
            ]
            oldest.add_metric([channel], max([0, *ages]))  # the clock may have been set back
        yield count
        yield oldest
        if heartbeat is not None:
            yield GaugeMetricFamily(
                "coldchain_receiver_heartbeat_timestamp_seconds",
                "When ColdChainWatchdog was last heard",
                value=heartbeat.timestamp(),
            )

    def _ask(self) -> Future[tuple[list[Waiting], datetime | None]]:
        """One question at a time: behind one that hangs no second one is begun, by whoever scrapes."""
        with self._asking:
            if self._asked is None or self._asked.done():
                self._asked = self._asker.submit(self._numbers)
            return self._asked

    def _numbers(self) -> tuple[list[Waiting], datetime | None]:
        self._outbox.check(now=datetime.now(UTC))  # by their absence Prometheus knows that nothing can be stored
        return self._outbox.waiting(), self._outbox.heartbeat()
