"""What r̂ gives for the clips, as the page reads it."""

from pathlib import Path

import numpy as np
import pytest


def test_returns_are_sums_of_the_members_mean_and_disagreement_is_their_deviation(tmp_path: Path) -> None:
    from backflip.clip_rewards import ClipRewards

    # Two members, one segment of three steps: sums 1+2+3 = 6 and 3+4+5 = 12, mean 9, deviation 3.
    rewards = np.array([[[1, 2, 3]], [[3, 4, 5]]], np.float32)
    told = ClipRewards(np.array([7]), np.array([3]), rewards, version=4, policy_steps=900)
    assert told.returns.tolist() == [9.0]
    assert told.disagreement.tolist() == [3.0]
    told.save(tmp_path / "file")
    back = ClipRewards.load(tmp_path / "file")
    np.testing.assert_array_equal(back.rewards, rewards)
    assert (back.ids.tolist(), back.lengths.tolist(), back.version, back.policy_steps) == ([7], [3], 4, 900)


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    from backflip.clip_rewards import ClipRewards
    from backflip.files import DamagedFile

    with pytest.raises(DamagedFile):
        ClipRewards.load(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"half of it")
    with pytest.raises(DamagedFile):
        ClipRewards.load(tmp_path / "file")
