"""What a run can take: its layout, and the values that its parts can work with."""

from dataclasses import dataclass

import numpy as np

from backflip.envs import Collector, find_task
from backflip.envs.facts import Facts, facts
from backflip.exchange.bundle import About, ExchangeError
from backflip.packing import ARRAYS, Layout
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.settings import Settings, settings_of
from backflip.store import Store
from backflip.stored_segments import layout_of


@dataclass(frozen=True)
class Wanted:
    """What segments must be like to be of a run."""

    settings: Settings
    facts: Facts
    layout: Layout


def wanted_by(run: RunDir, store: Store) -> Wanted:
    """What a run wants of segments: as those that it has, or where it has none, as its environment would give them."""
    settings = settings_of(run)
    with store.reading() as c:
        layout = layout_of(c)
    if settings.is_text:
        return _wanted_of_texts(run, settings, layout)
    told = facts(find_task(settings.task))
    return Wanted(settings, told, layout or _layout_to_come(settings, told))


def _wanted_of_texts(run: RunDir, settings: Settings, layout: Layout | None) -> Wanted:
    """What a run that tunes a language model wants; only its own completions tell how much r̂ reads of one.

    Raises:
        ExchangeError: it has none yet.
    """
    if layout is None:
        raise ExchangeError(f"{run.path} has no completions yet, which tell what fits; let it go on for a while first")
    shape = {name: shape for name, _, shape in layout.columns}["observations"]
    told = Facts(
        observation_shape=shape[1:],
        action_size=0,
        discrete=False,
        first_action=0,
        bounded=False,
        segment_steps=shape[0],
        episode_steps=None,
        steps_per_second=1.0,
    )
    return Wanted(settings, told, layout)


def _layout_to_come(settings: Settings, told: Facts) -> Layout:
    """The layout that the first segments of a run will have: one step tells."""
    collector = Collector(find_task(settings.task).in_training(), 1, 0, filmed=int(settings.needs_states))
    try:
        one = collector.collect(lambda seen: np.stack([collector.action_space.sample() for _ in seen]), 1)
    finally:
        collector.close()
    steps = settings.segment_steps or told.segment_steps
    action = "<i8" if told.discrete else "<f4"
    states = one.states[0, 0] if settings.needs_states else np.zeros(0, np.float32)
    return Layout(
        (
            ("observations", one.observations.dtype.str, (steps, *one.observations.shape[2:])),
            ("actions", action, (steps, *one.actions.shape[2:])),
            ("true_rewards", "<f4", (steps,)),
            ("states", states.dtype.str, (steps, *states.shape)),
        )
    )


def must_be_about(source: str, about: About | None, wanted: Wanted) -> None:
    """Refuse what is about another task.

    Raises:
        ExchangeError: it is.
    """
    if about is not None and about.task != wanted.settings.task:
        raise ExchangeError(
            f"{source} is about {about.task!r:.80}, and the run about {wanted.settings.task!r}; "
            "answers to one question are no answers to another"
        )


def must_have_layout(source: str, layout: Layout, wanted: Wanted) -> None:
    """Refuse segments of other shapes.

    Raises:
        ExchangeError: they are.
    """
    if layout != wanted.layout:
        raise ExchangeError(
            f"the segments of {source} ({layout}) differ from those of the run ({wanted.layout}); "
            "bring them into a run of the same task, kind of teacher and --segment-steps"
        )


def must_be_sound(source: str, segments: Segments, wanted: Wanted) -> None:
    """Refuse segments with values that a part of the run would stumble over later.

    Raises:
        ExchangeError: they have one; the message says which.
    """
    for name in ARRAYS:
        values = getattr(segments, name)
        may_lack = name == "true_rewards" and not wanted.settings.reads_true_reward
        if values.dtype.kind == "f" and (np.isinf(values) if may_lack else ~np.isfinite(values)).any():
            oracle = "; the run's teacher reads them" if name == "true_rewards" else ""
            raise ExchangeError(f"{source}: the {name} of a segment are not all finite numbers{oracle}")
    steps = segments.true_rewards.shape[1]
    if len(segments) and not (segments.lengths.min() >= 1 and segments.lengths.max() <= steps):
        raise ExchangeError(f"{source}: a segment of {steps} steps has a length outside 1-{steps}")
    if (segments.policy_steps < 0).any():
        raise ExchangeError(f"{source}: a segment has a negative number of policy steps")
    told = wanted.facts
    last = told.first_action + told.action_size - 1
    if (
        told.discrete
        and len(segments)
        and not (told.first_action <= segments.actions.min() and segments.actions.max() <= last)
    ):
        raise ExchangeError(f"{source}: an action is no choice of the task; its choices are {told.first_action}-{last}")
