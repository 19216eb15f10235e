import subprocess
import sys
from pathlib import Path

import torch

from backflip.adam import Adam


def _gradients(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((3, 2), (5,))]


def test_steps_are_those_of_pytorchs_class() -> None:
    ours, theirs = _gradients(0), _gradients(0)
    adam, other = Adam(ours, 0.01, epsilon=1e-5), torch.optim.Adam(theirs, 0.01, eps=1e-5, fused=True)
    for seed in range(1, 6):
        if seed == 4:
            adam.learning_rate = other.param_groups[0]["lr"] = 0.1
        adam.step(_gradients(seed))
        for parameter, gradient in zip(theirs, _gradients(seed), strict=True):
            parameter.grad = gradient
        other.step()
        assert all(map(torch.equal, ours, theirs))


def test_it_goes_on_from_what_it_kept_and_begins_anew_when_it_forgets() -> None:
    whole, first = _gradients(0), _gradients(0)
    through, before = Adam(whole, 0.01), Adam(first, 0.01)
    for seed in range(1, 5):
        through.step(_gradients(seed))
    for seed in range(1, 3):
        before.step(_gradients(seed))
    kept = {name: value.copy() for name, value in before.arrays("x_").items()}
    assert set(kept) == {f"x_{i}_{name}" for i in range(2) for name in ("exp_avg", "exp_avg_sq", "step")}
    after = Adam(first, 0.01)
    after.restore(kept, "x_")
    for seed in range(3, 5):
        after.step(_gradients(seed))
    assert all(map(torch.equal, whole, first))
    after.forget()
    moved = first[0].clone()
    after.step(_gradients(9))
    # The first step is as long as the learning rate in every direction.
    torch.testing.assert_close((moved - first[0]).abs(), torch.full_like(moved, 0.01))


def test_a_run_does_not_import_pytorchs_compiler(tmp_path: Path) -> None:
    program = """
import sys
import backflip
from backflip.fit import FitConfig
from backflip.policies.sac import SACConfig
brief = dict(teacher="oracle", labels=4, steps=512, fit=FitConfig(first_steps=2, steps=2))
backflip.train("Pendulum-v1", run=sys.argv[1] + "/fast", sac=SACConfig(random_steps=128), **brief)
backflip.train("Pendulum-v1", run=sys.argv[1] + "/paper", preset="paper", **brief)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert (tmp_path / "fast").is_dir()
