"""A reward card: r̂ in a folder with a page about it, as models are published, for others to judge and to use."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from backflip.envs import find_task
from backflip.exchange.bundle import ExchangeError
from backflip.exchange.folders import must_be_licence, new_folder
from backflip.preferences import Choice, Preference, Query
from backflip.reward import RewardEnsemble
from backflip.rundir import RunDir
from backflip.settings import PEOPLE
from backflip.store import Store

DECIDED = (Choice.LEFT, Choice.RIGHT)


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    part: float
    of: int

    def __str__(self) -> str:
        if not self.of:
            return "not measured"
        return f"{100 * self.part / self.of:.1f} % of {self.of:,}"


@dataclass(frozen=True)
class Findings:
    """What is known of an r̂ and of the answers that it was fitted to."""

    choices: dict[Choice, int]
    """How many of each kind stand."""
    teachers: int
    predicted: Share
    """Of the decided answers, those that r̂ had predicted when the pair was chosen, before anybody answered."""
    between: Share
    """Of the pairs of decided answers of different teachers to one query, those that are the same."""
    held_out: float | None
    """Of the decided answers that a member was not fitted to, the share that it orders as the teacher did."""


def write_card(folder: Path, run: RunDir, store: Store, licence: str) -> list[Path]:
    """Write the newest r̂, its configuration and a page about both into a new folder; return the files.

    Args:
        licence: under which others may use it, as the Hugging Face hub names it: cc-by-4.0, mit, ...

    Raises:
        ExchangeError: there is no r̂ yet, the folder is not empty, or the licence is none.
    """
    must_be_licence(licence)
    published = run.newest("reward")
    if published is None:
        raise ExchangeError(f"{run.path} has no r̂ yet; it needs some answers first")
    ensemble = RewardEnsemble.load(published.path / "reward.safetensors")
    found = findings(run, store)
    with new_folder(folder) as temporary:
        ensemble.save(temporary / "reward.safetensors")
        (temporary / "config.json").write_text(json.dumps(_config(run, ensemble, published.number), indent=1) + "\n")
        (temporary / "README.md").write_text(_page(run, ensemble, found, licence))
    return [folder / name for name in ("README.md", "reward.safetensors", "config.json")]


def findings(run: RunDir, store: Store) -> Findings:
    """What the answers of a run, and its own measurements, say about its r̂."""
    given = store.preferences()
    held_out = [line["value"] for line in run.metrics()[0] if line.get("name") == "fit/accuracy"]
    decided = [(choice, asked) for choice, asked in given if choice.choice in DECIDED and asked.p_left]
    right = sum(_predicted(preference, asked) for preference, asked in decided)
    return Findings(
        choices=dict(Counter(preference.choice for preference, _ in given)),
        teachers=len({preference.teacher for preference, _ in given}),
        predicted=Share(right, len(decided)),
        between=_between([preference for preference, _ in given]),
        held_out=held_out[-1] if held_out and math.isfinite(held_out[-1]) else None,
    )


def _predicted(preference: Preference, asked: Query) -> float:
    """1 where the members' mean lay on the side of the answer, ½ where it lay in the middle."""
    mean = float(np.mean(asked.p_left))
    return 0.5 if mean == 0.5 else float((mean > 0.5) == (preference.choice is Choice.LEFT))


def _between(given: list[Preference]) -> Share:
    answers: dict[int, dict[str, Choice]] = {}
    for preference in given:
        if preference.choice in DECIDED:
            answers.setdefault(preference.query, {})[preference.teacher] = preference.choice
    pairs = [pair for same in answers.values() for pair in combinations(same.values(), 2)]
    return Share(sum(one is other for one, other in pairs), len(pairs))


def _config(run: RunDir, ensemble: RewardEnsemble, version: int) -> dict[str, Any]:
    return {
        "format": 1,
        "task": run.settings["task"],
        "environment": _what(run)[1],
        "question": run.settings.get("question", ""),
        "reward_version": version,
        "inputs": vars(ensemble.inputs),
        "ensemble": vars(ensemble.config),
        "settings": run.public_settings,
        "versions": run.config.get("versions", {}),
    }


