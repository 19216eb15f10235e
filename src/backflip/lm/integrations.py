"""r̂ of a run as the reward of other trainers (TRL, verl), and a budget of KL for TRL's."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backflip.lm.kl import Budget
from backflip.lm.score import scorer
from backflip.rundir import RunDir
from backflip.texts import Text

Message = Mapping[str, Any]
Plain = str | Sequence[Message]
"""A text, or the messages of a dialogue."""


def trl_reward(run: str | Path) -> Callable[..., list[float]]:
    """The newest r̂ of a run as a reward function of TRL's RLOOTrainer and GRPOTrainer: reward_funcs=trl_reward(RUN).

    Prompts and completions may be plain or dialogues, of which the messages' contents are read. r̂ never reads the token
    that ends a text, so that a completion is worth the same with it and without.

    Raises:
        RunError: r̂ of this run cannot read texts here; when called: there is none yet.
    """
    score = scorer(RunDir.open(Path(run)))

    def backflip_reward(
        prompts: Sequence[Plain],
        completions: Sequence[Plain],
        log_metric: Callable[[str, float], None] | None = None,
        **_columns: Any,
    ) -> list[float]:
        """What r̂ gives for each completion."""
        pairs = zip(prompts, completions, strict=True)
        found = score([Text(plain(prompt), plain(completion)) for prompt, completion in pairs])
        if log_metric is not None and len(found.rewards):
            log_metric("reward_deviation", float(found.deviations.mean()))
            log_metric("reward_version", float(found.version))
        return [float(reward) for reward in found.rewards]

    return backflip_reward


def verl_reward(run: str | Path) -> Callable[..., float]:
    """The newest r̂ of a run as verl's custom reward function: compute_score = verl_reward(RUN) in a file of yours.

    verl hands a completion over without its prompt: that has to be a column, extra_info["prompt"].

    Raises:
        RunError: r̂ of this run cannot read texts here; when called: there is none yet.
    """
    score = scorer(RunDir.open(Path(run)))

    def compute_score(
        data_source: Any,
        solution_str: str,
        ground_truth: Any = None,
        extra_info: Mapping[str, Any] | None = None,
        **_others: Any,
    ) -> float:
        """What r̂ gives for one completion."""
        del data_source, ground_truth
        prompt = (extra_info or {}).get("prompt")
        if prompt is None:
            raise ValueError('r̂ reads a completion after its prompt; give each row of the data extra_info["prompt"]')
        return float(score([Text(plain(prompt), solution_str)]).rewards[0])

    return compute_score


def plain(said: Plain) -> str:
    """A prompt or completion as text: itself, or the contents of the messages of a dialogue, one after the other.

    Raises:
        ValueError: a message holds no text.
    """
    if isinstance(said, str):
        return said
    return "\n\n".join(_content(message) for message in said)


def _content(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "".join(str(part["text"]) for part in content)
    raise ValueError(f"a message without text cannot be scored: it holds {sorted(message)}; give it a content")


def kl_budget(trainer: Any, target: float = 6.0) -> Any:
    """A callback that holds TRL's trainer to a budget of KL: trainer.add_callback(kl_budget(trainer, 6.0)).

    Args:
        trainer: RLOOTrainer or GRPOTrainer; its beta must be above 0, or it knows no original, and it should log each
            step (logging_steps=1), since β is moved when it logs.
        target: nats a completion.

    Raises:
        ValueError: its beta is 0.
    """
    from transformers import TrainerCallback

    steer = Steer(trainer, target)

    class KLBudget(TrainerCallback):
        """Moves β when the trainer logs."""

        def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:  # noqa: ARG002 (TRL's names)
            """Move β by what was logged."""
            steer.hear(others.get("logs") or {})

    return KLBudget()


class Steer:
    """Moves a trainer's β by what it logs: KL a token times tokens a completion is KL a completion."""

    def __init__(self, trainer: Any, target: float) -> None:
        beta = float(trainer.beta)
        if not beta > 0:
            raise ValueError(f"the trainer's beta is {beta}, so that it measures no KL; set it to 0.05, say")
        self.trainer = trainer
        self.budget = Budget(beta, target)

    def hear(self, logs: Mapping[str, Any]) -> None:
        """Move β; nothing happens where the logs say nothing about KL, as those of an evaluation or of the end."""
        if "kl" not in logs or "completions/mean_length" not in logs:
            return
        self.budget.update(float(logs["kl"]) * float(logs["completions/mean_length"]), 1)
        self.trainer.beta = self.budget.beta
