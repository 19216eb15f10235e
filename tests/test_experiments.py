"""Where a run's settings come from: presets, named runs, and what is given instead."""

from dataclasses import replace
from typing import Any

import pytest

from backflip.envs import TASKS, UnknownTask, find_task
from backflip.experiments import EXPERIMENTS, FAST, PAPER, PEOPLE_STEPS, PRESETS, settings_for, with_text
from backflip.settings import Settings


def test_where_actions_are_bounded_numbers_the_fast_preset_is_taken() -> None:
    assert settings_for("Pendulum-v1", teacher="oracle") == replace(
        FAST, task="Pendulum-v1", teacher="oracle", mode="in_turn"
    )
    assert settings_for("hopper", teacher="oracle").policy == "sac"


def test_where_actions_are_choices_the_papers_preset_is_taken() -> None:
    assert settings_for("CartPole-v1", teacher="oracle") == replace(
        PAPER, task="CartPole-v1", teacher="oracle", mode="in_turn"
    )


@pytest.mark.parametrize(("preset", "policy"), [("fast", "sac"), ("paper", "ppo")])
def test_a_preset_that_is_named_is_taken(preset: str, policy: str) -> None:
    settings = settings_for("Pendulum-v1", preset, teacher="oracle")
    assert settings == replace(PRESETS[preset], task="Pendulum-v1", teacher="oracle", mode="in_turn")
    assert settings.policy == policy


def test_what_is_given_takes_the_presets_place() -> None:
    given: dict[str, Any] = {"teacher": "skip", "labels": 7, "steps": 70, "seed": 3, "mode": "at_once"}
    settings = settings_for("Pendulum-v1", segment_steps=9, **given)
    assert settings == replace(FAST, task="Pendulum-v1", segment_steps=9, **given)
    assert settings_for("Pendulum-v1", teacher="oracle", policy="ppo").policy == "ppo"


def test_a_task_with_stages_spreads_its_labels_over_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = replace(find_task("Pendulum-v1"), labels_spread=(0.4, 0.9))
    monkeypatch.setattr("backflip.experiments.find_task", lambda name: spread)
    settings = settings_for("Pendulum-v1", teacher="oracle", steps=10_000, labels=100)
    assert (settings.ask.half_life, settings.ask.until) == (4_000, 0.9)
    assert settings.schedule.labels(8_900) < 100 <= settings.schedule.labels(9_000)
    assert settings_for("Pendulum-v1", "paper", teacher="oracle", policy="ppo").ask == PAPER.ask
    assert settings_for("Pendulum-v1").ask == FAST.ask


def test_a_task_can_be_asked_about_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = replace(find_task("Pendulum-v1"), asks_about_newest=True)
    monkeypatch.setattr("backflip.experiments.find_task", lambda name: asking)
    for teacher in ("oracle", "people"):
        settings = settings_for("Pendulum-v1", teacher=teacher)
        assert settings.ask == replace(FAST.ask, newest=0.3, selector="information")
        assert settings.fit == replace(FAST.fit, steps_per_comparison=10)
    assert settings_for("Pendulum-v1", "paper", teacher="oracle").ask == PAPER.ask


def test_a_policy_seeks_what_is_new_first_where_the_task_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    exploring = replace(find_task("Pendulum-v1"), exploring_steps=700)
    monkeypatch.setattr("backflip.experiments.find_task", lambda name: exploring)
    assert settings_for("Pendulum-v1", teacher="oracle").sac == replace(FAST.sac, entropy_steps=700)
    assert settings_for("Pendulum-v1", teacher="scripted").sac.entropy_steps == 700
    assert settings_for("Pendulum-v1", teacher="scripted").sac.constant_until == 0.6
    assert settings_for("Pendulum-v1", "paper", teacher="oracle").sac.entropy_steps == 0


def test_where_a_distance_counts_r_hat_reads_sizes() -> None:
    assert find_task("reacher").reads_sizes
    settings = settings_for("reacher", teacher="oracle")
    assert settings.reward == replace(FAST.reward, sizes=True)
    assert (settings.fit.l2, settings.fit.largest_l2) == pytest.approx((3e-4, 3e-3))
    assert replace(settings.fit, l2=FAST.fit.l2, largest_l2=FAST.fit.largest_l2) == FAST.fit
    assert settings_for("reacher").reward.sizes
    assert settings_for("reacher", "paper", teacher="oracle").reward == PAPER.reward
    assert settings_for("cheetah", teacher="oracle").reward == FAST.reward


