"""How much one visitor may send, and how often somebody may guess at tokens; kept in memory, and nothing is written."""

import hashlib
import ipaddress
import time
from collections.abc import Callable

CHANGES_PER_SECOND = 5.0
"""Answers of one annotator that are taken in the long run; a practised person gives one in 3-5 seconds."""
BURST = 10
"""Answers that may come at once, as after a time without a network."""
WRONG_TOKENS = 10
"""Different wrong tokens that an address may try within `WRONG_SECONDS`."""
WRONG_SECONDS = 60.0
MOST_ADDRESSES = 10_000
"""Addresses that are remembered; the oldest make room."""


class Pace:
    """Lets everybody do something so many times a second, and a few times at once."""

    def __init__(
        self, per_second: float = CHANGES_PER_SECOND, burst: int = BURST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_second, self.burst, self.clock = per_second, burst, clock
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, who: str) -> float:
        """Count one more of somebody, and return 0; or count nothing, and return the seconds until one may come."""
        now = self.clock()
        left, then = self._left.get(who, (float(self.burst), now))
        left = min(float(self.burst), left + (now - then) * self.per_second)
        allowed = left >= 1
        self._left[who] = (left - 1 if allowed else left, now)
        return 0.0 if allowed else (1 - left) / self.per_second


class Guesses:
    """Unknown tokens by the address they came from.

    One that comes again counts once: an open page whose token was revoked asks on and on, and guesses nothing.
    """

    def __init__(
        self, most: int = WRONG_TOKENS, seconds: float = WRONG_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most, self.seconds, self.clock = most, seconds, clock
        self._tried: dict[str, dict[bytes, float]] = {}

    def wait(self, address: str, token: str) -> float:
        """Seconds until a token that is not known yet will be looked at; 0 for now."""
        tried = self._recent(address)
        if _digest(token) in tried or len(tried) < self.most:
            return 0.0
        return min(tried.values()) + self.seconds - self.clock()

    def wrong(self, address: str, token: str) -> None:
        """Count a token that turned out to be nobody's."""
        tried = self._recent(address)
        tried.setdefault(_digest(token), self.clock())
        self._tried.pop(network(address), None)
        self._tried[network(address)] = tried
        while len(self._tried) > MOST_ADDRESSES:
            del self._tried[next(iter(self._tried))]

    def _recent(self, address: str) -> dict[bytes, float]:
        since = self.clock() - self.seconds
        return {token: then for token, then in self._tried.get(network(address), {}).items() if then > since}


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()  # a stranger decides how long a token is


def network(address: str) -> str:
    """What one visitor has of addresses: with IPv6, the first half of it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
