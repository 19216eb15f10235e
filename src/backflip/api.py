"""What other programs call: train a run, and use the reward it learned."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike

from backflip.envs import Task, find_task
from backflip.envs.collect import has_simulator_state, small_frame
from backflip.envs.facts import Facts, facts
from backflip.evaluate import load_ensemble
from backflip.experiments import settings_for
from backflip.following import followers
from backflip.loop import ROBOTS, Parts, at_once, in_turn
from backflip.processes import Part, must_have_begun
from backflip.reward import RewardEnsemble
from backflip.rundir import RunDir, RunError, new_path
from backflip.settings import JUDGE, PEOPLE, SCRIPTED, Mode, Settings, settings_of
from backflip.sinks import must_be_installed
from backflip.store import Store
from backflip.teachers.endpoint import Endpoint, NotSet

_log = logging.getLogger(__name__)

MOST_OBSERVED = 5_000
"""Numbers in an observation."""
Reward = Callable[[ArrayLike, ArrayLike], Float32[np.ndarray, "*n"]]


def train(
    task: str,
    *,
    teacher: str = PEOPLE,
    preset: str | None = None,
    labels: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    run: str | Path | None = None,
    mode: Mode | None = None,
    watch: Callable[[RunDir], None] | None = None,
    **others: Any,
) -> Path:
    """Train a policy on a task by a teacher's comparisons, and return the run directory with all that came of it.

    Blocks until the steps are used up. With people, serve the page meanwhile: `backflip serve RUN`.

    Args:
        task: a name from `backflip tasks`, or any Gymnasium id; module:id for what a module registers, which every
            command and process then finds.
        teacher: people, judge, scripted, oracle, stochastic, mistake, skip, myopic or equal.
        preset: fast (SAC, few labels) or paper; by default fast wherever actions are numbers with bounds.
        labels: comparisons to ask for in all; by default the preset's.
        steps: environment steps; by default the preset's, and with people as many as they like.
        run: a directory that does not exist yet; by default one in `runs/`.
        mode: in_turn is reproducible, at_once (a process each) is for people; by default whichever fits the teacher.
            With at_once or `log`, a script has to guard its main code with `if __name__ == "__main__"`.
        watch: called a few times a second with the run.
        others: any other field of `backflip.settings.Settings`, such as `log=("tensorboard",)`.

    Raises:
        ValueError: a setting that cannot be; the message says which.
        UnknownTask: no such task or environment.
        RunError: the run directory cannot be made.
        SinkError: measurements should go somewhere whose package is not installed.
    """
    given = {"labels": labels, "steps": steps, "mode": mode}
    given = {name: value for name, value in given.items() if value is not None}
    settings = settings_for(task, preset, teacher=teacher, seed=seed, **given, **others)
    directory = start(settings, None if run is None else Path(run))
    go_on(directory, lambda: watch(directory) if watch else None)
    return directory.path


def start(settings: Settings, path: Path | None = None, command: str = "") -> RunDir:
    """Make the run directory for some settings.

    Raises:
        UnknownTask: no such task or environment.
        ValueError: the teacher and the task do not fit, or nothing says which model is the judge.
        MissingExtra: the environment needs a package that is not installed.
        RunError: the directory cannot be made, or the database belongs to another run.
        StoreError: the database cannot be used.
        SinkError: measurements should go somewhere whose package is not installed.
        PartRefused: a process of another run imports the script that begins this one.
    """
    must_have_begun()
    for sink in settings.log:
        must_be_installed(sink)
    if settings.store:
        _must_be_empty(settings.store)
    if settings.teacher == JUDGE:
        Endpoint.from_environment()
    if settings.tune:
        settings = replace(settings, tune=replace(settings.tune, question=settings.question or settings.tune.question))
        from backflip.lm.run import start as start_text

        return start_text(settings, path, command)
    task = find_task(settings.task)
    told = facts(task)  # an environment that cannot be made should fail here, with nothing written
    if settings.policy == "sac" and not told.bounded:
        raise ValueError(
            f"{task.name} has actions that are not numbers with bounds, as SAC needs them; use PPO: --preset paper"
        )
    _must_be_a_vector(task, told)
    _must_fit_an_episode(task, told, settings.segment_steps)
    _must_be_teachable(task, settings)
    if settings.shows_clips:
        _must_be_drawable(task)
    asked = {**settings.to_dict(), "question": settings.question or task.question}
    return RunDir.create(path or new_path(settings.task), asked, command)


def _must_be_a_vector(task: Task, told: Facts) -> None:
    """Refuse images: networks here read vectors, and a replay of a million pictures would take 100 GB."""
    size = math.prod(told.observation_shape)
    if size > MOST_OBSERVED:
        raise ValueError(
            f"{task.name} has observations of the shape {told.observation_shape}, {size:,} numbers; policies and r̂ "
            f"read vectors of at most {MOST_OBSERVED:,} here, and no images: wrap it in what makes features of them"
        )


def _must_fit_an_episode(task: Task, told: Facts, segment_steps: int | None) -> None:
    """Refuse segments longer than an episode: there would hardly be any."""
    longest = min((steps for steps in (told.episode_steps, task.training_steps) if steps), default=None)
    if segment_steps and longest and segment_steps > longest:
        raise ValueError(
            f"segment_steps is {segment_steps}, but episodes of {task.name} last {longest} steps; "
            "say at most that, better a third of it"
        )


def extend(run: RunDir, steps: int | None = None, labels: int | None = None) -> Settings:
    """Give a run more steps or labels in all than it has, for when it goes on; return its settings then.

    What depends on a run's length, such as a learning rate that falls, goes by the new one from here on.

    Raises:
        ValueError: that is not more, or there are no steps left to ask for labels in.
        RunError: it is being trained.
    """
    settings = settings_of(run)
    more = {name: value for name, value in (("steps", steps), ("labels", labels)) if value is not None}
    for name, value in more.items():
        if value <= (before := getattr(settings, name)):
            raise ValueError(f"{name} is {value} and {run.path} has {before}; a run can only be given more than it has")
    if steps is None and more and run.told("run").get("state") == "finished":
        raise ValueError(f"{run.path} has taken all its {settings.steps} steps; give it more of them, too: --steps N")
    if more:
        with run.owned():
            run.extend(**more)
    return settings_of(run)


def _must_be_teachable(task: Task, settings: Settings) -> None:
    """Refuse a synthetic teacher that would have nothing to judge by."""
    if settings.teacher == SCRIPTED:
        if task.script is None:
            other = "oracle" if task.has_true_reward else PEOPLE
            raise ValueError(
                f"{task.name} has no script that could judge its clips in a person's place; use --teacher {other}"
            )
    elif settings.reads_true_reward and not task.has_true_reward:
        or_script = ", or by a script in their place: --teacher scripted" if task.script else ""
        raise ValueError(
            f"{task.name} has no reward that an oracle could read; it is taught by people: --teacher people{or_script}"
        )


def _must_be_drawable(task: Task) -> None:
    if has_simulator_state(task):
        return
    env = task.make(film=True)
    try:
        env.reset(seed=0)
        small_frame(env)
    finally:
        env.close()


def _must_be_empty(url: str) -> None:
    store = Store(url)
    try:
        if store.counts().segments:
            raise RunError(
                "the database given with --store holds another run already; give each run a database of its own"
            )
    finally:
        store.close()


def go_on(
    run: RunDir,
    watch: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] = lambda: False,
    beside: dict[str, tuple[Part, tuple[Any, ...]]] | None = None,
    log: Sequence[str] | None = None,
    say: Callable[[str], None] = _log.warning,
) -> bool:
    """Begin or resume a run; True once its steps are used up, False if it was interrupted before.

    Args:
        beside: further parts to run in processes of their own, such as the page.
        log: where measurements go beside the run directory this time, if not where the run's settings say.
        say: told in a sentence when measurements can no longer go somewhere; the run does not end for that.

    Raises:
        RunError: the run directory cannot be used, is in use, or nothing says which model is its judge.
        PartDied: a part failed; its traceback is in the message. Nothing is lost, the run can be resumed.
        SinkError: measurements should go somewhere whose package is not installed.
    """
    run.store(check=True).close()
    settings = settings_of(run)
    if settings.teacher == JUDGE:
        try:
            Endpoint.from_environment()
        except NotSet as error:
            raise RunError(str(error)) from None
    with followers(run, settings.log if log is None else log, say) as companions:

        def look() -> None:
            watch()
            companions.look()

        parts = _parts(settings)
        if settings.mode == "at_once":
            return at_once(run, look, interrupted, beside or {}, parts)
        in_turn(run, look, parts)
        return True


def _parts(settings: Settings) -> Parts:
    """What acts, asks and fits."""
    if not settings.is_text:
        return ROBOTS
    from backflip.lm.run import PARTS

    return PARTS


def load_reward(run: str | Path) -> Reward:
    """The newest r̂ of a run, or that of a reward card, as a function of observations and actions to rewards.

    From observations [... *obs] and actions [... *act] to [...], for any leading axes; an observation is the one that
    the action was an answer to. Other shapes are a ValueError that says which.

    Mean 0 and deviation 1 per member on the behaviour that it was last normalised on (§2.2.3).

    Raises:
        RunError: no run there, or it has no r̂ yet.
        DamagedFile: r̂ cannot be read.
    """
    file = Path(run) / "reward.safetensors"  # of a card, as `backflip export --card` writes them
    if file.is_file():
        return _for_others(RewardEnsemble.load(file))
    directory = RunDir.open(Path(run))
    ensemble = load_ensemble(directory)
    if ensemble is None:
        raise RunError(f"{run} has no reward yet; it needs some answers first")
    return _for_others(ensemble)


def _for_others(ensemble: RewardEnsemble) -> Reward:
    """r̂ of whatever numpy makes arrays of, once their shapes are those that it reads."""
    seen = ensemble.inputs.observation_shape
    done = () if ensemble.inputs.discrete else (ensemble.inputs.action_size,)

    def reward(observations: Any, actions: Any) -> Float32[np.ndarray, "*n"]:
        o, a = np.asarray(observations), np.asarray(actions)
        lead = o.shape[: max(0, o.ndim - len(seen))]
        if ensemble.inputs.discrete and a.shape == (*lead, 1):
            a = a[..., 0]  # as trainers keep choices
        if (o.shape, a.shape) != ((*lead, *seen), (*lead, *done)):
            raise ValueError(
                f"observations have the shape {o.shape} and actions {a.shape}; this r̂ reads {seen} and {done} with the "
                "same axes before both, and a Dict flattened, as gymnasium.wrappers.FlattenObservation does"
            )
        return ensemble.reward(o, a)

    return reward
