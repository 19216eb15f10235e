"""Settings of a run: they come back as they went, and what cannot be is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from backflip.fit import FitConfig
from backflip.policies.ppo import PPOConfig
from backflip.queries import AskConfig
from backflip.reward import RewardConfig
from backflip.settings import Settings, reset_seed
from backflip.teachers.oracle import FALLIBLE

ODD = Settings(
    task="reacher",
    teacher="mistake",
    labels=123,
    steps=456_789,
    seed=7,
    mode="in_turn",
    segment_steps=9,
    store="postgresql://u@h/d",
    ppo=PPOConfig(environments=4, minibatch=64, anneal=True),
    reward=RewardConfig(members=5, deviation=0.05),
    fit=FitConfig(band=(1.2, 1.4), l2=0.01),
    ask=AskConfig(selector="uniform", oversample=3),
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
        ({"teacher": "nobody"}, r"no teacher is called 'nobody'; there are: people, oracle, .*equal"),
        ({"labels": 0}, "labels is 0 and steps is 2000000; both must be at least 1"),
        ({"steps": 0}, "labels is 700 and steps is 0; both must be at least 1"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"segment_steps": 0}, "segment_steps is 0; a segment has at least one step"),
        ({"mode": "in_turn"}, "people cannot answer in turn: .*use --mode at_once"),
    ],
)
def test_what_cannot_be_is_refused_in_words(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings("hopper", **values)


@pytest.mark.parametrize("minibatch", [0, 1, 2049])
def test_a_minibatch_that_does_not_fit_a_rollout_is_refused(minibatch: int) -> None:
    with pytest.raises(ValueError, match=rf"minibatch is {minibatch}, but a rollout has 16 x 128 = 2048 steps"):
        Settings("hopper", ppo=PPOConfig(minibatch=minibatch))


@pytest.mark.parametrize("teacher", FALLIBLE)
def test_every_teacher_but_people_may_answer_in_turn(teacher: str) -> None:
    assert not Settings("hopper", teacher=teacher, mode="in_turn").asks_people
    assert Settings("hopper").asks_people


def test_training_begins_after_a_quarter_of_an_oracles_labels_and_a_few_of_peoples() -> None:
    oracle = Settings("hopper", teacher="oracle", labels=700)
    assert (oracle.labels_before_training, oracle.segments_before_training) == (175, 350)
    assert Settings("hopper", teacher="oracle", labels=1).labels_before_training == 1
    none_first = Settings("hopper", teacher="oracle", ask=AskConfig(initial_fraction=0.0))
    assert none_first.labels_before_training == 1  # or there would never be an r̂
    people = Settings("hopper")
    assert (people.labels_before_training, people.segments_before_training) == (10, 100)
    assert Settings("hopper", labels=3).labels_before_training == 3
    assert replace(oracle, labels=10_000).segments_before_training == 1000


def test_the_schedule_is_that_of_the_settings() -> None:
    settings = Settings("hopper", teacher="oracle", steps=20_000_000)
    assert [settings.schedule.labels(t) for t in (0, 20_000_000)] == [175, 700]


def test_environments_begin_from_seeds_that_differ_by_run_and_checkpoint() -> None:
    seeds = {reset_seed(seed, iteration) for seed in range(30) for iteration in range(300)}
    assert len(seeds) > 0.999 * 30 * 300
    assert all(0 <= seed < 2**31 for seed in seeds)
