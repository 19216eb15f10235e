"""Settings of a run: they come back as they went, and what cannot be is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from backflip.fit import FitConfig
from backflip.policies.ppo import PPOConfig
from backflip.policies.sac import SACConfig
from backflip.queries import AskConfig
from backflip.reward import RewardConfig
from backflip.settings import SCRIPTED, SPARE_STEPS, Settings, reset_seed
from backflip.teachers.oracle import FALLIBLE

ODD = Settings(
    task="reacher",
    teacher="mistake",
    labels=123,
    steps=456_789,
    seed=7,
    mode="in_turn",
    policy="sac",
    segment_steps=9,
    calibrate_on="labelled",
    evaluate_steps=5000,
    question="Which reaches?",
    store="postgresql://u@h/d",
    disk_megabytes=77,
    log=("wandb", "tensorboard"),
    ppo=PPOConfig(environments=4, minibatch=64, anneal=True),
    sac=SACConfig(batch=64, bfloat16=False, entropy_steps=1000),
    reward=RewardConfig(members=5, deviation=0.05),
    fit=FitConfig(band=(1.2, 1.4), l2=0.01, shortest_crop=0.5),
    ask=AskConfig(selector="diverse", oversample=3, until=0.5, session=10),
)


@pytest.mark.parametrize("settings", [Settings("hopper"), ODD])
def test_settings_come_back_from_json_as_they_were(settings: Settings) -> None:
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_values_that_this_version_does_not_know_are_left_out_and_missing_ones_have_their_default() -> None:
    values: dict[str, Any] = {"task": "hopper", "labels": 5, "invented": 1, "fit": {"batch": 8, "invented": 2}}
    assert Settings.from_dict(values) == Settings("hopper", labels=5, fit=FitConfig(batch=8))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"teacher": "nobody"}, r"no teacher is called 'nobody'; there are: people, scripted, judge, oracle, .*equal"),
        ({"labels": 0}, "labels is 0 and steps is 2000000; both must be at least 1"),
        ({"steps": 0}, "labels is 700 and steps is 0; both must be at least 1"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"segment_steps": 0}, "segment_steps is 0; a segment has at least one step"),
        (
            {"log": ("paper",)},
            r"log is \('paper',\); it must be a tuple, and measurements can go to: tensorboard, wandb, trackio",
        ),
        ({"question": " "}, "question is ' '; say what people are asked, or leave it out for the task's own"),
        ({"disk_megabytes": 0}, "disk_megabytes is 0; a run directory takes at least 1, better 1000"),
        ({"evaluate_steps": 0}, "evaluate_steps is 0 and evaluate_episodes 10; both are at least 1, or leave"),
        ({"evaluate_steps": 5, "evaluate_episodes": 0}, "evaluate_steps is 5 and evaluate_episodes 0; both are"),
        (
            {"store": "word"},
            "^store is 'word'; it is the address of a PostgreSQL database, postgresql://user@host/name",
        ),
        ({"store": "sqlite:///a.db"}, "^store is 'sqlite:///a.db'; .* leave it out"),
        ({"store": "mysql://me:secret@host/d"}, r"^store is '\.\.\.@host/d'; "),
        ({"store": ""}, "^store is ''; "),
        ({"mode": "in_turn"}, "people cannot answer in turn: .*use --mode at_once"),
    ],
)
def test_what_cannot_be_is_refused_in_words(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings("hopper", **values)


WRONG = {
    "Settings('hopper', policy='trpo')": "policy is 'trpo'; it must be one of ppo, sac",
    "Settings('hopper', mode='quick')": "mode is 'quick'; it must be one of in_turn, at_once",
    "Settings('hopper', calibrate_on='labeled')": "calibrate_on is 'labeled'; it must be one of recent, labelled",
    "AskConfig(selector='varience')": "selector is 'varience'; it must be one of "
    "variance, entropy, information, diverse, uniform",
    "PeopleConfig(clips='pose')": "clips is 'pose'; it must be one of poses, sheets",
    "FitConfig(error_rates='each')": "error_rates is 'each'; it must be one of flat, annotator",
    "TuneConfig(aggregate='median')": "aggregate is 'median'; it must be one of mean, pessimistic, minimum",
    "Settings('hopper', labels='10')": "labels is '10'; it must be a whole number",
    "Settings('hopper', steps=1.5)": "steps is 1.5; it must be a whole number",
    "Settings('hopper', steps=float('inf'))": "steps is inf; it must be a whole number",
    "Settings('hopper', steps=None)": "steps is None; it must be a whole number",
    "Settings('hopper', seed=True)": "seed is True; it must be a whole number",
    "SACConfig(discount='.9')": "discount is '.9'; it must be a number",
    "FitConfig(l2=float('nan'))": "l2 is nan; it must be a number",
    "Settings('hopper', log='wandb')": "log is 'wandb'; it must be a tuple, and measurements can go to: "
    "tensorboard, wandb, trackio",
}
"""Settings of a wrong kind, and what is said of them."""


UNCHECKED = """
import json, sys
import numpy as np
import backflip
from backflip.settings import *

