"""What the page sends, checked where it comes in."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from backflip.store import new_uuid
from backflip.web.messages import Answer

MEASUREMENTS = ("seconds", "loops", "speed", "swap_ms")


def answer(**more: Any) -> Answer:
    """An answer as it comes over the wire."""
    return Answer.model_validate_json(json.dumps({"uuid": new_uuid(), "showing": 1, "choice": "left", **more}))


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("value", [-1, -0.001, 1e300, 1e7, float("nan"), float("inf"), -float("inf"), None])
def test_a_measurement_that_cannot_be_is_none_and_the_answer_stands(name: str, value: float | None) -> None:
    given = answer(**{name: value})
    assert (getattr(given, name), given.choice.value) == (None, "left")


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("value", [0, 0.25, 3, 1e6])
def test_a_measurement_is_kept(name: str, value: float) -> None:
    assert getattr(answer(**{name: value}), name) == value


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": "fast"},
        {"loops": [1]},
        {"by": "telepathy"},
        {"view": "behind"},
        {"paused": "perhaps"},
        {"showing": "1"},
        {"choice": "best"},
        {"query": 1},
    ],
)
def test_what_no_page_of_ours_sends_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        answer(**change)
