"""A miniature language model and runs that tune it, for the tests of `backflip.lm`."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from backflip.rundir import RunDir
    from backflip.settings import Settings


def miniature(folder: Path) -> Path:
    """A model of some thousand weights, trained for a few steps, as an ordinary folder."""
    from backflip.lm.corpus import reviews
    from backflip.lm.small import Shape, save, train

    if not folder.exists():
        shape = Shape(vocabulary=300, width=16, layers=1, heads=2, steps=30)
        save(train(shape, reviews(60), steps=5), folder)
    return folder


def settings(model: Path, **tune: Any) -> "Settings":
    """Settings of a short run that an oracle teaches."""
    from backflip.experiments import settings_for
    from backflip.tuning import TuneConfig

    config: dict[str, Any] = {"batch_prompts": 4, "completions": 2, "prompt_tokens": 16, "response_tokens": 8}
    config |= {"original_samples": 16, "learning_rate": 1e-3, "lora_rank": 0, **tune}
    made = settings_for(
        "descriptive", teacher="oracle", labels=12, steps=96, checkpoint_steps=48, tune=TuneConfig(str(model), **config)
    )
    return replace(made, fit=replace(made.fit, first_steps=10, steps=5))


def finished(settings: "Settings", path: Path) -> "RunDir":
    """A run that was trained to its end."""
    from backflip.api import go_on, start

    run = start(settings, path)
    go_on(run)
    return run


def with_reward(settings: "Settings", path: Path) -> "RunDir":
    """A run that has an r̂ which nobody fitted, and the features of the original's completions, and no more."""
    from backflip.api import start
    from backflip.lm.tune import Tune
    from backflip.reward import Inputs, RewardEnsemble

    run = start(settings, path)
    with closing(run.store()) as store:
        tune = Tune(run, store, settings)
        tune.save(1)
    publish(run, RewardEnsemble(Inputs((tune.tuner.reader.size,), 0, discrete=False), settings.reward, seed=1), 1)
    return run


def publish(run: "RunDir", ensemble: Any, number: int) -> None:
    """Publish an r̂ as fitting does."""
    with run.publishing("reward", number, durable=False) as directory:
        ensemble.save(directory / "reward.safetensors")


def moved(run: "RunDir", by: float = 0.05) -> None:
    """Write a next checkpoint whose weights lie a little elsewhere."""
    import torch

    from backflip.lm.tune import Tune
    from backflip.settings import Settings

    with closing(run.store()) as store:
        tune = Tune(run, store, Settings.from_dict(run.settings))
        tune.load()
        rng = np.random.default_rng(5)
        with torch.no_grad():
            for leaf in tune.tuner.learner.leaves:
                leaf += torch.from_numpy(rng.normal(0, by, tuple(leaf.shape)).astype(np.float32))
        tune.save((run.newest_number("act") or 0) + 1)