said = {}
for made in [*json.load(sys.stdin), "backflip.train(3)"]:
    try:
        eval(made)
    except ValueError as error:
        said[made] = f"{type(error).__name__}: {error}"
ask = AskConfig(session=np.int64(5), half_life=np.float32(2))
plain = Settings("hopper", steps=3e5, labels=np.int32(7), segment_steps=25.0, ask=ask)
print(json.dumps({"said": said, "plain": json.dumps(plain.to_dict())}))
"""


@pytest.fixture(scope="module")
def unchecked() -> dict[str, Any]:
    """What a process says in which no types are checked, as here they are before anything is said in words."""
    command = [sys.executable, "-c", UNCHECKED]
    done = subprocess.run(command, input=json.dumps(list(WRONG)), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("made", WRONG)
def test_a_wrong_word_or_number_is_answered_with_what_is_right(unchecked: dict[str, Any], made: str) -> None:
    assert unchecked["said"][made] == f"ValueError: {WRONG[made]}"


def test_whole_floats_and_numbers_of_numpy_become_plain_ones(unchecked: dict[str, Any]) -> None:
    settings = json.loads(unchecked["plain"])
    assert [settings[name] for name in ("steps", "labels", "segment_steps")] == [300_000, 7, 25]
    assert '"steps": 300000,' in unchecked["plain"]
    assert (settings["ask"]["session"], settings["ask"]["half_life"]) == (5, 2.0)


def test_a_task_that_is_no_name_is_answered_with_how_to_name_one(unchecked: dict[str, Any]) -> None:
    assert unchecked["said"]["backflip.train(3)"].startswith("UnknownTask: task is 3; it is a name")
    assert "module:id" in unchecked["said"]["backflip.train(3)"]


@pytest.mark.parametrize("minibatch", [0, 1, 2049])
def test_a_minibatch_that_does_not_fit_a_rollout_is_refused(minibatch: int) -> None:
    with pytest.raises(ValueError, match=rf"minibatch is {minibatch}, but a rollout has 16 x 128 = 2048 steps"):
        Settings("hopper", ppo=PPOConfig(minibatch=minibatch))


@pytest.mark.parametrize("teacher", [SCRIPTED, *FALLIBLE])
def test_every_teacher_but_people_may_answer_in_turn(teacher: str) -> None:
    assert not Settings("hopper", teacher=teacher, mode="in_turn").asks_people
    assert Settings("hopper").asks_people


def test_only_people_and_scripts_look_at_the_simulators_states() -> None:
    assert Settings("hopper").needs_states
    assert Settings("hopper", teacher=SCRIPTED).needs_states
    assert not any(Settings("hopper", teacher=teacher).needs_states for teacher in FALLIBLE)


def test_training_begins_after_a_quarter_of_an_oracles_labels_and_a_few_of_peoples() -> None:
    oracle = Settings("hopper", teacher="oracle", labels=700)
    assert (oracle.labels_before_training, oracle.segments_before_training) == (175, 350)
    assert Settings("hopper", teacher="oracle", labels=1).labels_before_training == 1
    none_first = Settings("hopper", teacher="oracle", ask=AskConfig(initial_fraction=0.0))
    assert none_first.labels_before_training == 1  # or there would never be an r̂
    people = Settings("hopper")
    assert (people.labels_before_training, people.segments_before_training) == (10, 64)
    assert Settings("hopper", labels=3).labels_before_training == 3
    assert replace(oracle, labels=10_000).segments_before_training == 1000


def test_a_quarter_of_a_run_is_enough_to_begin_with_where_all_of_it_is_short() -> None:
    short = Settings("hopper", teacher="oracle", labels=700, steps=10_000)
    assert [short.has_shown_enough(segments, steps) for segments, steps in ((349, 2_499), (350, 0))] == [False, True]
    assert [short.has_shown_enough(segments, 2_500) for segments in (1, 2)] == [False, True]


def test_the_schedule_is_that_of_the_settings() -> None:
    settings = Settings("hopper", teacher="oracle", steps=20_000_000)
    assert [settings.schedule.labels(t) for t in (0, 20_000_000)] == [175, 700]


def test_a_run_of_before_there_was_a_choice_goes_on_with_ppo() -> None:
    old = Settings("hopper", labels=5, ppo=PPOConfig(anneal=True)).to_dict()
    for name in ("policy", "sac", "calibrate_on", "evaluate_steps", "evaluate_episodes"):
        del old[name]
    for name in ("until", "session"):
        del old["ask"][name]
    del old["fit"]["shortest_crop"]
    settings = Settings.from_dict(old)
    assert settings == Settings("hopper", labels=5, ppo=PPOConfig(anneal=True))
    assert (settings.policy, settings.calibrate_on, settings.evaluate_steps) == ("ppo", "recent", None)


def test_sac_takes_its_random_steps_before_training_and_ppo_none() -> None:
    sac = SACConfig(random_steps=3000, entropy_steps=500)
    assert Settings("hopper", policy="sac", sac=sac).steps_before_training == 3500
    assert Settings("hopper", policy="ppo", sac=sac).steps_before_training == 0


def test_labels_are_due_from_where_training_begins_to_where_asking_ends() -> None:
    ask = AskConfig(initial_fraction=0.25, until=0.5, session=10)
    settings = Settings("hopper", teacher="oracle", labels=200, steps=100_000, policy="sac", ask=ask)
    begin = settings.steps_before_training
    assert begin == 4000
    due = settings.schedule.labels
    assert [due(t) for t in (0, begin, 49_000, 50_000, 100_000)] == [50, 50, 190, 200, 200]
    ppo = replace(settings, policy="ppo").schedule.labels
    assert [ppo(t) for t in (0, 49_000, 50_000)] == [50, 190, 200]


def test_a_run_too_short_to_train_has_a_schedule_all_the_same() -> None:
    settings = Settings("hopper", teacher="oracle", labels=40, steps=2000, policy="sac", ask=AskConfig(until=0.01))
    assert [settings.schedule.labels(t) for t in (0, 400, 401)] == [10, 10, 40]


def test_a_short_run_acts_at_random_for_a_fifth_of_its_steps_and_a_long_one_as_long_as_set() -> None:
    short, long = (Settings("hopper", teacher="oracle", steps=steps, policy="sac") for steps in (5_000, 500_000))
    assert (short.steps_before_training, long.steps_before_training) == (1_000, SACConfig().random_steps)
    assert replace(long, policy="ppo").steps_before_training == 0


def test_environments_begin_from_seeds_that_differ_by_run_and_checkpoint() -> None:
    seeds = {reset_seed(seed, iteration) for seed in range(30) for iteration in range(300)}
    assert len(seeds) > 0.999 * 30 * 300
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_policy_remembers_no_more_than_its_run_is_long() -> None:
    short, long = (Settings("hopper", teacher="oracle", policy="sac", steps=steps) for steps in (1_000, 10**9))
    assert short.exploration.capacity == 1_000 + SPARE_STEPS
    assert long.exploration.capacity == long.sac.capacity
