"""What was shown before the first r̂: whether it can be asked about, and whether it is enough to wait for answers."""

from collections.abc import Sequence

from backflip.lm.models import ModelError
from backflip.settings import Settings
from backflip.store import Store
from backflip.texts import Text

MOST_ALIKE = 10
"""Batches without two different completions of a prompt after which none are expected any more."""


class Shown:
    """Completions that were shown in this process."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self._differ = False
        self._alike = 0

    def add(self, texts: Sequence[Text]) -> None:
        """Take note of a batch.

        Raises:
            ModelError: again and again all completions of each prompt are alike, so that nothing can ever be asked.
        """
        self._differ |= len(set(texts)) > len({text.prompt for text in texts})
        self._alike += 1
        if self._alike >= MOST_ALIKE and not self._differ:
            raise ModelError(
                f"{self._alike} batches of {len(texts)} completions brought no two different ones of one prompt, and "
                "equal ones cannot be compared; raise the temperature or --response-tokens, or take another --model"
            )

    def enough(self, steps: int) -> bool:
        """Whether to wait for answers: something is asked or will be, or what was asked is enough for the first r̂."""
        counts = self.store.counts()
        if not self.settings.has_shown_enough(counts.segments, steps):
            return False
        compared = counts.labels - counts.incomparable
        if counts.open or compared >= self.settings.labels_before_training:
            return True
        return not counts.asked and self._differ
