"""A process of several that share batches; process 0 also learns from whole batches alone, and writes how both differ.

Arguments: the model's folder, and the file for the result.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backflip.lm.models import load, whole
from backflip.lm.parallel import Group, end, join, learn
from backflip.lm.reward import Sampled
from backflip.lm.tune import Tuner
from backflip.tuning import TuneConfig

PROMPTS = ["This film begins in a small town, and", "I watched this", "We went to see", "My friends told me"]
EACH = 3


def part(sampled: Sampled, rows: slice) -> Sampled:
    """Some completions of a batch, whose KL is set to that of all of it."""
    return replace(
        sampled,
        texts=sampled.texts[rows],
        batch=sampled.batch[rows],
        log_p=sampled.log_p[rows],
        original=sampled.original[rows],
    )


def tuner(model: str, algorithm: Any) -> Tuner:
    """A tuner of the miniature."""
    config = TuneConfig(model, completions=EACH, response_tokens=8, learning_rate=3e-3, lora_rank=0)
    return Tuner(load(model), replace(config, algorithm=algorithm))


def main(model: str, result: Path) -> None:
    """Three batches, shared and alone."""
    torch.set_num_threads(1)
    group = Group()
    shared, alone = tuner(model, "rloo"), tuner(model, "rloo")
    join(shared, group)
    rows = len(PROMPTS) * EACH // group.size
    mine = slice(rows * group.rank, rows * (group.rank + 1))
    for number in range(3):
        sampled = alone.sample(PROMPTS, EACH, [1, number])
        rewards = np.random.default_rng(number).normal(size=len(PROMPTS) * EACH).astype(np.float32)
        learn(shared, group, part(sampled, mine), rewards[mine])
        alone.learn(sampled, rewards)
    spread = [type(leaf.data).__name__ == "DTensor" for leaf in shared.learner.leaves]
    learned = [whole(leaf.detach()) for leaf in shared.learner.leaves]
    pairs = zip(learned, alone.learner.leaves, strict=True)
    from_alone = max(float((one - other).detach().abs().max()) for one, other in pairs)
    moved = max(
        float((one - other).detach().abs().max())
        for one, other in zip(alone.learner.leaves, load(model).model.parameters(), strict=True)
    )
    flat = torch.cat([leaf.reshape(-1) for leaf in learned])
    gathered = group.gathered(flat[None])
    if gathered is not None:
        found = {
            "from_each_other": float((gathered - gathered[0]).abs().max()),
            "from_alone": from_alone,
            "moved": moved,
            "spread": sum(spread) / len(spread),
            "completions": [shared.completions, alone.completions],
            "beta": [shared.controller.beta, alone.controller.beta],
        }
        result.write_text(json.dumps(found))
    group.leave()
    end()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
