"""Segments as rows, and back."""

from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backflip.packing import Layout, pack, unpack
from backflip.segments import Segments

MakeSegments = Callable[..., Segments]

KINDS: dict[str, dict[str, Any]] = {
    "vectors": {"state": 5},
    "images": {"images": True, "observation": (21, 21, 4), "action": ()},
    "discrete actions": {"action": ()},
    "scalars": {"observation": (), "action": ()},
    "short episodes": {"lengths": [1, 4, 2]},
}


def as_rows(packed: list[dict[str, Any]], without: str = "") -> list[SimpleNamespace]:
    kept = [{name: value for name, value in row.items() if name != without} for row in packed]
    return [SimpleNamespace(id=-1, **row) for row in kept]


@pytest.mark.parametrize("kind", KINDS)
def test_segments_come_back_to_the_bit(make_segments: MakeSegments, kind: str) -> None:
    segments = make_segments(3, **KINDS[kind])
    layout = Layout.of(segments)
    back = unpack(as_rows(pack(segments, layout)), Layout.from_json(layout.to_json()))
    for field in fields(Segments):
        before, after = getattr(segments, field.name), getattr(back, field.name)
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        np.testing.assert_array_equal(before, after)


def test_nan_rewards_and_views_survive(make_segments: MakeSegments) -> None:
    every_second = make_segments(6)[::2]
    every_second.true_rewards[:] = np.nan
    layout = Layout.of(every_second)
    back = unpack(as_rows(pack(every_second, layout)), layout)
    assert np.isnan(back.true_rewards).all()
    np.testing.assert_array_equal(back.observations, every_second.observations)


def test_a_row_holds_its_own_segment_only(make_segments: MakeSegments) -> None:
    rows = pack(make_segments(3, steps=4, observation=(3,)), Layout.of(make_segments(1)))
    assert [len(row["observations"]) for row in rows] == [4 * 3 * 4] * 3


def test_rows_without_states_give_states_of_size_zero(make_segments: MakeSegments) -> None:
    segments = make_segments(2, state=5)
    layout = Layout.of(segments)
    assert unpack(as_rows(pack(segments, layout), without="states"), layout).states.shape == (2, 4, 0)


def test_no_rows_give_no_segments_of_the_right_shape(make_segments: MakeSegments) -> None:
    none = unpack([], Layout.of(make_segments(1, state=5)))
    assert (len(none), none.observations.shape, none.mask().shape) == (0, (0, 4, 3), (0, 4))


def test_unpacked_arrays_can_be_written_to(make_segments: MakeSegments) -> None:
    segments = make_segments(2, images=True, observation=(4, 4))
    layout = Layout.of(segments)
    back = unpack(as_rows(pack(segments, layout)), layout)
    assert back.observations.flags.writeable  # torch warns about arrays that are not
    assert back.actions.flags.writeable


def test_images_are_compressed(make_segments: MakeSegments) -> None:
    dark = make_segments(1, images=True, observation=(84, 84))
    dark.observations[:] = 0
    assert len(pack(dark, Layout.of(dark))[0]["observations"]) < dark.observations.nbytes / 50


def test_layouts_differ_by_shape_type_and_length_but_not_by_number(make_segments: MakeSegments) -> None:
    layout = Layout.of(make_segments(2))
    assert layout == Layout.of(make_segments(7, seed=1))
    others: list[dict[str, Any]] = [{"steps": 5}, {"observation": (4,)}, {"action": ()}, {"images": True}, {"state": 1}]
    assert all(layout != Layout.of(make_segments(2, **other)) for other in others)
    assert str(layout) == "observations 4x3 float32, actions 4x2 float32, true_rewards 4 float32, states 4x0 float32"
