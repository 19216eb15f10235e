"""The method as a whole: reproducible, blind to the true reward, and whole again after any death."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

TINY: dict[str, Any] = {
    "task": "Pendulum-v1",
    "teacher": "oracle",
    "labels": 40,
    "steps": 12_000,
    "mode": "in_turn",
    "checkpoint_steps": 4_000,
}
QUICK_FIT: dict[str, Any] = {"first_steps": 40, "steps": 10}
"""The facts here do not depend on how well r̂ is fitted."""


def make_run(path: Path, **changes: Any) -> Any:
    from backflip.fit import FitConfig
    from backflip.policies.ppo import PPOConfig
    from backflip.rundir import RunDir
    from backflip.settings import Settings

    ppo = PPOConfig(environments=8, rollout_steps=64, minibatch=128, epochs=4)
    return RunDir.create(path, Settings(**{"ppo": ppo, "fit": FitConfig(**QUICK_FIT), **TINY, **changes}).to_dict())


def changes_for(policy: str) -> dict[str, Any]:
    """A small run by SAC, with all that its preset does otherwise than the paper's, a memory that overflows, and ε
    estimated."""
    from backflip.fit import FitConfig
    from backflip.policies.sac import SACConfig
    from backflip.queries import AskConfig

    if policy == "ppo":
        return {}
    return {
        "policy": "sac",
        "calibrate_on": "labelled",
        "steps": 6_000,
        "checkpoint_steps": 2_000,
        "sac": SACConfig(updates_per_step=0.05, batch=32, width=32, random_steps=600, capacity=4_500),
        "fit": FitConfig(**QUICK_FIT, shortest_crop=0.7, error_rates="annotator"),
        "ask": AskConfig(selector="diverse", until=0.8, session=5, recent=240),
    }


def content(run: Any) -> dict[str, Any]:
    """All that must be equal in two equal runs: every row of the database, and every array of r̂ and policy."""
    from backflip.files import load_arrays

    found: dict[str, Any] = {}
    with closing(run.store()) as store, store.engine.connect() as connection:
        for table in ("segment", "query", "event", "meta"):
            rows = connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY 1")).all()
            if table == "meta":  # the checkpoint's place in metrics.jsonl depends on how long times print
                rows = [(row.key, row.value.split()[0] if row.key == "checkpoint" else row.value) for row in rows]
            found[table] = hashlib.sha256(repr(rows).encode()).hexdigest()
            found[f"{table} rows"] = len(rows)
    for kind, file in (("act", "policy"), ("fit", "fitter"), ("fit", "reward"), ("reward", "reward")):
        newest = run.newest(kind)
        assert newest is not None
        arrays, meta = load_arrays(newest.path / f"{file}.safetensors")
        found[f"{kind}/{file}"] = (
            newest.number,
            meta,
            {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()},
        )
    return found


@pytest.fixture(scope="module", params=[pytest.param("ppo", marks=pytest.mark.slow), "sac"])
def changes(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What sets the runs of a test apart from the smallest ones."""
    return changes_for(request.param)


