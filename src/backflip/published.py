"""The newest r̂, as somebody sees it who does not fit it."""

from backflip.reward import RewardEnsemble
from backflip.rundir import RunDir

RECORD_STEPS = 10_000
"""Environment steps between two lines of measurements."""


class Published:
    """The newest r̂, as somebody who does not fit it sees it."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.ensemble: RewardEnsemble | None = None
        self.version = 0
        """The number of what `ensemble` is."""
        self._read = 0

    def refresh(self, exactly: int | None = None) -> bool:
        """Load what is newer, or that of a number; return whether there was something."""
        wanted = self.run.newest_number("reward") if exactly is None else exactly
        if wanted in (None, self._read):
            return False
        newest = self.run.newest("reward", exactly)
        if newest is None:
            return False
        self.ensemble = RewardEnsemble.load(newest.path / "reward.safetensors")
        self.version = self._read = newest.number
        return True

    def read_again(self) -> None:
        """At the next look r̂ is read though it be the same, as after a checkpoint was loaded."""
        self._read = 0
