"""The example is short, and learns."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

MINIMAL = Path(__file__).parents[1] / "examples" / "minimal.py"
BOUND = -12.0
"""A true return of an episode: an untrained policy gets about -50, one that goes straight to the place about -4."""


@pytest.fixture(scope="module")
def minimal() -> Any:
    spec = importlib.util.spec_from_file_location("minimal", MINIMAL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_is_at_most_150_lines() -> None:
    assert len(MINIMAL.read_text().splitlines()) <= 150


@pytest.mark.slow
def test_the_example_learns_where_to_go(minimal: Any) -> None:
    assert minimal.main(seed=0) > BOUND


def test_the_bound_is_out_of_reach_for_a_policy_that_has_not_learned(minimal: Any) -> None:
    assert minimal.main(seed=0, steps=1) < 2 * BOUND


@pytest.mark.slow
def test_the_bound_is_out_of_reach_where_the_teacher_is_wrong(minimal: Any) -> None:
    from backflip.teachers.oracle import Fallibility, Oracle

    assert minimal.main(seed=0, steps=8_000, labels=40, answer=Oracle(Fallibility(mistake=1.0))) < 2 * BOUND