@pytest.fixture(scope="module")
def whole(changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that went from its beginning to its end."""
    from backflip.loop import in_turn

    run = make_run(tmp_path_factory.mktemp("whole") / "run", **changes)
    in_turn(run)
    return run


def test_in_turn_with_one_seed_gives_the_same_database_reward_and_policy_twice(
    whole: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    from backflip.loop import in_turn

    again = make_run(tmp_path / "again", **changes)
    in_turn(again)
    first, second = content(whole), content(again)
    assert first == second
    assert first["event rows"] == 40


@pytest.mark.slow
def test_another_seed_gives_another_run(whole: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    from backflip.loop import in_turn

    other = make_run(tmp_path / "other", seed=1, **changes)
    in_turn(other)
    first, second = content(whole), content(other)
    assert all(first[name] != second[name] for name in ("segment", "act/policy", "reward/reward"))


class Killed(Exception):
    """Stands for a death between two turns; everything since the last checkpoint is lost, as by kill -9."""


@pytest.mark.parametrize("turns", [*(pytest.param(turns, marks=pytest.mark.slow) for turns in (1, 9)), 11])
def test_a_run_that_died_and_resumed_equals_one_that_did_not(
    whole: Any, changes: dict[str, Any], tmp_path: Path, turns: int
) -> None:
    from backflip.loop import in_turn

    broken = make_run(tmp_path / "broken", **changes)
    left = [turns]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    with pytest.raises(Killed):
        in_turn(broken, die)
    in_turn(broken)
    assert content(broken) == content(whole)


@pytest.mark.parametrize("flushes", [False, True])
def test_a_program_computes_after_a_run_in_turn_as_before(tmp_path: Path, flushes: bool) -> None:
    import torch

    from backflip.loop import in_turn

    def computes() -> tuple[int, bool]:
        return torch.get_num_threads(), (torch.tensor(sys.float_info.min, dtype=torch.float64) / 2).item() == 0

    def look() -> None:
        assert computes() == (1, True)
        raise Killed

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.set_flush_denormal(flushes)
        with pytest.raises(Killed):
            in_turn(make_run(tmp_path / "run"), look)
        assert computes() == (3, flushes)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


@pytest.mark.slow
def test_a_backup_of_a_run_that_goes_on_ends_as_the_run_does(
    whole: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    from backflip.backup import back_up
    from backflip.loop import in_turn
    from backflip.rundir import RunDir

    run = make_run(tmp_path / "run", **changes)
    left = [20]

    def copy_and_die() -> None:
        left[0] -= 1
        if left[0] == 0:
            back_up(run, tmp_path / "copy")
            raise Killed

    with pytest.raises(Killed):
        in_turn(run, copy_and_die)
    copy = RunDir.open(tmp_path / "copy")
    assert copy.newest("act") is not None
    in_turn(copy)
    assert content(copy) == content(whole)


@pytest.mark.slow
def test_a_run_killed_with_signal_9_resumes_to_the_same_bytes(
    whole: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    from backflip.loop import in_turn

    broken = make_run(tmp_path / "broken", **changes)
    program = (
        "import sys; from pathlib import Path; from backflip.loop import in_turn; from backflip.rundir import RunDir;"
        "in_turn(RunDir.open(Path(sys.argv[1])))"
    )
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", program, str(broken.path)])
        before = broken.told("act").get("steps", 0)
        deadline = time.monotonic() + 60
        checkpoint, last = broken.settings["checkpoint_steps"], broken.settings["steps"] - 1_000
        while broken.told("act").get("steps", 0) < min(before + checkpoint, last) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    in_turn(broken)
    assert content(broken) == content(whole)


def test_the_policy_is_the_same_when_the_true_reward_is_replaced_by_nan(
    whole: Any, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of a run are given again to one whose environments pay NaN: whoever read them would be found out."""
    from backflip import asking, envs
    from backflip.loop import in_turn
    from backflip.preferences import Choice, Preference

    with closing(whole.store()) as store:
        answers = {(query.left, query.right): given for given, query in store.preferences()}

    class Recorded:
        name = "oracle"

        def teach(self, store: Any) -> int:
            queries = store.open_queries()
            for query in queries:
                given = answers[query.left, query.right]
                store.answer(Preference(given.uuid, query.id, Choice(given.choice), given.teacher))
            return len(queries)

    task = envs.find_task("Pendulum-v1")
    monkeypatch.setitem(envs.TASKS, "Pendulum-v1", replace(task, has_true_reward=False))
    monkeypatch.setattr(asking, "make_teacher", lambda run, settings: Recorded())
    blind = make_run(tmp_path / "blind", **changes)
    in_turn(blind)
    recent = _recent(blind)
    assert np.isnan(recent.true_rewards).all()
    first, second = content(whole), content(blind)
    for name in ("event", "query", "act/policy", "fit/fitter", "fit/reward", "reward/reward"):
        assert first[name] == second[name], name
    assert first["segment"] != second["segment"]


def evaluations(run: Any) -> dict[int, float]:
    """Steps and values of every evaluation."""
    lines, _ = run.metrics()
    return {line["step"]: line["value"] for line in lines if line["name"] == "act/evaluation"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), {"state": "stopped"}),
        (RuntimeError("of all\nthings"), {"state": "failed", "message": "things"}),
        (MemoryError(), {"state": "failed", "message": "MemoryError"}),
    ],
)
def test_a_run_that_breaks_off_in_turn_says_so(tmp_path: Path, error: BaseException, told: dict[str, str]) -> None:
    from backflip.loop import in_turn

    run = make_run(tmp_path / "run")

    def breaks() -> None:
        assert run.told("run")["state"] == "running"
        raise error

    with pytest.raises(type(error)):
        in_turn(run, breaks)
    assert told.items() <= run.told("run").items()


