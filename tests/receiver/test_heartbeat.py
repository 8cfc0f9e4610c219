"""When the heartbeat is missing, when it is back, who says so, and what is heard outside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr

from receiver.carriers import render
from receiver.heartbeat import ALARM_NAME, Verdict, Watch, decide, in_zone
from receiver.messages import Templates
from receiver.outbox import Accepted, Filter, NotificationRecord, Outbox, Told, Watched
from receiver.settings import HeartbeatSettings, ReceiverSettings
from receiver.store import Store
from tests.outside import answering
from tests.receiver.making import DAY, NOW, ROUTING, WINDOW, alert, claim, notification
from tests.waiting import until

MINUTE = timedelta(minutes=1)
MISSING = 10 * MINUTE
LONG_AGO = NOW - timedelta(days=3)


def told(at: datetime, *, firing: bool = True) -> Told:
    return Told(1, at, firing)


@pytest.mark.parametrize(
    ("heard", "since", "alarm", "required", "expected"),
    [
        pytest.param(None, LONG_AGO, None, False, None, id="a fresh install is quiet"),
        pytest.param(None, LONG_AGO, None, True, Verdict(True, LONG_AGO + MISSING), id="unless one is required"),
        pytest.param(None, NOW - 9 * MINUTE, None, True, None, id="which has its time to come"),
        pytest.param(NOW - MINUTE, LONG_AGO, None, False, None, id="it beats"),
        pytest.param(NOW - MISSING + timedelta.resolution, LONG_AGO, None, False, None, id="just not missing"),
        pytest.param(NOW - MISSING, LONG_AGO, None, False, Verdict(True, NOW), id="just missing"),
        pytest.param(NOW - DAY, LONG_AGO, None, False, Verdict(True, NOW - DAY + MISSING), id="long missing"),
        pytest.param(NOW - DAY, LONG_AGO, told(NOW - DAY), False, None, id="which is said once"),
        pytest.param(NOW - DAY, NOW - MINUTE, None, False, None, id="nobody listened until a minute ago"),
        pytest.param(
            NOW - DAY, NOW - MISSING, None, False, Verdict(True, NOW - DAY + MISSING), id="nor came it after that"
        ),
        pytest.param(NOW - MINUTE, LONG_AGO, told(NOW - DAY), False, Verdict(False, NOW - MINUTE), id="back"),
        pytest.param(NOW - DAY, NOW - MINUTE, told(NOW - DAY), False, None, id="a restart of ours is no heartbeat"),
        pytest.param(
            NOW - DAY, LONG_AGO, told(LONG_AGO, firing=False), False, Verdict(True, NOW - DAY + MISSING), id="again"
        ),
        pytest.param(NOW, LONG_AGO, told(LONG_AGO, firing=False), False, None, id="back already"),
        pytest.param(NOW - MINUTE, LONG_AGO, told(LONG_AGO), True, Verdict(False, NOW - MINUTE), id="heard at last"),
        pytest.param(NOW + MINUTE, LONG_AGO, None, False, None, id="a clock that was set back"),
    ],
)
def test_decision(
    heard: datetime | None, since: datetime, alarm: Told | None, required: bool, expected: Verdict | None
) -> None:
    found = decide(Watched(heard, since, alarm), NOW, missing_after=MISSING, required=required)
    assert found == expected


# What the store remembers


def test_listening_goes_on_over_a_restart_and_begins_anew_after_a_long_pause(store: Store) -> None:
    one, two = Outbox(store, "one"), Outbox(store, "two")
    assert one.watch("f", now=NOW, patience=MINUTE).listening_since == NOW
    assert two.watch("f", now=NOW + MINUTE, patience=MINUTE).listening_since == NOW
    later = NOW + 3 * MINUTE
    assert one.watch("f", now=later, patience=MINUTE).listening_since == later


def test_last_word_on_the_alarm_is_known(outbox: Outbox) -> None:
    assert outbox.watch("f1", now=NOW, patience=MINUTE).alarm is None
    for told_of in (alert(), alert(resolved_after=MINUTE)):
        outbox.add(notification(told_of), lambda _: [], now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    assert outbox.watch("f1", now=NOW, patience=MINUTE).alarm == Told(2, NOW, firing=False)


def test_clock_that_was_set_back_does_not_keep_a_dead_heartbeat_alive(store: Store) -> None:
    world = World(Outbox(store, "one"))
    world.now = NOW + DAY
    world.watch.look()
    world.beat()
    world.now = NOW
    world.beat()
    world.wait(11 * MINUTE)
    (alarm,) = world.alarms()
    assert alarm.firing


# Looking


class World:
    """A watch on a store, and a clock to turn."""

    def __init__(self, outbox: Outbox, **heartbeat: Any) -> None:
        self.outbox = outbox
        self.now = NOW
        self.told: list[Accepted] = []
        self.settings = ReceiverSettings(heartbeat=HeartbeatSettings(**heartbeat))
        self.watch = self.another()
        self.watch.look()

    def another(self) -> Watch:
        return Watch(self.outbox, lambda: self.settings, lambda: ROUTING, self.told.append, clock=lambda: self.now)

    def beat(self) -> None:
        beat = alert("w", name="ColdChainWatchdog", severity="none", annotations={"runbook_url": "http://runbook/"})
        self.outbox.add(notification(beat), lambda _: [], now=self.now, dedup_window=WINDOW, give_up_after=DAY)

    def wait(self, time: timedelta) -> None:
        """Looks every minute, as a watch does."""
        end = self.now + time
        while self.now < end:
            self.now += MINUTE
            self.watch.look()

    def alarms(self) -> list[NotificationRecord]:
        """The oldest first."""
        found = [one for one in self.outbox.history(Filter()) if one.source == "heartbeat"]
        return [one for record in reversed(found) if (one := self.outbox.notification(record.id)) is not None]


def test_alarm_goes_to_every_channel_once_and_so_does_its_end(outbox: Outbox) -> None:
    world = World(outbox)
    world.beat()
    world.wait(9 * MINUTE)
    assert world.alarms() == []
    world.wait(30 * MINUTE)
    (alarm,) = world.alarms()
    assert (alarm.title, alarm.severity, alarm.firing) == ("모니터링 중단", "critical", True)
    assert sorted(delivery.channel for delivery in alarm.deliveries) == ["email", "slack", "sms"]
    world.beat()
    world.wait(9 * MINUTE)
    _, end = world.alarms()
    assert (end.title, end.firing) == ("모니터링 중단", False)
    assert sorted(delivery.channel for delivery in end.deliveries) == ["email", "slack", "sms"]
    assert [accepted.deliveries for accepted in world.told] == [3, 3]


def test_alarm_says_what_was_last_heard_and_when(outbox: Outbox) -> None:
    world = World(outbox)
    outbox.add(notification(), lambda _: [], now=NOW - MINUTE, dedup_window=WINDOW, give_up_after=DAY)
    world.beat()
    world.wait(10 * MINUTE)
    (record,) = world.alarms()
    assert record.notification is not None
    (alarm,) = record.notification.alerts
    assert dict(alarm.labels) == {"alertname": ALARM_NAME, "severity": "critical", "category": "monitoring"}
    assert alarm.starts_at == NOW + MISSING
    assert alarm.annotations["description"] == (
        "모니터링 정상 동작 신호가 10분 동안 도착하지 않았습니다. Prometheus나 Alertmanager가 멈췄거나 수신기와의 "
        "연결이 끊긴 것으로 보입니다. 신호가 다시 도착할 때까지는 다른 이상이 생겨도 알림이 오지 않을 수 있습니다.\n\n"
        "마지막 신호: 2026-01-27 22:00:00 KST\n"
        "마지막으로 받은 알림: 2026-01-27 21:59:00 KST [CRITICAL] CPU 사용률 높음"
    )
    assert alarm.annotations["description_en"].endswith("[CRITICAL] CPU 사용률 높음")
    assert alarm.annotations["runbook_url"] == "http://runbook/"


def test_alarm_tells_its_times_by_the_readers_clock(outbox: Outbox) -> None:
    world = World(outbox)
    outbox.add(notification(), lambda _: [], now=NOW - MINUTE, dedup_window=WINDOW, give_up_after=DAY)
    world.beat()
    world.wait(10 * MINUTE)
    (record,) = world.alarms()
    assert record.notification is not None
    settings = ReceiverSettings(groups={"branch": {"time_zone": "America/New_York"}})
    told_them = claim(audience="branch", notification=record.notification)
    text = render(told_them, settings, Templates()).parts["text"]
    assert text.splitlines()[4:6] == [
        "마지막 신호: 2026-01-27 08:00:00 EST",
        "마지막으로 받은 알림: 2026-01-27 07:59:00 EST [CRITICAL] CPU 사용률 높음",
    ]
    told = in_zone(record.notification, settings.zone, ZoneInfo("America/New_York"))
    assert "Last heartbeat: 2026-01-27 08:00:00 EST\n" in told.alerts[0].annotations["description_en"]


@pytest.mark.parametrize("annotations", [{}, {"times": "noon"}, {"times": "2026-01-27T13:00:00+00:00"}])
def test_alert_that_is_only_called_like_the_alarm_is_told_as_it_is(annotations: dict[str, str]) -> None:
    told = notification(alert(name=ALARM_NAME, annotations=annotations))
    assert in_zone(told, ZoneInfo("Asia/Seoul"), ZoneInfo("UTC")) == told


def test_required_heartbeat_that_never_came_is_missing(outbox: Outbox) -> None:
    world = World(outbox, required=True, missing_after="630s")
    world.wait(12 * MINUTE)
    (record,) = world.alarms()
    assert record.notification is not None
    assert "630초 동안" in record.notification.alerts[0].annotations["description"]
    assert "마지막 신호: 없음" in record.notification.alerts[0].annotations["description"]


def test_fresh_install_is_quiet(outbox: Outbox) -> None:
    world = World(outbox)
    world.wait(60 * MINUTE)
    assert world.alarms() == []


def test_alarm_that_was_raised_is_known_after_a_restart(outbox: Outbox) -> None:
    world = World(outbox)
    world.beat()
    world.wait(11 * MINUTE)
    world.watch = world.another()
    world.wait(40 * MINUTE)
    assert len(world.alarms()) == 1


def test_of_two_receivers_that_decide_at_once_one_tells(store: Store) -> None:
    worlds = [World(Outbox(store, name)) for name in ("one", "two")]
    worlds[0].beat()
    worlds[0].wait(9 * MINUTE)
    together = threading.Barrier(2)

    def look(world: World) -> None:
        world.now = NOW + 10 * MINUTE
        together.wait()
        world.watch.look()

    threads = [threading.Thread(target=look, args=(world,)) for world in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worlds[0].alarms()) == 1
    assert sum(len(world.told) for world in worlds) == 1


# Pinging


@dataclass
class Outside:
    """An outside watchdog: what it is asked, and what it answers."""

    url: str = ""
    status: int = 200
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, _headers: object) -> tuple[int, bytes]:
        self.asked.append(path)
        return self.status, b""


@pytest.fixture
def outside() -> Iterator[Outside]:
    made = Outside()
    with answering(made.answer) as url:
        made.url = f"{url}/ping/very-secret"
        yield made


def pinging(outbox: Outbox, outside: Outside) -> World:
    return World(outbox, ping_url=SecretStr(outside.url))


def test_outside_watchdog_is_pinged_while_the_heartbeat_is_heard(outbox: Outbox, outside: Outside) -> None:
    world = pinging(outbox, outside)
    asked = []
    steps: list[Callable[[], None]] = [
        lambda: None,
        world.beat,
        lambda: world.wait(9 * MINUTE),
        lambda: world.wait(MINUTE),
        world.beat,
    ]
    for step in steps:
        step()
        world.watch.look()
        world.watch.ping()
        asked.append(len(outside.asked))
    assert asked == [0, 1, 2, 2, 3]
    assert set(outside.asked) == {"/ping/very-secret"}


def test_failing_ping_is_logged_once_and_without_its_address(outbox: Outbox, capfd: pytest.CaptureFixture[str]) -> None:
    outside = Outside()
    with answering(outside.answer) as outside.url:
        world = pinging(outbox, outside)
        world.beat()
        world.watch.look()
        for status in (500, 500, 200, 200):
            outside.status = status
            world.watch.ping()
    world.watch.ping()
    told = [line for line in "".join(capfd.readouterr()).splitlines() if "outside" in line]
    assert [line.split("]")[1].strip() for line in told] == [
        "outside watchdog not reached   error='answered 500'",
        "outside watchdog reached again",
        "outside watchdog not reached   error=ConnectionError",
    ]


def test_pings_go_on_until_they_are_to_stop(outbox: Outbox, outside: Outside) -> None:
    world = pinging(outbox, outside)
    world.settings = ReceiverSettings(
        heartbeat=HeartbeatSettings(ping_url=SecretStr(outside.url), ping_interval=timedelta(seconds=0.01))
    )
    world.beat()
    world.watch.look()
    stopping = threading.Event()
    thread = threading.Thread(target=world.watch.run_pings, args=(stopping,))
    thread.start()
    until(lambda: len(outside.asked) > 2, "it is pinged again and again")
    stopping.set()
    thread.join(10)
    assert not thread.is_alive()
