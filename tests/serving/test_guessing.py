"""Guesses take their turn, each failure costs more time than the one before, and nobody else's."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from serving import guessing
from serving.guessing import Guessing, TooManyGuessesError, network


@dataclass
class World:
    """A clock that pauses move, rather than the test."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def guessing(self, monkeypatch: pytest.MonkeyPatch) -> Guessing:
        made = Guessing(lambda: self.now)

        async def pause(seconds: float) -> None:
            self.pauses.append(round(seconds, 3))

        monkeypatch.setattr(made, "_pause", pause)
        return made


def answer(value: bool) -> Callable[[], Awaitable[bool]]:
    async def fits() -> bool:
        return value

    return fits


def test_each_failure_costs_twice_the_time_up_to_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def story() -> None:
        made = world.guessing(monkeypatch)
        for _ in range(8):
            assert await made.attempt("192.0.2.1", answer(False)) is False

    asyncio.run(story())
    assert world.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]


def test_another_address_pays_for_its_own_failures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def story() -> None:
        made = world.guessing(monkeypatch)
        for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"):
            await made.attempt(host, answer(False))

    asyncio.run(story())
    assert world.pauses == [0.2, 0.4, 0.2, 0.2, 0.4]


@pytest.mark.parametrize(("quiet", "expected"), [(300, 0.8), (301, 0.2)])
def test_failures_are_forgotten_after_five_minutes_without_one(
    monkeypatch: pytest.MonkeyPatch, quiet: float, expected: float
) -> None:
    world = World()

    async def story() -> None:
        made = world.guessing(monkeypatch)
        await made.attempt("192.0.2.1", answer(False))
        await made.attempt("192.0.2.1", answer(False))
        assert await made.attempt("192.0.2.1", answer(True)) is True  # which forgives nothing
        world.now += quiet
        await made.attempt("192.0.2.1", answer(False))

    asyncio.run(story())
    assert world.pauses == [0.2, 0.4, expected]


def test_an_address_has_one_attempt_looked_at_at_a_time_and_few_that_wait() -> None:
    at_once, most = 0, 0

    async def story() -> list[bool | BaseException]:
        made, gate = Guessing(), asyncio.Event()

        async def fits() -> bool:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await gate.wait()
            at_once -= 1
            return True

        attempts = [asyncio.create_task(made.attempt("192.0.2.1", fits)) for _ in range(guessing.WAITING + 3)]
        await asyncio.sleep(0)
        assert await made.attempt("192.0.2.2", answer(True)) is True  # somebody else waits for none of them
        gate.set()
        return await asyncio.gather(*attempts, return_exceptions=True)

    found = asyncio.run(story())
    assert [type(one) for one in found] == [bool] * guessing.WAITING + [TooManyGuessesError] * 3
    assert most == 1


def test_what_is_remembered_is_bounded_and_the_latest_failures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "ADDRESSES", 10)
    world = World()

    async def story() -> int:
        made = world.guessing(monkeypatch)
        for number in range(100):
            await made.attempt(f"192.0.2.{number}", answer(False))
        await made.attempt("192.0.2.90", answer(False))  # the oldest of those that are left is the latest now
        await made.attempt("192.0.2.0", answer(False))
        await made.attempt("192.0.2.200", answer(True))
        for number in (92, 90, 91):
            await made.attempt(f"192.0.2.{number}", answer(False))
        return len(made._guessers)

    assert asyncio.run(story()) == 10
    assert world.pauses[100:] == [0.4, 0.2, 0.4, 0.8, 0.2]


def test_who_is_being_looked_at_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "ADDRESSES", 1)
    world = World()

    async def story() -> list[bool]:
        made, gate = world.guessing(monkeypatch), asyncio.Event()

        async def fits() -> bool:
            await gate.wait()
            return False

        slow = asyncio.create_task(made.attempt("192.0.2.1", fits))
        await asyncio.sleep(0)
        found = [await made.attempt("192.0.2.2", answer(False))]
        gate.set()
        return [*found, await slow, await made.attempt("192.0.2.1", answer(False))]

    assert asyncio.run(story()) == [False, False, False]
    assert world.pauses == [0.2, 0.2, 0.4]


def test_the_end_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "FIRST_SECONDS", 3600.0)
    monkeypatch.setattr(guessing, "LONGEST_SECONDS", 3600.0)

    async def story() -> list[bool]:
        made = Guessing()
        attempts = [asyncio.create_task(made.attempt("192.0.2.1", answer(False))) for _ in range(3)]
        await asyncio.sleep(0.01)
        made.end()
        return await asyncio.gather(*attempts)

    assert asyncio.run(story()) == [False, False, False]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_caller_is_an_address_or_a_network_of_ipv6(host: str, expected: str) -> None:
    assert network(host) == expected