@pytest.mark.slow
def test_evaluating_now_and_then_is_recorded_and_changes_nothing(
    whole: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    from backflip.loop import in_turn

    every = whole.settings["steps"] // 4
    watched = make_run(tmp_path / "watched", evaluate_steps=every, evaluate_episodes=2, **changes)
    in_turn(watched)
    assert content(watched) == content(whole)
    assert evaluations(whole) == {}
    # A rollout of 8 environments is 64 steps long, that of SAC 32: a segment of 30 in whole bursts of 8. The first that
    # ends at or after each quarter is followed by an evaluation.
    rollout = 8 * (32 if changes else 64)
    found = evaluations(watched)
    assert list(found) == [-(-every * k // rollout) * rollout for k in range(1, 5)]
    assert all(-2_000 < value < 0 for value in found.values())
    assert len(set(found.values())) == len(found)


@pytest.mark.slow
def test_a_resumed_run_has_the_evaluations_of_one_that_did_not_die(tmp_path: Path) -> None:
    from backflip.loop import in_turn

    found = []
    for dies in (False, True):
        small = {**changes_for("sac"), "steps": 6_000, "checkpoint_steps": 2_000, "labels": 12}
        run = make_run(tmp_path / str(dies), evaluate_steps=1_000, evaluate_episodes=2, **small)
        if dies:
            left = [13]

            def die(left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed

            with pytest.raises(Killed):
                in_turn(run, die)
            assert list(evaluations(run)) == [1024, 2048, 3072]  # the last one after the checkpoint at 2048
        in_turn(run)
        found.append(evaluations(run))
    assert len(found[0]) == 6
    assert found[0] == found[1]


def test_a_tasks_own_discount_is_that_of_its_sac(monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip import envs
    from backflip.acting import make_policy
    from backflip.policies.sac import SAC, SACConfig
    from backflip.settings import Settings

    task = envs.find_task("Pendulum-v1")
    settings = Settings("Pendulum-v1", teacher="oracle", policy="sac", sac=SACConfig(capacity=10, discount=0.98))
    for own, wanted in ((None, 0.98), (0.9, 0.9)):
        monkeypatch.setitem(envs.TASKS, "Pendulum-v1", replace(task, discount=own))
        policy = make_policy(settings, 1)
        assert isinstance(policy, SAC)
        assert policy.config.discount == wanted


def test_nothing_is_asked_and_nobody_is_waited_for_before_the_random_steps_are_over(tmp_path: Path) -> None:
    from backflip.acting import Act
    from backflip.asking import Ask
    from backflip.settings import Settings

    # Two labels are asked about the untrained policy, from four segments: those of the first rollout are enough.
    run = make_run(tmp_path / "run", **{**changes_for("sac"), "labels": 8})
    with closing(run.store()) as store:
        settings = Settings.from_dict(run.settings)
        act, ask = Act(run, store, settings), Ask(run, store, settings)
        steps = []
        while act.step(wait=True):
            steps.append(act.policy.steps)
            assert ask.step() == (act.policy.steps >= 600)
        assert steps == [256, 512, 768]
        assert store.counts().asked == 2
        assert run.told("act")["state"] == "waiting for the first answers"


@pytest.mark.parametrize("calibrate_on", ["recent", "labelled"])
def test_r_hat_is_normalised_on_what_is_newest_or_on_what_was_compared(tmp_path: Path, calibrate_on: str) -> None:
    from backflip.acting import Act
    from backflip.asking import Ask
    from backflip.fitting import Fit
    from backflip.segments import concatenate
    from backflip.settings import Settings

    run = make_run(tmp_path / "run", calibrate_on=calibrate_on, calibrate_steps=0, calibrate_segments=20)
    with closing(run.store()) as store:
        settings = Settings.from_dict(run.settings)
        act, ask, fit = Act(run, store, settings), Ask(run, store, settings), Fit(run, store, settings)
        while not fit.step():
            act.step()
            ask.step()
        act.step()  # and there is newer behaviour than was compared
        # Without new answers, it is measured anew only where that is another measurement.
        assert fit.step() == (calibrate_on == "recent")
        recent, compared = store.recent(20), store.comparisons()
        assert recent
        assert compared
        labelled = concatenate([compared.left, compared.right])
        for name, segments in {"recent": recent, "labelled": labelled}.items():
            paid = fit.fitter.ensemble.member_rewards(segments.observations, segments.actions).reshape(3, -1)
            normal = np.abs(paid.mean(1)).max() < 1e-3 and np.abs(paid.std(1) - 1).max() < 1e-3
            assert normal == (name == calibrate_on), name


def test_when_every_answer_is_taken_back_fitting_waits_for_others(tmp_path: Path) -> None:
    from backflip.fitting import Fit
    from backflip.preferences import Choice, Preference
    from backflip.settings import Settings

    run = make_run(tmp_path / "run", calibrate_on="recent", calibrate_steps=0)
    with closing(run.store()) as store:
        settings = Settings.from_dict(run.settings)
        _answer_thrice(run, store, settings)
        fit = Fit(run, store, settings)
        assert fit.step()
        fit.save(1)
        for preference, _ in store.preferences():
            store.exclude(f"no {preference.uuid}", "ana", preference.uuid)
        again = Fit(run, store, settings)
        again.load()
        for resumed_or_not in (fit, again):
            assert not resumed_or_not.step()
            assert not resumed_or_not.step()
        (query,) = store.ask(store.recent(60).ids[[[0, 2]]])
        store.answer(Preference("new", query.id, Choice("left"), "cleo"))
        for resumed_or_not in (fit, again):
            assert resumed_or_not.step()


def test_each_annotators_error_rate_is_estimated_before_a_fit_and_told(tmp_path: Path) -> None:
    import json

    from backflip.fit import FitConfig
    from backflip.fitting import Fit
    from backflip.settings import Settings

    fit_config = FitConfig(**QUICK_FIT, error_rates="annotator")
    run = make_run(tmp_path / "run", fit=fit_config, labels=60)
    with closing(run.store()) as store:
        settings = Settings.from_dict(run.settings)
        assert settings.fit == fit_config
        _answer_thrice(run, store, settings)
        fit = Fit(run, store, settings)
        assert fit.step()
    rates = json.loads(run.told("error_rates")["rates"])
    # Two say the same of every pair, and the third says now this, now that.
    assert set(rates) == {"ana", "ben", "part"}
    assert max(rates["ana"], rates["ben"]) < 0.1 < 0.4 < rates["part"]


def _answer_thrice(run: Any, store: Any, settings: Any) -> None:
    """Thirty queries about what an untrained policy does, each answered by three annotators."""
    from backflip.acting import Act
    from backflip.preferences import Choice, Preference

    act = Act(run, store, settings)
    while store.counts().segments < 60:
        act.step()
    asked = store.ask(store.recent(60).ids.reshape(30, 2))
    for number, query in enumerate(asked):
        said = {"ana": "left", "ben": "left", "part": ["left", "right"][number % 2]}
        for name, choice in said.items():
            store.answer(Preference(f"{name} {number}", query.id, Choice(choice), name))


def _recent(run: Any) -> Any:
    with closing(run.store()) as store:
        return store.recent(100)


@pytest.mark.slow
def test_a_quarter_of_the_labels_is_asked_before_the_policy_learns(tmp_path: Path) -> None:
    from backflip.loop import in_turn

    run = make_run(tmp_path / "run", labels=40, steps=8_000)
    in_turn(run)
    with closing(run.store()) as store:
        asked = [query.policy_steps for _, query in store.preferences()]
        predicted = [bool(query.p_left) for _, query in store.preferences()]
    first = [steps for steps, knew in zip(asked, predicted, strict=True) if not knew]
    assert len(first) == 10
    assert len(set(first)) == 1
    assert len(asked) == 40


def test_a_run_too_short_for_its_labels_begins_to_learn_after_a_quarter_of_its_steps(tmp_path: Path) -> None:
    from backflip.loop import in_turn

    run = make_run(tmp_path / "run", labels=120, steps=4_096)
    in_turn(run)
    with closing(run.store()) as store:
        asked = [query.policy_steps for _, query in store.preferences()]
    assert min(asked) == 1_024
    assert len(asked) > 60
    assert run.newest_number("reward") is not None


def test_episodes_that_ended_before_a_checkpoint_are_measured(tmp_path: Path) -> None:
    from backflip.acting import Act
    from backflip.settings import Settings

    run = make_run(tmp_path / "run")
    with closing(run.store()) as store:
        act = Act(run, store, Settings.from_dict(run.settings))
        while not act.episodes.finished:
            act.step()
        wanted = float(np.mean([true_return for true_return, _ in act.episodes.finished]))
        act.save(1)
    measured = {line["name"]: line["value"] for line in run.metrics()[0]}
    assert measured["act/true_return"] == pytest.approx(wanted)
    assert measured["act/episode_steps"] == 200


def test_steps_are_counted_at_the_environments_and_end_where_the_budget_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium.envs.classic_control.pendulum import PendulumEnv

    from backflip.loop import in_turn

    stepped = [0]
    plain: Callable[[PendulumEnv, Any], Any] = PendulumEnv.step

    def counted(self: PendulumEnv, action: Any) -> Any:
        stepped[0] += 1
        return plain(self, action)

    monkeypatch.setattr(PendulumEnv, "step", counted)
    run = make_run(tmp_path / "run", steps=2_000, labels=12)
    in_turn(run)
    per_rollout = 8 * 75  # 75 is half of Pendulum's... the longer of rollout and segment
    told = run.told("act")["steps"]
    assert stepped[0] == told
    assert 2_000 <= told < 2_000 + max(per_rollout, 8 * 64)


@pytest.mark.slow
def test_every_fallible_teacher_finishes_a_run(tmp_path: Path) -> None:
    from backflip.loop import in_turn
    from backflip.teachers.oracle import FALLIBLE

    for teacher in FALLIBLE:
        run = make_run(tmp_path / teacher, task="CartPole-v1", teacher=teacher, labels=12, steps=2_500)
        in_turn(run)
        with closing(run.store()) as store:
            counts = store.counts()
        assert counts.labels - counts.incomparable == 12, teacher
        assert counts.open == 0


SCRIPTED: dict[str, Any] = {
    "task": "hopper-backflip",
    "teacher": "scripted",
    "labels": 30,
    "steps": 4_000,
    "segment_steps": 50,
    "checkpoint_steps": 2_000,
}


@pytest.mark.slow
def test_a_script_teaches_in_turn_and_twice_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip.envs import clips, find_task, painter
    from backflip.loop import in_turn
    from backflip.preferences import Choice

    def drawn(*_: Any) -> Any:
        raise AssertionError("nobody looks at clips here")

    monkeypatch.setattr(clips, "draw_segment", drawn)
    monkeypatch.setattr(painter, "Painter", drawn)
    runs = [make_run(tmp_path / name, **SCRIPTED) for name in ("one", "two")]
    for run in runs:
        in_turn(run)
    assert content(runs[0]) == content(runs[1])
    task = find_task("hopper-backflip")
    assert task.script
    with closing(runs[0].store()) as store:
        given = store.preferences()
        sides = [store.segments([query.left, query.right], states=True) for _, query in given]
        newest = store.recent(8)
    assert len(given) == 30
    assert all(side.states.shape == (2, 50, 12) for side in sides)
    right = 0
    for (answer, _), side in zip(given, sides, strict=True):
        left_score, right_score = (
            task.script(states, seen, 50.0) for states, seen in zip(side.states, side.observations, strict=True)
        )
        tie = abs(left_score - right_score) < task.script_margin
        assert (answer.choice is Choice.EQUAL) == tie
        right += tie or answer.choice is (Choice.LEFT if left_score > right_score else Choice.RIGHT)
    assert 20 <= right < len(given)  # one mistake in ten
    assert np.isnan(newest.true_rewards).all()


def test_a_scripted_run_is_recorded_in_all_its_environments(tmp_path: Path) -> None:
    from backflip.acting import make_policy
    from backflip.settings import Settings

    settings = Settings.from_dict(make_run(tmp_path / "run", **SCRIPTED).settings)
    assert settings.needs_states
    policy = make_policy(settings, 50)
    assert policy.collector.filmed == policy.collector.environments == 8
    policy.collector.close()


@pytest.mark.slow
def test_more_steps_go_on_from_the_last_checkpoint_with_a_larger_memory(tmp_path: Path) -> None:
    from backflip.api import extend
    from backflip.files import load_arrays
    from backflip.loop import in_turn
    from backflip.policies.sac import SACConfig

    def remembered() -> Any:
        newest = run.newest("act")
        assert newest is not None
        return load_arrays(newest.path / "policy.safetensors")[0]["replay"]

    sac = SACConfig(updates_per_step=0.05, batch=32, width=32, random_steps=500)
    run = make_run(tmp_path / "run", **{**changes_for("sac"), "sac": sac, "steps": 5_000, "labels": 20})
    in_turn(run)
    first = remembered()
    extend(run, steps=9_000, labels=30)
    in_turn(run)
    second = remembered()
    assert len(second) >= 9_000
    observed_and_done = slice(0, -2)  # what a step was paid changes with r̂
    assert np.array_equal(second[: len(first), observed_and_done], first[:, observed_and_done])
    with closing(run.store()) as store:
        assert store.counts().labels == 30


@pytest.mark.slow
def test_more_steps_at_once_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    from backflip.api import extend

    def to_the_end() -> None:
        process = train_at_once(run.path)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()

    run = make_run(tmp_path / "run", mode="at_once", **changes_for("sac"))
    to_the_end()
    taken = run.told("act")["steps"]
    extend(run, steps=12_000, labels=60)
    to_the_end()
    assert run.told("act")["steps"] >= 12_000
    assert run.told("run")["state"] == "finished"
    assert min(line["step"] for line in run.metrics()[0] if line["step"] > taken) > taken
    with closing(run.store(check=True)) as store:
        assert store.counts().labels > 40


@pytest.mark.slow
def test_a_behaviour_is_measured_while_training_where_evaluations_are_wanted(tmp_path: Path) -> None:
    from backflip.loop import in_turn

    run = make_run(tmp_path / "run", **{**SCRIPTED, "steps": 3_000}, evaluate_steps=2_000, evaluate_episodes=2)
    in_turn(run)
    lines = [line for line in run.metrics()[0] if line["name"] in ("act/behaviour", "act/evaluation")]
    assert [line["name"] for line in lines] == ["act/behaviour"]
    assert lines[0]["value"] == 0
    assert 2_000 <= lines[0]["step"] < 3_000


def test_a_task_with_choices_for_actions_and_early_ends_is_learned_from(tmp_path: Path) -> None:
    from backflip.loop import in_turn

    run = make_run(tmp_path / "run", task="CartPole-v1", labels=12, steps=3_000)
    in_turn(run)
    assert run.told("fit")["comparisons"] == 12
    recent = _recent(run)
    assert recent.lengths.min() < recent.lengths.max(), "CartPole's first episodes are shorter than a segment"


def test_dictionaries_of_observations_are_flattened(tmp_path: Path) -> None:
    from backflip.loop import in_turn

    run = make_run(tmp_path / "run", task="toys:DictPoint-v0", labels=8, steps=2_500)
    in_turn(run)
    assert _recent(run).observations.shape[2:] == (3,)


@pytest.mark.slow
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_run_can_keep_its_segments_and_answers_in_postgresql(store_url: str, tmp_path: Path) -> None:
    from backflip.loop import in_turn

    run = make_run(tmp_path / "run", store=store_url, steps=6_000)
    in_turn(run)
    with closing(run.store()) as store:
        assert store.counts().labels == 40
    assert not (run.path / "run.db").exists()


class Slow:
    """Acts a step at a time, and then has to wait once; counts its checkpoints."""

    def __init__(self, *_: Any) -> None:
        self.policy, self.steps, self.saved = self, 0, list[int]()
        self._waits = False

    @property
    def done(self) -> bool:
        return self.steps == 4

    def step(self, wait: bool) -> bool:
        assert wait
        self._waits = not self._waits
        self.steps += self._waits
        return self._waits

    def save(self, number: int) -> None:
        assert number == len(self.saved) + 1
        self.saved.append(self.steps)

    def load(self) -> None:
        pass

    def tell(self, state: str) -> None:
        assert state == "finished"


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, [1, 2, 3, 4, 4]), (600.0, [4])])
def test_at_once_a_slow_policy_is_saved_by_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, saved: list[int]
) -> None:
    from threading import Event

    from backflip import loop

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
    slow = Slow()
    loop.act_on(make_run(tmp_path / "run").path, loop.Parts(act=lambda *_: slow), Event())
    assert slow.saved == saved


def test_steps_that_a_killed_run_takes_again_at_once_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip import loop
    from backflip.acting import Act
    from backflip.settings import settings_of

    run = make_run(tmp_path / "run", mode="at_once")
    monkeypatch.setattr(loop, "run_together", lambda *_, **__: True)
    with closing(run.store()) as store:
        act = Act(run, store, settings_of(run))
        for number in (1, 2):
            act.step()
            run.record(act.policy.steps, {"act/value": float(number), "ask/labels": 0.0})
            if number == 1:
                act.save(number)
        act.tell("exploring")
    kept = act.policy.steps // 2
    loop.at_once(run)
    assert [(line["step"], line["name"]) for line in run.metrics()[0]] == [(kept, "act/value"), (kept, "ask/labels")]
    assert (run.told("act")["steps"], run.told("act")["state"]) == (kept, "exploring")
    with closing(run.store()) as store:
        Act(run, store, settings_of(run)).save(3)
    loop.at_once(run)
    assert run.metrics() == ([], 0), "a policy from before its first step measures all of it anew"


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def train_at_once(path: Path) -> "subprocess.Popen[bytes]":
    program = (
        "import sys; from pathlib import Path; from backflip.loop import at_once; from backflip.rundir import RunDir\n"
        "if __name__ == '__main__': at_once(RunDir.open(Path(sys.argv[1])))"
    )
    script = path.parent / "train.py"
    script.write_text(program)
    return subprocess.Popen([sys.executable, str(script), str(path)], stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["ppo", "sac"])
def test_at_once_the_three_parts_run_beside_each_other_to_the_end(tmp_path: Path, policy: str) -> None:
    steps = 40_000 if policy == "ppo" else 20_000
    run = make_run(tmp_path / "run", mode="at_once", **{**changes_for(policy), "steps": steps})
    process = train_at_once(run.path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert run.told("run")["state"] == "finished"
    assert run.told("act")["steps"] >= steps
    with closing(run.store(check=True)) as store:
        assert store.counts().labels >= 30
    newest = run.newest("reward")
    assert newest is not None
    assert 1 <= run.told("act")["reward_version"] <= newest.number, "the page says what the policy is paid by"


@pytest.mark.slow
def test_a_part_that_dies_ends_the_run_and_says_so_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", mode="at_once", steps=60_000)
    process = train_at_once(run.path)
    wait_for(lambda: run.newest_number("reward") is not None, 60, "the first r̂")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    parts = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(parts[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"killed by SIGKILL" in errors
    assert run.told("run")["state"] == "failed"
    wait_for(lambda: not any(Path(f"/proc/{part}").exists() for part in parts), 20, "the other parts to end")
    process = train_at_once(run.path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
