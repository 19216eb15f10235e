"""Text as segments: packed into states, and written as the clip that people read."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backflip.texts import Text, are_texts, pack_texts, save_text, unpack_text

PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.builds(Text, PLAIN, PLAIN), min_size=1, max_size=5), st.integers(1, 7))
def test_texts_come_back_as_they_were(texts: list[Text], steps: int) -> None:
    states = pack_texts(texts, steps, room=200)
    assert states.shape[:2] == (len(texts), steps)
    assert [unpack_text(one) for one in states] == texts


def test_a_text_without_room_loses_the_beginning_of_its_prompt_first() -> None:
    states = pack_texts([Text("a long prompt", "yes"), Text("p", "a completion too long")], 1, room=8 + 9)
    assert unpack_text(states[0]) == Text("prompt", "yes")
    assert unpack_text(states[1]) == Text("", "a complet")


def test_a_letter_cut_in_two_is_shown_as_a_question() -> None:
    assert unpack_text(pack_texts([Text("", "€€")], 1, room=8 + 4)[0]) == Text("", "€\ufffd")


def test_half_a_pair_of_surrogates_is_replaced() -> None:
    assert unpack_text(pack_texts([Text("a", "b\ud800")], 1, room=20)[0]) == Text("a", "b?")


def test_what_is_no_text_is_not_read() -> None:
    with pytest.raises(ValueError, match="hold no text"):
        unpack_text(np.full((2, 30), 255, np.uint8))
    with pytest.raises(ValueError, match="give at least 9"):
        pack_texts([Text("a", "b")], 1, room=8)


def test_texts_are_told_from_frames_and_simulators() -> None:
    assert are_texts(pack_texts([Text("a", "b")], 2, 30))
    assert not are_texts(np.zeros((1, 2, 8, 8, 3), np.uint8))
    assert not are_texts(np.zeros((1, 2, 8)))


def test_a_text_is_a_clip_named_by_its_content(tmp_path: Path) -> None:
    name = save_text(tmp_path, Text("Once", " upon <b>"))
    content = (tmp_path / f"{name}.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == name
    assert json.loads(content) == {"mime": "text/plain", "prompt": "Once", "completion": " upon <b>"}
