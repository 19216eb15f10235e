"""Two tasks of DeepMind's control suite that preference learning is compared on. (Lee et al. 2021, B-Pref; PEBBLE)"""

from typing import Any

from backflip.envs.task import Env, Task


def _with_simulator(env: Env) -> Env:
    from backflip.envs.dmc import with_simulator

    return with_simulator(env)


def _task(name: str, question: str, **others: Any) -> Task:
    return Task(
        name=f"dmc-{name}",
        environment=f"backflip.envs.dmc:dm_control/{name}-v0",
        question=question + " Judge only what you see happen in the clip.",
        options={"max_episode_steps": 1000},
        wrap=_with_simulator,
        labels_spread=(0.4, 0.9),  # docs/log.md
        source="dm_control's suite, unchanged; as in B-Pref",
        extra="dmc",
        **others,
    )


SUITE = (
    _task(
        "walker-walk",
        "Which robot walks better? Standing upright comes first; among those that stand, the one that walks to the "
        "right at about a metre a second is better.",
        asks_about_newest=True,  # docs/log.md, 2026-11-30
        exploring_steps=10_000,  # PEBBLE
    ),
    _task("cheetah-run", "In which clip does the robot run to the right faster? How it runs does not matter."),
)
