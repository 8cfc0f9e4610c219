"""The receiver at work: takes notifications in, and keeps what delivers them running under the settings in force."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from receiver import fallback, messages, routing
from receiver.alertmanager import InvalidPayloadError, parse
from receiver.audiences import routing as routing_of
from receiver.audiences import warnings as odd
from receiver.channels import Channel, DeliveryError, Message
from receiver.channels import slack as slack_channel
from receiver.channels.email import Email
from receiver.channels.slack import Slack
from receiver.channels.sms import Sms
from receiver.delivery import Carrier, RetryPolicy, Workers
from receiver.metrics import Metrics
from receiver.outbox import Accepted, Claim, Outbox
from receiver.settings import ReceiverSettings
from receiver.store import Store, StoreUnavailableError, read_url
from serving.settings import ConfigError

__all__ = ["CHANNELS", "Receiver", "worded"]

log = structlog.get_logger(__name__)

CHANNELS = ("email", "slack", "sms")

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
        owner = f"{socket.gethostname()[:20]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.outbox = Outbox(self._store, owner)
        self.metrics = Metrics(self.outbox, CHANNELS, version, reloaded)
        self._templates = self._read_templates(settings)
        self._routing = routing_of(settings)
        self._workers = self._hire(settings)
        self._stopping = threading.Event()
        self._keepers = [
            threading.Thread(target=self._every, args=(_PRUNE_SECONDS, self._prune), name="prune", daemon=True),
            threading.Thread(
                target=self._every, args=(_FALLBACK_SECONDS, self._hand_over), name="fallback", daemon=True
            ),
            threading.Thread(
                target=self._every, args=(_BALANCE_SECONDS, self._ask_balance), name="balance", daemon=True
            ),
        ]

    def start(self) -> None:
        """Starts the threads; the store is opened when it can be."""
        self._store.start()
        try:
            self.outbox.heartbeat()
        except StoreUnavailableError as error:
            log.error("store unavailable, webhooks are answered 503 until it is there", error=str(error))  # noqa: TRY400 - the operator's trouble, no fault of ours
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

    def accept(self, body: bytes) -> Accepted:
        """Stores what Alertmanager posted; raises InvalidPayloadError or StoreUnavailableError."""
        now = self._clock()
        try:
            notification = parse(body)
            accepted = self.outbox.add(
                notification,
                routing.planner(notification, self._routing, now),
                now=now,
                dedup_window=self.settings.dedup_window,
                give_up_after=self.settings.retry.give_up_after,
            )
        except InvalidPayloadError as error:
            self.metrics.posted("invalid")
            log.warning("webhook refused", error=str(error)[:300])
            raise
        except StoreUnavailableError as error:
            self.metrics.posted("unavailable")
            log.warning("webhook not stored", error=str(error))
            raise
        self.metrics.posted("duplicate" if accepted.duplicate else "accepted")
        for channel in accepted.suppressed:
            self.metrics.settled(channel, "suppressed")
        if accepted.deliveries:
            self._workers.wake()
        return accepted

    def retry(self, delivery_id: int) -> bool | None:
        """As Outbox.retry."""
        done = self.outbox.retry(delivery_id, now=self._clock(), give_up_after=self.settings.retry.give_up_after)
        if done:
            self._workers.wake()
        return done

    def ready(self) -> str | None:
        """Why it cannot take notifications now, if so."""
        try:
            self.outbox.heartbeat()
        except StoreUnavailableError:
            return "the store is unavailable"
        return None

    def render(self, claim: Claim, settings: ReceiverSettings) -> Message:
        """A claim's message in its channel's words."""
        told = messages.story(
            claim.notification,
            locale=claim.locale,
            zone=settings.group_zone(claim.audience),
            digest="held" if claim.merged else "",
            instead_of=claim.instead_of,
        )
        return Message(
            id=f"coldchain.{_digest(str(claim.created_at))}.{claim.id}",
            thread=f"coldchain.{claim.thread}",
            severity=told.severity,
            firing=told.firing,
            parts=worded(self._templates, told, claim.channel, claim.locale),
        )

    def _read_templates(self, settings: ReceiverSettings) -> messages.Templates:
        def failed(channel: str, locale: str, error: Exception) -> None:
            self.metrics.template_failed(channel)
            words = f"{type(error).__name__}: {error}"
            log.error("template failed, the built-in one is used", channel=channel, locale=locale, error=words)

        return messages.Templates(settings.templates_dir, failed=failed)

    def _hire(self, settings: ReceiverSettings) -> Workers:
        def carrier(open_channel: Callable[[], Channel], workers: int, pause: timedelta = timedelta(0)) -> Carrier:
            return Carrier(open_channel, lambda claim: self.render(claim, settings), workers, pause)

        carriers: Mapping[str, Carrier] = {
            "email": carrier(lambda: Email(settings.email), settings.email.workers),
            "slack": carrier(lambda: Slack(settings.slack), settings.slack.workers, settings.slack.pause),
            "sms": carrier(lambda: Sms(settings.sms), settings.sms.workers),
        }
        on = {name: carrier for name, carrier in carriers.items() if not settings.missing[name]}
        policy = RetryPolicy(settings.retry.first, settings.retry.longest)
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
            log.warning("nothing handed to other channels", error=str(error))

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


def worded(templates: messages.Templates, told: messages.Story, channel: str, locale: str) -> dict[str, str]:
    """A story in a channel's words, as much of it as the channel takes."""
    if channel == "slack":
        return templates.render(told, channel, locale, fits=slack_channel.fits, escape=slack_channel.escape)
    return templates.render(told, channel, locale)


def _tell_channels(settings: ReceiverSettings) -> None:
    for name, missing in settings.missing.items():
        if missing:
            log.warning("channel is off", channel=name, not_set=", ".join(missing))
    for place, text in odd(settings):
        log.warning("setting is odd", setting=".".join(map(str, place)), problem=text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
