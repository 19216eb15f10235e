"""What bringing texts from elsewhere into a run needs of its language model."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from backflip.lm.reward import Reader, must_be_of, room_of
from backflip.lm.small import find
from backflip.lm.tune import ORIGINAL
from backflip.rundir import RunDir
from backflip.settings import settings_of
from backflip.texts import Text

Features = Callable[[list[Text]], Float32[np.ndarray, "n k d"]]
Decode = Callable[[Sequence[int]], str]


def reading(run: RunDir) -> tuple[Features, Decode, int]:
    """What a run's r̂ reads of texts, texts of tokens, and the bytes for a text.

    Raises:
        ModelError: the run's model cannot be loaded, or is another one than it began with.
    """
    settings = settings_of(run)
    assert settings.tune is not None
    causal = find(settings.tune.model)
    if (run.path / ORIGINAL).exists():
        must_be_of(run.path / ORIGINAL, causal)
    reader = Reader(causal, settings.tune)

    def features(texts: list[Text]) -> Float32[np.ndarray, "n k d"]:
        return reader.read(texts).observations

    def decode(tokens: Sequence[int]) -> str:
        return causal.text(list(tokens))

    return features, decode, room_of(settings.tune)
