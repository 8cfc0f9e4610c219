"""The guide's `NotificationService`: any Python program tells people something, as durably as the receiver would."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from receiver import notice, settings
from receiver.audiences import routing as routing_of
from receiver.carriers import carriers, render
from receiver.delivery import Observer, RetryPolicy, Workers
from receiver.messages import Templates
from receiver.notice import Posted
from receiver.outbox import Outbox, new_owner
from receiver.store import Store, StoreUnavailableError, read_url

__all__ = ["NotificationService"]

SOURCE = "python"

# A program may be killed while it sends, and renews no lease then.
_LONGEST_ATTEMPT = timedelta(minutes=2)
_LOOK_SECONDS = 0.1
_LOCK_SECONDS = 15  # many programs may write to the same file, and none of them is Alertmanager waiting for an answer
_RECIPIENTS = {"email": "email_recipients", "sms": "sms_recipients", "slack": "slack_recipients"}


class NotificationService:
    """Stores in the receiver's database, tries the delivery itself, and leaves the rest to the receiver's workers."""

    def __init__(self, *, config_file: str | Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        """Reads the settings as the receiver does: environment, `.env`, and `config_file` for groups and routes.

        Opens nothing. Raises serving.settings.ConfigError.
        """
        self._settings = settings.load(
            environ=os.environ if environ is None else environ,
            config_file=Path(config_file) if config_file is not None else None,
        )

    def send_alert(
        self,
        title: str,
        message: str,
        level: str = "info",
        channels: Sequence[str] | None = None,
        recipients: Mapping[str, Sequence[str] | None] | None = None,
        *,
        category: str = "system",
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """What `POST /api/v1/monitoring/notify` answers: success, results, message, pending, errors, notification.

        Returns after one attempt at every delivery. `channels` None: by level. `recipients` by channel; a channel
        without any has the configured ones. Raises InvalidNoticeError naming what is wrong, KeyReusedError, and
        StoreUnavailableError where nothing could be stored, and so nothing was sent.
        """
        told = notice.read(
            {
                "title": title,
                "message": message,
                "level": level,
                "category": category,
                "channels": _listed(channels),
                **_recipients(recipients or {}),
            },
            self._settings,
        )
        with self._outbox() as outbox:
            posted = notice.post(
                told,
                outbox,
                routing_of(self._settings),
                self._settings,
                now=datetime.now(UTC),
                source=SOURCE,
                key=idempotency_key,
            )
            self._deliver(outbox, posted)
            return self._await_others(outbox, posted).document()

    @contextmanager
    def _outbox(self) -> Iterator[Outbox]:
        store = Store(read_url(self._settings.database_url.get_secret_value()), patience=_LOCK_SECONDS)
        store.start()
        try:
            yield Outbox(store, new_owner())
        finally:
            store.close()

    def _deliver(self, outbox: Outbox, posted: Posted) -> None:
        """One attempt at each delivery, all channels at once."""
        _log_as_programs_do()
        templates = Templates(self._settings.templates_dir)
        found = carriers(self._settings, lambda claim: render(claim, self._settings, templates))
        workers = Workers(
            outbox,
            {name: replace(carrier, workers=1) for name, carrier in found.items() if name in posted.plan.channels},
            RetryPolicy(self._settings.retry.first, self._settings.retry.longest),
            Observer(),
            only=posted.notification_id,
        )
        workers.start()
        workers.finish(within=_LONGEST_ATTEMPT)

    def _await_others(self, outbox: Outbox, posted: Posted) -> notice.Outcome:
        """What became of it; a receiver that was faster has a few seconds for its attempt."""
        deadline = time.monotonic() + self._settings.notify.wait.total_seconds()
        while True:
            try:
                record = outbox.notification(posted.notification_id)
            except StoreUnavailableError:
                return notice.outcome(posted, None)
            records = record.deliveries if record is not None else ()
            under_way = any(one.state == "pending" for one in records)
            if not under_way or time.monotonic() >= deadline:
                return notice.outcome(posted, records)
            time.sleep(_LOOK_SECONDS)


def _listed(channels: Sequence[str] | None) -> list[str] | None:
    if isinstance(channels, str):
        raise notice.InvalidNoticeError(f"channels: must be a list such as [{channels!r}]")
    return list(channels) if channels is not None else None


def _recipients(given: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
    unknown = sorted(set(given) - set(_RECIPIENTS))
    if unknown:
        raise notice.InvalidNoticeError(
            f"recipients: there is no channel {', '.join(unknown)}; there is email, sms and slack"
        )
    for channel, addresses in given.items():
        if isinstance(addresses, str):
            raise notice.InvalidNoticeError(f"recipients: {channel} must be a list of addresses")
    return {_RECIPIENTS[channel]: list(addresses) for channel, addresses in given.items() if addresses}


def _log_as_programs_do() -> None:
    """Into Python's own logging, where the program has not set structlog up: by itself it prints to stdout."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.stdlib.add_log_level,
                structlog.processors.format_exc_info,
                structlog.stdlib.render_to_log_kwargs,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
