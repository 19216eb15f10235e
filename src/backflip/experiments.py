"""Presets and named runs as values: after each number where it comes from."""

import difflib
from dataclasses import replace
from typing import Any

from backflip.envs import UnknownTask, find_task
from backflip.envs.facts import facts
from backflip.fit import FitConfig
from backflip.lm.tasks import TEXT_TASKS
from backflip.policies.ppo import PPOConfig
from backflip.policies.sac import SACConfig
from backflip.queries import AskConfig
from backflip.reward import RewardConfig
from backflip.settings import JUDGE, PEOPLE, SCRIPTED, Settings
from backflip.tuning import TuneConfig

PAPER = Settings(
    task="",
    labels=700,  # §3.1.1: nearly as good as the true reward on all tasks
    steps=2_000_000,  # a tenth of the paper's: some three minutes of a laptop's core
    policy="ppo",  # in place of TRPO (docs/method.md)
    segment_steps=None,  # 1.5 seconds of the task's time (A.1)
    calibrate_on="recent",  # §2.2.3; how much is recent, the paper does not say
    ppo=PPOConfig(
        discount=0.995,  # A.1
        gae=0.97,  # A.1
        entropy=0.01,  # A.1; 0.001 for the swimmer, which its task says
        learning_rate=1e-3,  # benchmarks/ppo_sweep.py
        minibatch=512,  # benchmarks/ppo_sweep.py
    ),
    reward=RewardConfig(members=3, layers=2, width=64),  # A, A.1
    fit=FitConfig(
        error_rate=0.1,  # §2.2.3
        l2_rate=1.001,  # Ibarz 2018, A.3
        band=(1.1, 1.5),  # §2.2.3
    ),
    ask=AskConfig(
        selector="variance",  # §2.2.4
        oversample=10,  # A
        initial_fraction=0.25,  # A.1
        half_life=2e6,  # A.1
    ),
)
"""Everything as the paper has it, with PPO in place of TRPO. A, A.1"""

FAST = Settings(
    task="",
    labels=200,
    steps=300_000,
    policy="sac",
    segment_steps=50,  # PEBBLE, B-Pref
    calibrate_on="labelled",  # pilot: docs/log.md, what the pilot left
    checkpoint_steps=25_000,  # half a minute of a core
    sac=SACConfig(),
    reward=RewardConfig(members=3, layers=2, width=64),  # A, A.1
    fit=FitConfig(
        error_rate=0.1,  # §2.2.3
        first_steps=500,
        steps=200,
        steps_per_comparison=20,  # docs/log.md, 2026-11-30
        l2=3e-3,  # docs/log.md
        largest_l2=3e-2,  # docs/log.md
        l2_rate=1.01,  # docs/log.md
    ),
    ask=AskConfig(
        selector="variance",  # §2.2.4
        # r̂ knows random behaviour from few labels; what it needs most are labels about what the policy does next
        # (docs/log.md). Hence a small first share, then most labels early, and some until late.
        initial_fraction=0.2,
        half_life=2e4,
        until=0.6,
        session=5,
        # Pairs from the whole run: a policy that was misled can only be corrected by comparing what it does now with
        # what it did before (docs/log.md).
        recent=10_000,
        stale_steps=50_000,  # about a minute, as in the paper's preset
    ),
)
"""Few labels and few steps: SAC, and what the ablations in docs/log.md found to pay."""

TEXT = Settings(
    task="",
    labels=200,
    steps=50_000,
    segments_per_rollout=64,
    checkpoint_steps=10_000,
    calibrate_on="labelled",
    reward=RewardConfig(
        members=5,
        layers=1,
        width=64,
        prior=1.0,  # members that read the same frozen features have to differ somehow (Gleave & Irving 2022)
    ),
    fit=FitConfig(
        error_rate=0.1,  # §2.2.3
        first_steps=300,
        steps=100,
        steps_per_comparison=10,  # in sessions of ten these are the 100 that every text run was measured with
        l2=3e-3,
        largest_l2=3e-2,
        l2_rate=1.01,
    ),
    ask=AskConfig(
        selector="variance",
        initial_fraction=0.2,
        half_life=2e4,
        until=0.6,
        session=10,
        recent=1024,
        stale_steps=5_000,  # 78 batches: new pairs are made of the newest 16, and of so long ago is another policy
    ),
    tune=TuneConfig(),
)
"""A language model: completions are segments, a step is one of them."""

PRESETS = {"fast": FAST, "paper": PAPER}
"""Where a run's settings start from; `fast` wherever actions are bounded numbers."""

PEOPLE_STEPS = 100_000_000
"""Where people teach, they end the run; this is only a bound."""

EXPERIMENTS: dict[str, Settings] = {
    # 900 labels in less than an hour taught the paper's Hopper its backflip (§3.2); a run is ended by whoever teaches.
    # By PPO, in the paper's preset, the Hopper only learns to lie still from so few (docs/log.md).
    "demo": replace(FAST, task="hopper-backflip", teacher="people", labels=900, steps=PEOPLE_STEPS, segment_steps=None),
    # The paper's middle budget, the one nearly as good as the true reward on all tasks (§3.1.1, figure 2). Its runs
    # take 20 million steps; here a tenth, which is where its curve for this task is still rising.
    "cheetah-700": replace(PAPER, task="cheetah", teacher="oracle", labels=700, steps=2_000_000, mode="in_turn"),
    # Small enough for a first look: less than a minute on one core.
    "pendulum-200": replace(PAPER, task="Pendulum-v1", teacher="oracle", labels=200, steps=300_000, mode="in_turn"),
}