def _what(run: RunDir) -> tuple[str, str]:
    """The task's name, and what r̂ judges: steps of an environment, or a language model's completions."""
    tuned = run.settings.get("tune")
    if tuned:
        return str(run.settings["task"]), f"completions of {Path(str(tuned['model'])).name}"
    task = find_task(run.settings["task"])
    return task.name, task.environment


def _page(run: RunDir, ensemble: RewardEnsemble, found: Findings, licence: str) -> str:
    settings = run.settings
    name, environment = _what(run)
    people = settings["teacher"] == PEOPLE
    who = f"{found.teachers} {'annotators' if people else 'teachers'}" if found.teachers != 1 else "one teacher"
    kind = "people, on clips" if people else f"a synthetic teacher (`{settings['teacher']}`)"
    question = " ".join(str(settings.get("question", "")).split())
    rows = "\n".join(f"| {choice.value} | {found.choices.get(choice, 0):,} |" for choice in Choice)
    held_out = "not measured" if found.held_out is None else f"{100 * found.held_out:.1f} %"
    shape = "x".join(map(str, ensemble.inputs.observation_shape))
    return f"""{_front_matter(name, found, licence)}
# A reward for {name}, learned from {sum(found.choices.values()):,} comparisons

r̂ gives a number to one step of `{environment}`, from an observation ({shape} numbers) and an action
({ensemble.inputs.action_size} {"choices" if ensemble.inputs.discrete else "numbers"}). It is an ensemble of \
{ensemble.members} small networks, fitted with [backflip](https://arxiv.org/abs/1706.03741)'s
method to somebody's choices between pairs of short clips. Nobody wrote it down.

## What it was learned from

Asked was: {question}

Answered by {kind}; {who} in all. The answers that stand:

| choice | answers |
|---|---|
{rows}

"incomparable" (can't tell) is no part of what r̂ was fitted to.

## How well it agrees with its teachers

| of r̂ | |
|---|---|
| held-out accuracy: decided answers that a member was not fitted to, and orders as the teacher did | {held_out} |
| agreement with decided answers, predicted when the pair was chosen, before anybody answered | {found.predicted} |
| agreement between teachers: decided answers of two teachers to one pair that are the same | {found.between} |

About one in three answers ({sum(found.choices.get(choice, 0) for choice in DECIDED) / math.e:.0f}) is held out from \
each member. Pairs were chosen because the members
disagreed about them, so that the first two figures are lower than they would be for pairs at random.

## How to use it

```python
import backflip

reward = backflip.load_reward("this folder")
rewards = reward(observations, actions)  # [..., {shape}] and actions of the same steps, to [...]
```

Each member has mean 0 and deviation {ensemble.config.deviation:g}
on the behaviour that it was last normalised on; only differences mean something.

## Intended use

Training and comparing policies in `{environment}` on the behaviour that was asked about, and research on learned
rewards. It orders stretches of behaviour such as its teachers saw.

## Limits

- It knows only what was compared. On behaviour far from that, its numbers mean nothing, and a policy that is optimised
  hard enough finds such behaviour: watch clips of what it does, and ask anew.
- It repeats the mistakes, tastes and misunderstandings of {who}.
- It is fitted to sums over short stretches; who of two steps deserved the praise is its guess.
- It reads observations as this environment gives them; another version of the environment is another world.

## Licence

{licence}{". Its makers have not said how it may be used; ask them." if licence == "unknown" else ""}

`config.json` has every setting that it was made with, `reward.safetensors` the weights (no pickle).
"""


def _front_matter(task: str, found: Findings, licence: str) -> str:
    """What a model page's catalogue reads; JSON is YAML too, so that no text in it can break out."""
    metrics = [
        {"type": "accuracy", "name": name, "value": round(value, 4)}
        for name, value in {
            "held-out accuracy": found.held_out,
            "agreement before the answer": found.predicted.part / found.predicted.of if found.predicted.of else None,
        }.items()
        if value is not None
    ]
    result = {
        "task": {"type": "reward-modeling", "name": "reward from human preferences"},
        "dataset": {"type": "backflip", "name": f"comparisons of {task}"},
        "metrics": metrics,
    }
    fields = {
        "license": licence,
        "library_name": "backflip",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reward-model", "human-preferences", "reinforcement-learning", "backflip", task],
        "model-index": [{"name": f"{task} reward", "results": [result] if metrics else []}],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])
