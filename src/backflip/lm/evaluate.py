"""How a tuned model completes prompts, beside its original."""

from dataclasses import dataclass

import numpy as np

from backflip.lm.reward import CompletionReward, Read, load_read, must_be_of
from backflip.lm.small import find
from backflip.lm.tasks import TaskError, task_of
from backflip.lm.tune import ORIGINAL, Tuner
from backflip.published import Published
from backflip.rundir import RunDir, RunError
from backflip.settings import Settings, settings_of
from backflip.texts import Text

SHOWN = 5
"""Prompts whose completions are shown."""


@dataclass(frozen=True)
class TextEvaluation:
    """Figures of a tuned model and of its original; those of people's stand-in where there is one."""

    task: str
    policy_steps: int
    completions: int
    kl: float
    """Nats of KL to the original a completion, over the whole vocabulary at each step."""
    reward: float | None
    """Mean r̂ of a completion, in deviations of the original's; None before there is an r̂."""
    reward_of_original: float | None
    gold: float | None
    gold_of_original: float | None
    tokens: float
    """Mean tokens of a completion."""
    examples: list[tuple[str, str, str]]
    """Prompt, the original's completion, the tuned model's."""


def evaluate_text(run: RunDir, completions: int = 128, seed: int = 0) -> TextEvaluation:
    """Let a run's newest policy and its original complete the same prompts.

    Raises:
        RunError: the run has no checkpoint yet.
        ModelError: its model cannot be loaded.
    """
    settings = settings_of(run)
    assert settings.tune is not None
    checkpoint = run.newest("act")
    if checkpoint is None:
        raise RunError(f"{run.path} has no checkpoint yet; try again when it has gone on for a while")
    task = task_of(run)
    causal = find(settings.tune.model)
    must_be_of(run.path / ORIGINAL, causal)
    tuner = Tuner(causal, settings.tune, settings.seed)
    rng = np.random.default_rng([seed, 11])
    known = task.prompts()
    prompts = [known[i] for i in rng.integers(len(known), size=max(1, completions // 2))]
    before = tuner.sample(prompts, 2, (seed, 12))
    tuner.load(checkpoint.path)
    after = tuner.sample(prompts, 2, (seed, 12))
    paid = _paid(run, settings)
    return TextEvaluation(
        task=settings.task,
        policy_steps=int(run.told("act").get("steps", 0)),
        completions=len(after.texts),
        kl=after.exact_kl,
        reward=None if paid is None else float(paid(after.read).mean()),
        reward_of_original=None if paid is None else float(paid(before.read).mean()),
        gold=_gold(task.gold, after.texts),
        gold_of_original=_gold(task.gold, before.texts),
        tokens=float(after.batch.mask.sum(1).mean()),
        examples=[
            (text.prompt, old.completion, text.completion)
            for old, text in zip(before.texts[: 2 * SHOWN : 2], after.texts[: 2 * SHOWN : 2], strict=True)
        ],
    )


def _paid(run: RunDir, settings: Settings) -> CompletionReward | None:
    newest = Published(run)
    newest.refresh()
    if newest.ensemble is None or settings.tune is None:
        return None
    original: Read = load_read(run.path / ORIGINAL)
    return CompletionReward(newest.ensemble, original, settings.tune.aggregate, settings.tune.pessimism)


def _gold(gold: object, texts: list[Text]) -> float | None:
    try:
        return float(gold(texts).mean()) if callable(gold) else None
    except TaskError:
        return None