@pytest.mark.parametrize("preset", PRESETS)
def test_people_see_a_second_and_a_half_and_end_the_run_themselves(preset: str) -> None:
    for settings in (settings_for("Pendulum-v1", preset), settings_for("Pendulum-v1", preset, teacher="people")):
        assert (settings.teacher, settings.mode, settings.steps) == ("people", "at_once", PEOPLE_STEPS)
        assert settings.segment_steps is None
        assert settings.policy == PRESETS[preset].policy
    assert settings_for("Pendulum-v1", preset, steps=5, segment_steps=20).segment_steps == 20
    assert settings_for("Pendulum-v1", preset, steps=5, segment_steps=20).steps == 5


def test_a_script_sees_segments_as_short_as_the_task_says(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(find_task("Pendulum-v1"), segment_steps=7)
    monkeypatch.setattr("backflip.experiments.find_task", lambda name: short)
    assert settings_for("Pendulum-v1", teacher="scripted").segment_steps == 7
    assert settings_for("Pendulum-v1", "paper", teacher="scripted").segment_steps is None
    assert settings_for("Pendulum-v1", teacher="judge").segment_steps is None


@pytest.mark.parametrize("task", ["hopper-backflip", "cheetah-one-leg"])
def test_a_script_is_asked_late_and_its_reward_is_held_smaller(task: str) -> None:
    fast = settings_for(task, teacher="scripted")
    assert fast.ask.initial_fraction == 0.1
    assert (fast.fit.l2, fast.fit.largest_l2) == (1e-2, 1e-1)
    assert (FAST.fit.steps_per_comparison, fast.fit.steps_per_comparison) == (20, None)
    assert settings_for(task, "paper", teacher="scripted").fit == PAPER.fit
    assert settings_for(task).fit == FAST.fit


def test_people_cannot_be_told_to_answer_in_turn() -> None:
    with pytest.raises(ValueError, match="people cannot answer in turn"):
        settings_for("Pendulum-v1", mode="in_turn")


def test_an_unknown_preset_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match="no preset is called 'quick'; there are: fast, paper"):
        settings_for("Pendulum-v1", "quick")


def test_a_completion_of_long_ago_is_no_longer_asked_about() -> None:
    for teacher in ("people", "judge"):
        settings = settings_for("sentiment", teacher=teacher)
        assert settings.ask.recent < settings.ask.stale_steps == 5_000


def test_a_larger_model_is_saved_sooner() -> None:
    plain = settings_for("sentiment")
    assert with_text(plain, {"model": "smollm2"}).checkpoint_steps == 600
    assert with_text(plain, {"model": "tiny"}).checkpoint_steps == plain.checkpoint_steps == 10_000
    assert with_text(replace(plain, checkpoint_steps=64), {"model": "smollm2"}).checkpoint_steps == 64


def test_an_unknown_task_is_said() -> None:
    with pytest.raises(UnknownTask, match="'pendulun'; did you mean pendulum"):
        settings_for("pendulun", teacher="oracle")


def test_a_preset_is_whole_but_for_its_task() -> None:
    for preset in PRESETS.values():
        assert preset.task == ""
        assert Settings.from_dict(preset.to_dict()) == preset
    assert Settings("") == PAPER  # the paper's numbers are the defaults everywhere


def test_the_fast_preset_has_asked_for_everything_well_before_its_end() -> None:
    settings = replace(FAST, task="hopper", teacher="oracle")
    begin, end = settings.steps_before_training, settings.steps
    assert settings.schedule.labels(begin) == settings.labels_before_training < settings.labels
    assert settings.schedule.labels(round(0.8 * end)) == settings.labels
    due = [settings.schedule.labels(t) for t in range(0, end, 100)]
    assert due == sorted(due)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_named_run_has_a_task_that_there_is(name: str) -> None:
    task = EXPERIMENTS[name].task
    assert task in TASKS or task == "Pendulum-v1"


def test_the_demo_is_what_train_does_with_the_same_hopper() -> None:
    assert EXPERIMENTS["demo"] == settings_for("hopper-backflip", labels=900)


@pytest.mark.parametrize(("task", "steps"), [("cheetah", 50), ("reacher", 16), ("Pendulum-v1", 50), ("swimmer", 100)])
def test_a_segment_of_the_fast_preset_is_a_third_of_an_episode_at_most(task: str, steps: int) -> None:
    # Episodes of 1000, 50 and 200 steps; the swimmer's strokes take longer than most.
    assert settings_for(task, "fast", teacher="oracle").segment_steps == steps
