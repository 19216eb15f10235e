"""Error rates of annotators, estimated beside the requests: seconds of work that no visitor should wait for."""

import threading
import time
from collections.abc import Sequence

from backflip.annotators import Answer, estimated
from backflip.error_rates import ErrorRate

SHARE = 0.1
"""Of the time, how much the estimates may take, however fast answers come."""


class Estimates:
    """The newest error rates that there are; newer answers have newer ones made, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = 0
        self._rates: dict[str, ErrorRate] = {}
        self._failed: Exception | None = None
        self._busy = False
        self._rest_until = 0.0

    def rates(self, answers: Sequence[Answer], newest: int, predicted_with: float) -> tuple[dict[str, ErrorRate], bool]:
        """The newest rates, and whether those of these answers are still to come.

        Args:
            newest: the number of the newest event behind the answers.
            predicted_with: the error rate in their `p_left`.
        """
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if newest == self._at:
                return self._rates, False
            if not self._busy and time.monotonic() >= self._rest_until:
                self._busy = True
                work = (list(answers), newest, predicted_with)
                threading.Thread(target=self._estimate, args=work, daemon=True, name="estimates").start()
            return self._rates, True

    def _estimate(self, answers: Sequence[Answer], newest: int, predicted_with: float) -> None:
        begun = time.monotonic()
        try:
            rates = estimated(answers, predicted_with)
        except Exception as error:  # noqa: BLE001 (it is raised where somebody waits for the rates)
            with self._lock:
                self._failed = error
            return
        with self._lock:
            self._at, self._rates, self._busy = newest, rates, False
            self._rest_until = time.monotonic() + (time.monotonic() - begun) * (1 / SHARE - 1)
