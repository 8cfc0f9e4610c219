"""Slows whoever guesses credentials: one attempt at a time for an address, a longer pause after each that fails."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

__all__ = ["Guessing", "TooManyGuessesError"]

FIRST_SECONDS = 0.2
"""After the first failure; it doubles with each further one."""

LONGEST_SECONDS = 5.0
"""Twelve guesses a minute, and still within the time-out of a scrape whose password is out of date."""

FORGOTTEN_AFTER_SECONDS = 300.0
"""Without a failure."""

WAITING = 8
"""Attempts of one address at once; more are refused unseen."""

ADDRESSES = 4096
"""Remembered; of more, those that failed longest ago are forgotten."""


class TooManyGuessesError(Exception):
    """So many of this address wait already that no other is looked at."""


@dataclass
class _Guesser:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    failures: int = 0
    failed_at: float = 0.0


class Guessing:
    """Lives on the event loop. Behind a proxy all callers share the proxy's address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Nobody is kept waiting any more: the server is about to stop."""
        self._ending.set()

    async def attempt(self, host: str, fits: Callable[[], Awaitable[bool]]) -> bool:
        """What `fits` finds, in this address's turn; after a failure the turn is given up only when the pause is over.

        Raises TooManyGuessesError, without having asked.
        """
        key = network(host)
        guesser = self._guessers.setdefault(key, _Guesser())
        if guesser.waiting >= WAITING:
            raise TooManyGuessesError
        guesser.waiting += 1
        try:
            async with guesser.turn:
                if await fits():
                    return True
                await self._pause(self._failed(guesser))
                return False
        finally:
            guesser.waiting -= 1
            self._tidy(key, guesser)

    def _failed(self, guesser: _Guesser) -> float:
        """Counts a failure; how many seconds to pause for it."""
        now = self._clock()
        if now - guesser.failed_at > FORGOTTEN_AFTER_SECONDS:
            guesser.failures = 0
        guesser.failures, guesser.failed_at = guesser.failures + 1, now
        return min(FIRST_SECONDS * 2.0 ** min(guesser.failures - 1, 16), LONGEST_SECONDS)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _tidy(self, key: str, guesser: _Guesser) -> None:
        if guesser.waiting:
            return
        if guesser.failures:
            self._guessers.move_to_end(key)
        else:
            del self._guessers[key]
        idle = (old for old, one in self._guessers.items() if not one.waiting)
        for old in list(itertools.islice(idle, max(0, len(self._guessers) - ADDRESSES))):
            del self._guessers[old]


def network(host: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 of an IPv6 one, which a host has to itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
