"""The receiver at work: takes notifications in, and keeps what delivers them running under the settings in force."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

import structlog

from receiver import fallback, notice, routing
from receiver.alertmanager import InvalidPayloadError, parse
from receiver.audiences import routing as routing_of
from receiver.audiences import warnings as odd
from receiver.carriers import carriers, render
from receiver.channels import CHANNELS, DeliveryError, Message
from receiver.channels.sms import Sms
from receiver.delivery import RetryPolicy, Workers
from receiver.firing import Alertmanager, Firing, Unreachable, firing
from receiver.heartbeat import Watch
from receiver.messages import Templates
from receiver.metrics import Metrics
from receiver.notice import Notice, Posted
from receiver.outbox import Accepted, Addition, Claim, Outbox, new_owner
from receiver.report import Reporter
from receiver.settings import ReceiverSettings
from receiver.store import Store, StoreUnavailableError, read_url
from receiver.threads import undying
from serving.settings import ConfigError

__all__ = ["Receiver"]

log = structlog.get_logger(__name__)

_HEARD_WITHIN = timedelta(days=7)  # every alert that fires is repeated within it
_STOP_WITHIN = timedelta(seconds=4)  # the server takes up to 5 s before it, and 10 s is what is promised
_PRUNE_SECONDS = 3600.0
_BALANCE_SECONDS = 300.0
_FALLBACK_SECONDS = 5.0


class Receiver:
    """Everything but the doors. `start` and `stop` are called once each; `reload` as often as one likes."""

    def __init__(
        self,
        settings: ReceiverSettings,
        version: str,
        *,
        reloaded: Callable[[], bool] = lambda: True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._store = Store(read_url(settings.database_url.get_secret_value()))
        self.outbox = Outbox(self._store, new_owner())
        self.metrics = Metrics(self.outbox, CHANNELS, version, reloaded)
        self._templates = self._read_templates(settings)
        self._routing = routing_of(settings)
        self._workers = self._hire(settings)
        self._stopping = threading.Event()
        watch = Watch(self.outbox, lambda: self.settings, lambda: self._routing, self._stored, clock=clock)
        reporter = Reporter(self.outbox, lambda: self.settings, self._stored, clock=clock)
        self.alertmanager = Alertmanager(lambda: self.settings.alertmanager_url)
        keepers: dict[str, Callable[[], None]] = {
            "alertmanager": lambda: self.alertmanager.run(self._stopping),
            "prune": lambda: self._every(_PRUNE_SECONDS, self._prune),
            "fallback": lambda: self._every(_FALLBACK_SECONDS, self._hand_over),
            "balance": lambda: self._every(_BALANCE_SECONDS, self._ask_balance),
            "heartbeat": lambda: watch.run(self._stopping),
            "ping": lambda: watch.run_pings(self._stopping),
            "report": lambda: reporter.run(self._stopping),
        }
        self._keepers = [undying(name, work, self._stopping) for name, work in keepers.items()]

    def start(self) -> None:
        """Starts the threads; the store is opened when it can be."""
        self._store.start()
        try:
            self.outbox.heartbeat()
        except StoreUnavailableError as error:
            log.error(  # noqa: TRY400 - the operator's trouble, no fault of ours
                "store unavailable, webhooks are answered 503 until it is there",
                error=str(error),
                hint="check RECEIVER_DATABASE_URL, or ask coldchain-receiver doctor",
            )
        _tell_channels(self.settings)
        self._workers.start()
        for thread in self._keepers:
            thread.start()

    def stop(self) -> None:
        """Finishes what is being sent, or gives it back."""
        self._stopping.set()
        self._workers.stop(within=_STOP_WITHIN)
        self._store.close()

    def reload(self, settings: ReceiverSettings) -> None:
        """Puts other settings in force; raises ConfigError for what only a restart can change."""
        if settings.database_url != self.settings.database_url:
            raise ConfigError(["database_url (RECEIVER_DATABASE_URL): can be changed only by a restart"])
        old, self.settings = self._workers, settings
        self._templates = self._read_templates(settings)
        self._routing = routing_of(settings)
        self._workers = self._hire(settings)
        old.retire()
        _tell_channels(settings)
        self._workers.start()

    def accept(self, body: bytes) -> Future[Accepted]:
        """Has what Alertmanager posted stored, and does not wait: the answer, or StoreUnavailableError, comes later.

        Raises InvalidPayloadError.
        """
        now = self._clock()
        try:
            notification = parse(body)
        except InvalidPayloadError as error:
            self.metrics.posted("invalid")
            log.warning("webhook refused", error=str(error)[:300])
            raise
        answer = self.outbox.submit(
            Addition.of(
                notification,
                routing.planner(notification, self._routing, now),
                now=now,
                dedup_window=self.settings.dedup_window,
                give_up_after=self.settings.retry.give_up_after,
                source="alertmanager",
                asked=None,
            )
        )
        answer.add_done_callback(self._answered)
        return answer

    def _answered(self, answer: Future[Accepted]) -> None:
        if answer.exception() is None:
            self._stored(answer.result())

    def tell(
        self,
        told: Notice,
        *,
        source: str,
        key: str | None = None,
        quiet: bool = True,
        give_up_after: timedelta | None = None,
    ) -> Posted:
        """Stores what a program has to say, as notice.post does, and sees to its delivery."""
        posted = notice.post(
            told,
            self.outbox,
            self._routing,
            self.settings,
            now=self._clock(),
            source=source,
            key=key,
            quiet=quiet,
            give_up_after=give_up_after,
        )
        self._stored(posted.accepted)
        return posted

    def retry(self, delivery_id: int) -> bool | None:
        """As Outbox.retry."""
        done = self.outbox.retry(delivery_id, now=self._clock(), give_up_after=self.settings.retry.give_up_after)
        if done:
            self._workers.wake()
        return done

    def firing(self) -> list[Firing]:
        """What fires now, as far as it is known; raises StoreUnavailableError."""
        now, latest = self._clock(), self.alertmanager.latest
        known = None if isinstance(latest, Unreachable) else latest
        repeated = self.settings.repeat_interval.by_severity
        return firing(self.outbox.heard(since=now - _HEARD_WITHIN), known, now, repeated)

    def ready(self) -> str | None:
        """Why it cannot take notifications now, if so."""
        try:
            self.outbox.check(now=self._clock())
        except StoreUnavailableError:
            return "the store is unavailable"
        return None

    def render(self, claim: Claim, settings: ReceiverSettings) -> Message:
        """A claim's message in its channel's words."""
        return render(claim, settings, self._templates)

    def _stored(self, accepted: Accepted) -> None:
        for channel in accepted.suppressed:
            self.metrics.settled(channel, "suppressed")
        if accepted.deliveries:
            self._workers.wake()

    def _read_templates(self, settings: ReceiverSettings) -> Templates:
        def failed(channel: str, locale: str, error: Exception) -> None:
            self.metrics.template_failed(channel)
            words = f"{type(error).__name__}: {error}"
            log.error("template failed, the built-in one is used", channel=channel, locale=locale, error=words)

        templates = Templates(settings.templates_dir, failed=failed)
        templates.prepare()
        return templates

    def _hire(self, settings: ReceiverSettings) -> Workers:
        policy = RetryPolicy(settings.retry.first, settings.retry.longest)
        on = carriers(settings, lambda claim: self.render(claim, settings))
        return Workers(self.outbox, on, policy, self.metrics, clock=self._clock)

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            work()
            self._stopping.wait(seconds)

    def _prune(self) -> None:
        now = self._clock()
        before, seen_before = now - self.settings.retention, now - self.settings.dedup_window
        try:
            while self.outbox.prune(before=before, seen_before=seen_before) and not self._stopping.is_set():
                self._stopping.wait(0.1)  # between two transactions others have their turn
        except StoreUnavailableError as error:
            log.warning("history not pruned", error=str(error))

    def _hand_over(self) -> None:
        settings, now = self.settings, self._clock()
        rules = settings.fallback.rules
        decide = fallback.planner(self._routing, rules, now)
        try:
            while handed_over := self.outbox.hand_over(
                decide, now=now, after=rules.after, give_up_after=settings.retry.give_up_after
            ):
                for one in handed_over:
                    if one.to is not None:
                        log.warning(
                            "told by another channel too", delivery=one.delivery_id, channel=one.channel, by=one.to
                        )
                self._workers.wake()
        except StoreUnavailableError as error:
            log.debug("nothing handed to other channels", error=str(error))  # the workers say it once

    def _ask_balance(self) -> None:
        settings = self.settings.sms
        if settings.missing:
            return
        channel = Sms(settings)
        try:
            self.metrics.balance(channel.balance())
        except DeliveryError as error:
            log.warning("SMS balance unknown", error=str(error))
        finally:
            channel.close()


def _tell_channels(settings: ReceiverSettings) -> None:
    for name, missing in settings.missing.items():
        if missing:
            log.warning("channel is off", channel=name, not_set=", ".join(missing))
    for place, text in odd(settings):
        log.warning("setting is odd", setting=".".join(map(str, place)), problem=text)
