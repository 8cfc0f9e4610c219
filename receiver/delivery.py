"""Claim, send, finish: each channel's own workers at its own pace, and the decision when to try again."""

from __future__ import annotations

import contextlib
import functools
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import structlog

from receiver.channels import Channel, DeliveryError, Doubt, Message, Outcome
from receiver.digest import BY_GROUP, Gathering
from receiver.notification import masked
from receiver.outbox import Claim, Outbox, Settlement
from receiver.store import StoreUnavailableError
from receiver.threads import undying

__all__ = ["Carrier", "Observer", "RetryPolicy", "Workers", "next_attempt", "settle"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 2.0  # how soon a delivery is found that another process has stored
_GATHER_SECONDS = 0.02  # while some are being sent others come: to claim a few costs nearly as much as to claim many
_STORE_PAUSE_SECONDS = 1.0
_RENEW_SECONDS = 4.0
_RENEWAL_PATIENCE_SECONDS = 1.0
_SET_BACK = timedelta(seconds=5)  # by less nobody waits long, and a clock that is corrected little by little never is


@dataclass(frozen=True)
class RetryPolicy:
    """Pauses that grow from `first` by doubling up to `longest`, each by up to `jitter` shorter or longer."""

    first: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(minutes=10)
    jitter: float = 0.2


def next_attempt(
    attempts: int, error: DeliveryError, now: datetime, *, give_up_at: datetime, policy: RetryPolicy, chance: float
) -> datetime | None:
    """When to try again after `attempts` failed ones, or None: never. `chance` is a random number from 0 to 1.

    A peer's Retry-After is kept to the letter. The last attempt falls on `give_up_at` itself.
    """
    if error.permanent or now >= give_up_at:
        return None
    if error.retry_after is not None:
        asked = now + error.retry_after
        return asked if asked <= give_up_at else None
    # 2^30 seconds are 34 years: the exponent is bounded before it becomes a number that timedelta cannot hold
    pause: timedelta = min(policy.longest, policy.first * 2 ** min(attempts - 1, 30))
    return min(now + pause * (1 + policy.jitter * (2 * chance - 1)), give_up_at)


def settle(
    claim: Claim, outcome: Outcome | DeliveryError, now: datetime, *, policy: RetryPolicy, chance: float
) -> Settlement:
    """What an attempt's outcome makes of the delivery and of each of its recipients."""
    states = {recipient.position: recipient.state for recipient in claim.recipients}
    changed: dict[int, tuple[str, str | None]] = {}
    references: dict[int, str] = {}
    failed: list[tuple[int, DeliveryError]] = []
    errors: list[DeliveryError] = []
    for recipient in claim.recipients:
        if recipient.state != "waiting":
            continue
        error = outcome if isinstance(outcome, DeliveryError) else outcome[recipient.address]
        if not isinstance(error, DeliveryError):
            changed[recipient.position] = ("delivered", None)
            if error is not None:
                references[recipient.position] = error
            continue
        errors.append(error)
        if error.permanent:
            changed[recipient.position] = ("refused", str(error))
        else:
            failed.append((recipient.position, error))
    unanswered = claim.unanswered_since
    if unanswered is None and any(error.uncertain for error in errors):
        unanswered = claim.claimed_at
    again = _earliest(
        next_attempt(claim.attempts + 1, error, now, give_up_at=claim.give_up_at, policy=policy, chance=chance)
        for _, error in failed
    )
    for position, error in failed:
        given_up = "refused" if unanswered is None else "uncertain"
        changed[position] = ("waiting" if again is not None else given_up, str(error))
    states |= {position: state for position, (state, _) in changed.items()}
    return Settlement(
        state=_state(set(states.values())),
        recipients=changed,
        references=references,
        next_attempt_at=again,
        error=_words(errors),
        unanswered_since=unanswered if again is not None else None,
    )


def _earliest(times: Iterator[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None)


def _state(states: set[str]) -> str:
    if "waiting" in states:
        return "retrying"
    if states == {"delivered"}:
        return "delivered"
    if "delivered" in states:
        return "partial"
    return "uncertain" if "uncertain" in states else "failed"


def _words(errors: list[DeliveryError]) -> str | None:
    return "; ".join(dict.fromkeys(str(error) for error in errors)) or None


@dataclass(frozen=True)
class Carrier:
    """A channel in force: how a worker's own instance is made, how a claim becomes its message, and its pace."""

    open: Callable[[], Channel]
    render: Callable[[Claim], Message]
    workers: int = 1
    pause: timedelta = timedelta(0)
    """Between two messages to the same recipient."""
    gathering: Gathering = BY_GROUP
    """When several become one message."""


class Observer:
    """What the workers tell of themselves; the metrics override it."""

    def attempted(self, claim: Claim, settlement: Settlement, outcome: Outcome | DeliveryError, now: datetime) -> None:
        """An attempt was made and noted."""


@dataclass(frozen=True)
class _Task:
    """A claim and its message, or why there is none."""

    claim: Claim
    message: Message | DeliveryError


@dataclass
class _Sent:
    """An attempt that was made, and its being noted."""

    claim: Claim
    outcome: Outcome | DeliveryError
    settlement: Settlement
    at: datetime
    noted: Future[None]


class _Line:
    """What a channel's threads share."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.pace = _Pace(carrier.pause)
        self.wake = threading.Event()
        """Set when there may be something to claim."""
        self.claimed: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self.looked_at: datetime | None = None
        self.more = False
        """Whether the last look found as many as there was room for."""
        self.open = 0
        """How many claims wait or are being sent."""
        self._lock = threading.Lock()

    def look(self) -> None:
        """Says that there may be something to claim, where there is room for it."""
        if self.room():
            self.wake.set()

    def room(self) -> int:
        """How many deliveries to claim now. Where each is as good as another, some wait so that no worker does."""
        workers, gathering = self.carrier.workers, self.carrier.gathering
        with self._lock:
            if self.carrier.pause or gathering.rate is not None:
                return 1 if self.open < workers else 0
            return 4 * workers - self.open if self.open <= 2 * workers else 0

    def changed(self, by: int) -> None:
        """Counts claims that came, or one that is done with."""
        with self._lock:
            self.open += by

    @contextlib.contextmanager
    def freed_by_a_fault(self) -> Iterator[None]:
        """What a fault of ours keeps from being noted stays claimed, lest it be sent again and again; others go on."""
        try:
            yield
        except StoreUnavailableError:
            raise
        except Exception:
            self.changed(-1)
            raise


class Workers:
    """The threads that deliver: for each channel one that claims and some that send. `start` and `stop` once each."""

    def __init__(
        self,
        outbox: Outbox,
        carriers: Mapping[str, Carrier],
        policy: RetryPolicy,
        observer: Observer,
        *,
        only: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`only` is the one notification to deliver: each of its deliveries that is due, and then no more."""
        self._outbox = outbox
        self._only = only
        self._policy = policy
        self._observer = observer
        self._clock = clock
        self._stopping = threading.Event()
        self._lines = {name: _Line(carrier) for name, carrier in carriers.items()}
        self._taken: dict[int, Claim] = {}  # by the delivery's number: claimed, and not begun yet
        self._sending: dict[int, Claim] = {}  # by the claim's identity: begun, and not noted yet
        self._store_gone = False
        self._threads = [
            undying(f"{name}-{number}", functools.partial(work, name), self._stopping)
            for name, carrier in carriers.items()
            for number, work in enumerate([self._claim_all, *[self._send_all] * carrier.workers])
        ]
        self._renewing = undying("lease", self._renew, self._stopping)
        self._leases = threading.Lock()
        self._given_back = threading.Event()

    def start(self) -> None:
        """Starts every channel's threads."""
        for thread in (*self._threads, self._renewing):
            thread.start()

    def wake(self) -> None:
        """Says that there is something new, so that nobody waits for the next look."""
        for line in self._lines.values():
            line.look()

    def retire(self) -> None:
        """Takes on nothing more; what is being sent is finished without anyone waiting for it."""
        self._stopping.set()
        for line in self._lines.values():
            line.wake.set()

    def stop(self, *, within: timedelta) -> None:
        """Takes on nothing more, waits for what is being sent, and gives back what is not done in time."""
        self.retire()
        self._join(within)
        begun, untouched = self._begun(), list(self._taken.copy().values())
        if begun:
            log.warning("stopped while sending: to be sent again", deliveries=[claim.id for claim in begun])
        self._given_back.set()
        if not (begun or untouched):
            return
        # a renewal that is on its way would take back what is given back after it
        if self._leases.acquire(timeout=_RENEWAL_PATIENCE_SECONDS):
            self._give_back(begun, untouched)
            self._leases.release()
        else:
            log.warning("deliveries not given back, their lease will end", error="the store does not answer")

    def finish(self, *, within: timedelta) -> None:
        """For those of one notification: waits until there is no more to do, and stops."""
        self._join(within)
        self.stop(within=timedelta(0))

    def _join(self, within: timedelta) -> None:
        """Waits for those that claim and send; the one that renews leases goes on."""
        deadline = time.monotonic() + within.total_seconds()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _claim_all(self, name: str) -> None:
        line = self._lines[name]
        while not self._stopping.is_set():
            try:
                room = line.room()
                claims = self._claim(name, room) if room else []
                self._store_is_there()
                if self._only is not None and room and not claims and not line.open:
                    break
                if room and not claims:
                    self._wait(name)
                elif not claims:
                    line.wake.wait(_POLL_SECONDS)
                    line.wake.clear()
                elif 1 < room != len(claims):
                    self._stopping.wait(_GATHER_SECONDS)
            except StoreUnavailableError as error:
                self._store_is_gone(error)
                if self._only is not None:
                    break
                self._stopping.wait(_STORE_PAUSE_SECONDS)
        for _ in range(line.carrier.workers):
            line.claimed.put(None)

    def _send_all(self, name: str) -> None:
        line = self._lines[name]
        with contextlib.closing(line.carrier.open()) as channel:
            self._send_claimed(line, channel)

    def _send_claimed(self, line: _Line, channel: Channel) -> None:
        """Sends the next while the last is being noted, but none before that one is: a kill leaves two in doubt."""
        last: _Sent | None = None
        while True:
            try:
                task = line.claimed.get(block=last is None)
            except queue.Empty:
                self._see_noted(last, line)
                last = None
                continue
            if task is None:
                break
            claim = task.claim
            if self._stopping.is_set():
                self._give_back([], [claim])
                continue
            self._sending[id(claim)] = claim
            del self._taken[claim.id]
            with line.freed_by_a_fault():
                outcome, now = _attempt(task, channel), self._clock()
                sent = self._note(claim, outcome, now, line)
            self._see_noted(last, line)
            last = sent
        self._see_noted(last, line)

    def _store_is_gone(self, error: StoreUnavailableError) -> None:
        """Said once, not once a second by every worker."""
        if not self._store_gone:
            self._store_gone = True
            log.error("store unavailable: nothing is delivered until it is back", error=str(error))

    def _store_is_there(self) -> None:
        if self._store_gone:
            self._store_gone = False
            log.info("store available again")

    def _claim(self, name: str, room: int) -> list[Claim]:
        line, now = self._lines[name], self._clock()
        if line.looked_at is not None and now < line.looked_at - _SET_BACK:
            log.warning("the clock was set back, what waits is tried now", channel=name, by=str(line.looked_at - now))
            line.pace.forget()
            self._outbox.make_due(name, now=now)
        line.looked_at = now
        claims = self._outbox.claim(
            name,
            now=now,
            limit=room,
            busy_lanes=line.pace.busy(now),
            held=self._held(),
            only=self._only,
            gathering=line.carrier.gathering,
            look_first=not line.more,
        )
        line.more = len(claims) == room > 1
        line.changed(len(claims))
        for claim in claims:
            line.pace.used(claim.lane, now)
            self._taken[claim.id] = claim
        for claim in claims:  # here and not by each worker: one after the other they take half of the time
            line.claimed.put(_Task(claim, _safely(claim, functools.partial(line.carrier.render, claim))))
        return claims

    def _note(self, claim: Claim, outcome: Outcome | DeliveryError, now: datetime, line: _Line) -> _Sent:
        line.pace.rest(claim.lane, now, _asked_pause(outcome))
        settlement = settle(claim, outcome, now, policy=self._policy, chance=random.random())  # noqa: S311 - no secret
        return _Sent(claim, outcome, settlement, now, self._put_down(claim, settlement, now, line))

    def _put_down(self, claim: Claim, settlement: Settlement, now: datetime, line: _Line) -> Future[None]:
        noted = self._outbox.finish(claim, settlement, now=now)
        noted.add_done_callback(lambda noted: self._let_go(claim, line) if noted.exception() is None else None)
        return noted

    def _let_go(self, claim: Claim, line: _Line) -> None:
        """For one that is noted, which its worker may see much later, or that will not be by this process."""
        if self._sending.pop(id(claim), None) is not None:
            line.changed(-1)
            line.look()  # there is room, and the group's next message may go now

    def _see_noted(self, sent: _Sent | None, line: _Line) -> None:
        """Returns when it is noted, or will not be by this process."""
        if sent is None:
            return
        try:
            with line.freed_by_a_fault():
                self._wait_noted(sent, line)
        except StoreUnavailableError as error:
            self._store_is_gone(error)
        else:
            self._observer.attempted(sent.claim, sent.settlement, sent.outcome, sent.at)
            _tell(sent.claim, sent.settlement)
        self._let_go(sent.claim, line)

    def _wait_noted(self, sent: _Sent, line: _Line) -> None:
        told = ""
        while True:
            try:
                return sent.noted.result()
            except StoreUnavailableError as error:
                # What was sent must be noted, or it is sent again: so this worker does nothing else.
                if str(error) != told:
                    told = str(error)
                    log.warning("outcome not noted yet", delivery=sent.claim.id, error=told)
                if self._stopping.wait(_STORE_PAUSE_SECONDS):
                    raise
                sent.noted = self._put_down(sent.claim, sent.settlement, sent.at, line)

    def _wait(self, name: str) -> None:
        """Until something is due, or may be."""
        line, now = self._lines[name], self._clock()
        due = self._outbox.next_due(name)
        ready = line.pace.next_ready(now)
        seconds = _POLL_SECONDS
        if ready is not None:
            seconds = min(seconds, (ready - now).total_seconds())
        if due is not None and (due > now or ready is None):
            seconds = min(seconds, (due - now).total_seconds())
        line.wake.wait(max(seconds, 0.01))
        line.wake.clear()

    def _give_back(self, begun: Sequence[Claim], untouched: Sequence[Claim]) -> None:
        try:
            self._outbox.release(begun, untouched, now=self._clock())
        except StoreUnavailableError as error:
            log.warning("deliveries not given back, their lease will end", error=str(error))
        for claim in untouched:
            self._taken.pop(claim.id, None)

    def _renew(self) -> None:
        """Its own leases alone, and after a retirement those of what is still being sent: any other is to end."""
        while not self._stopping.wait(_RENEW_SECONDS):
            self._renew_these(self._held())
        while begun := self._begun():
            self._renew_these([claim.id for claim in begun])
            if self._given_back.wait(_RENEW_SECONDS):
                break

    def _begun(self) -> list[Claim]:
        return list(self._sending.copy().values())

    def _held(self) -> list[int]:
        """The deliveries that are claimed and not noted yet."""
        return [*self._taken.copy(), *[claim.id for claim in self._begun()]]

    def _renew_these(self, deliveries: Sequence[int]) -> None:
        try:
            with self._leases:
                if deliveries and not self._given_back.is_set():
                    self._outbox.renew(deliveries, now=self._clock())
        except StoreUnavailableError as error:
            log.warning("leases not renewed", error=str(error))


class _Pace:
    """Which lanes of a channel must rest, and until when."""

    def __init__(self, pause: timedelta) -> None:
        self._lock = threading.Lock()
        self._pause = pause
        self._ready: dict[str, datetime] = {}

    def used(self, lane: str, now: datetime) -> None:
        if self._pause:
            with self._lock:
                self._ready[lane] = now + self._pause

    def rest(self, lane: str, now: datetime, asked: timedelta) -> None:
        """From the end of a message on: how long it took to be sent is not known to the peer."""
        with self._lock:
            self._ready[lane] = now + max(self._pause, asked)

    def forget(self) -> None:
        with self._lock:
            self._ready.clear()

    def busy(self, now: datetime) -> list[str]:
        with self._lock:
            return [lane for lane, ready in self._ready.items() if ready > now]

    def next_ready(self, now: datetime) -> datetime | None:
        with self._lock:
            return min((ready for ready in self._ready.values() if ready > now), default=None)


def _asked_pause(outcome: Outcome | DeliveryError) -> timedelta:
    """The longest Retry-After among an outcome's errors."""
    results = [outcome] if isinstance(outcome, DeliveryError) else outcome.values()
    asked = [one.retry_after for one in results if isinstance(one, DeliveryError) and one.retry_after is not None]
    return max(asked, default=timedelta(0))


def _attempt(task: _Task, channel: Channel) -> Outcome | DeliveryError:
    claim, message = task.claim, task.message
    if isinstance(message, DeliveryError):
        return message
    doubt = Doubt(claim.unanswered_since, claim.others) if claim.unanswered_since is not None else None
    waiting = [recipient.address for recipient in claim.recipients if recipient.state == "waiting"]
    if not waiting:  # the late answer to an earlier attempt: it has reached everyone
        return {}
    return _safely(claim, lambda: channel.send(message, waiting, doubt=doubt))


def _safely(claim: Claim, work: Callable[[], T]) -> T | DeliveryError:
    try:
        return work()
    except DeliveryError as error:
        return error
    except Exception as error:  # the loop that must not die: a fault of ours delays one delivery, and is told
        log.exception("fault while delivering", delivery=claim.id, channel=claim.channel)
        return DeliveryError(f"fault in the receiver: {type(error).__name__}")


def _tell(claim: Claim, settlement: Settlement) -> None:
    about = {
        "delivery": claim.id,
        "notification": claim.notification_id,
        "channel": claim.channel,
        "attempt": claim.attempts + 1,
    }
    error = settlement.error or ""
    for recipient in claim.recipients:
        error = error.replace(recipient.address, masked(recipient.address))
    if settlement.state == "delivered":
        log.info("delivered", **about)
    elif settlement.state == "retrying":
        log.warning("to be tried again", **about, at=str(settlement.next_attempt_at), error=error)
    else:
        log.error("not delivered", **about, state=settlement.state, error=error)