def with_text(settings: Settings, given: dict[str, Any]) -> Settings:
    """With what was said about tuning a language model; what is None was not said.

    Raises:
        ValueError: it was said of a task that has no text.
    """
    said = {name: value for name, value in given.items() if value is not None}
    if not said:
        return settings
    if settings.tune is None:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in said)
        raise ValueError(f"{options}: only for text tasks, and {settings.task} is none; {', '.join(TEXT_TASKS)} are")
    every = settings.checkpoint_steps
    if said.get("model") == "smollm2":  # a completion takes it a second of a core
        said = {"batch_prompts": 4, "original_samples": 64, "micro_batch": 16, **said}
        every = min(every, 600)  # ten minutes
    return replace(settings, tune=replace(settings.tune, **said), checkpoint_steps=every)


def without_question(settings: Settings) -> Settings:
    """With the task's own question, as another task has another."""
    tune = None if settings.tune is None else replace(settings.tune, question=None)
    return replace(settings, question=None, tune=tune)


def reading_sizes(settings: Settings) -> Settings:
    """With an r̂ that reads the size of each number beside it, and may be ten times as steep (docs/log.md)."""
    return replace(
        settings,
        reward=replace(settings.reward, sizes=True),
        fit=replace(settings.fit, l2=settings.fit.l2 / 10, largest_l2=settings.fit.largest_l2 / 10),
    )


def settings_for(task: str, preset: str | None = None, **given: Any) -> Settings:
    """A preset for a task, with everything that is given in its place.

    People, models and scripts see clips of 1.5 seconds in either preset, scripts in `fast` shorter ones where the task
    says so; the segments of `fast` are else a third of an episode at most. People end the run themselves.

    Args:
        preset: fast or paper; by default fast, where the actions are numbers with bounds, as SAC needs them.

    Raises:
        UnknownTask, MissingExtra: the task cannot be made.
        ValueError: a setting that cannot be.
    """
    if not isinstance(task, str):
        raise UnknownTask(
            f"task is {task!r}; it is a name, of a task or a Gymnasium id: register an environment of your own in a "
            "module, and name it module:id"
        )
    if task in TEXT_TASKS:
        if preset is not None:
            raise ValueError(f"presets are for robots; the text task {task} has none, leave --preset out")
        teacher = given.get("teacher", PEOPLE)
        text: dict[str, Any] = {"mode": "at_once" if teacher in (PEOPLE, JUDGE) else "in_turn"}
        if teacher == PEOPLE:
            text["steps"] = PEOPLE_STEPS
        return replace(TEXT, **{"task": task, **text, **given})
    try:
        named = find_task(task)
    except UnknownTask as error:
        if near := difflib.get_close_matches(task, TEXT_TASKS, n=4):
            raise UnknownTask(f"no task is called {task!r}; did you mean {', '.join(near)}?") from error
        raise
    told = facts(named)
    if preset is None:
        preset = "fast" if told.bounded else "paper"
    if preset not in PRESETS:
        raise ValueError(f"no preset is called {preset!r}; there are: {', '.join(PRESETS)}")
    base = PRESETS[preset]
    usual: dict[str, Any] = {"mode": "in_turn"}
    teacher = given.get("teacher", PEOPLE)
    if teacher == PEOPLE:
        usual = {"mode": "at_once", "steps": PEOPLE_STEPS}
    if teacher == JUDGE:
        usual["mode"] = "at_once"
    if teacher in (PEOPLE, SCRIPTED, JUDGE):
        usual["segment_steps"] = named.segment_steps if preset == "fast" and teacher == SCRIPTED else None
    elif base.segment_steps and told.episode_steps:
        usual["segment_steps"] = min(named.segment_steps or base.segment_steps, max(1, told.episode_steps // 3))
    ask = base.ask
    if preset == "fast" and teacher == SCRIPTED:  # a novel behaviour is not among the first clips (docs/log.md)
        ask = replace(ask, initial_fraction=0.1)
        usual["fit"] = replace(base.fit, steps_per_comparison=None, shortest_crop=0.7, l2=1e-2, largest_l2=1e-1)
        usual["sac"] = replace(base.sac, constant_until=0.6)  # what it has learned it keeps (docs/log.md)
    if preset == "fast" and named.labels_spread and teacher != PEOPLE:
        half, last = named.labels_spread
        ask = replace(ask, half_life=half * given.get("steps", base.steps), until=last)
    if preset == "fast" and named.asks_about_newest:  # docs/log.md, 2026-11-30
        ask = replace(ask, newest=0.3, selector="information")
        usual["fit"] = replace(usual.get("fit", base.fit), steps_per_comparison=10)
    usual["ask"] = ask
    if preset == "fast" and named.exploring_steps:
        usual["sac"] = replace(usual.get("sac", base.sac), entropy_steps=named.exploring_steps)
    if preset == "fast" and named.reads_sizes:
        base = reading_sizes(base)
    return replace(base, **{"task": task, **usual, **given})
