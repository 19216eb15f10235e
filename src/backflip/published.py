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

    def refresh(self) -> bool:
        """Load what is newer; return whether there was something."""
        if self.run.newest_number("reward") in (None, self.version):
            return False
        newest = self.run.newest("reward")
        if newest is None:
            return False
        self.ensemble = RewardEnsemble.load(newest.path / "reward.safetensors")
        self.version = newest.number
        return True
