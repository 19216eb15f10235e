"""How far r̂ can be trusted: agreement on fresh pairs and the alarm, as they are recorded and told."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def run(tmp_path: Path) -> Any:
    from backflip.rundir import RunDir

    return RunDir.create(tmp_path / "run", {"seed": 1})


@pytest.fixture
def store(run: Any) -> Iterator[Any]:
    with closing(run.store()) as store:
        yield store


def answer(store: Any, make_segments: Any, agreed: list[bool], steps: int) -> None:
    """Pairs that r̂ predicted with 0.9 when the policy had made so many steps, and answers that agreed or did not."""
    from backflip.preferences import Choice, Preference
    from backflip.store import new_uuid

    with store.transaction():
        ids = store.add(make_segments(2 * len(agreed)))
        p_left = np.full((3, len(agreed)), 0.9, np.float32)
        for query, right in zip(store.ask(ids.reshape(-1, 2), p_left, steps), agreed, strict=True):
            choice = Choice.LEFT if right else Choice.RIGHT
            store.answer(Preference(new_uuid(), query.id, choice, "ana"))


def test_before_anybody_has_answered_there_is_no_agreement_and_no_alarm(run: Any, store: Any) -> None:
    from backflip.trust import Trust

    assert Trust(run, store).look() == {"ask/alarm": 0.0}
    assert run.told("alarm")["on"] is False
    assert run.told("alarm")["sentence"].startswith("Too early to tell")


def test_agreement_is_of_the_newest_fifty_answers(run: Any, store: Any, make_segments: Any) -> None:
    from backflip.trust import Trust

    answer(store, make_segments, [False] * 30, 1000)
    answer(store, make_segments, [True] * 40 + [False] * 10, 2000)
    found = Trust(run, store).look()
    # 40 of 50; -(0.8·log 0.9 + 0.2·log 0.1) = 0.0843 + 0.4605
    assert found["ask/agreement"] == 0.8
    assert found["ask/confidence"] == pytest.approx(0.9)
    assert found["ask/surprise"] == pytest.approx(0.5448, abs=1e-4)


def test_the_alarm_is_told_when_return_rises_and_agreement_falls(run: Any, store: Any, make_segments: Any) -> None:
    from backflip.trust import Trust

    trust = Trust(run, store)
    for part in range(8):
        run.record(10_000 * part, {"act/predicted_return": 10.0 + part, "act/true_return": -99.0})
        answer(store, make_segments, [True] * 23 + [False] * 2, 10_000 * part)
    assert trust.look()["ask/alarm"] == 0.0
    for part in range(8, 11):
        run.record(10_000 * part, {"act/predicted_return": 10.0 + part})
        answer(store, make_segments, [True] * 8 + [False] * 17, 10_000 * part)
    assert trust.look()["ask/alarm"] == 1.0, "it reads only what was measured since, and forgets nothing"
    told = run.told("alarm")
    assert told["on"] is True
    assert told["since"] == pytest.approx(80_000, abs=10_000)
    assert "people agree with r̂ less" in told["sentence"]
    assert told["advice"].startswith("Look at the clips")


def test_after_going_back_to_a_checkpoint_returns_are_read_anew(run: Any, store: Any) -> None:
    from backflip.trust import Trust

    trust = Trust(run, store)
    positions = []
    for step in range(9):
        positions.append(run.metrics_position())
        run.record(step, {"act/predicted_return": float(step)})
    trust.look()
    run.forget_metrics(positions[5])
    run.record(5, {"act/predicted_return": -5.0})
    trust.look()
    assert trust._returns == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, -5.0)]
