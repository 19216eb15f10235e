"""Pairs of texts out of a run and into others: TRL's preferences, HH-RLHF's dialogues, best-of-four labels."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.exchange import ExchangeError
from backflip.exchange.bring import Imported
from backflip.exchange.bring_texts import bring_texts, prepared
from backflip.exchange.bundle import About, Outgoing, names_of
from backflip.exchange.incoming import import_all
from backflip.exchange.text_files import TIES, holds_texts, read_texts, write_dialogues, write_trl
from backflip.packing import Layout
from backflip.preferences import Choice, Preference
from backflip.records import events, nameless
from backflip.rundir import RunDir
from backflip.segments import Array, Segments
from backflip.standing import uuids
from backflip.store import Store, new_uuid
from backflip.texts import Text, pack_texts, unpack_text

STEPS, ROOM = 3, 600
LEFT, EQUAL, RIGHT = Choice.LEFT, Choice.EQUAL, Choice.RIGHT
HOSTILE = 'a "quote"\n\nHuman: what?\u2028{"chosen": 1}\\n\x00<script>'


def features(texts: list[Text]) -> Array:
    """Numbers that depend on the text; a short text has fewer steps."""
    made = np.zeros((len(texts), STEPS, 2), np.float32)
    for row, text in zip(made, texts, strict=True):
        length = 1 + len(text.completion) % STEPS
        row[:length] = [[len(text.prompt) + 1, len(text.completion)]]
    return made


def segments_of(texts: list[Text]) -> Segments:
    seen = features(texts)
    return Segments(
        ids=np.full(len(texts), -1, np.int64),
        observations=seen,
        actions=np.zeros((len(texts), STEPS, 0), np.float32),
        true_rewards=np.full((len(texts), STEPS), np.nan, np.float32),
        states=pack_texts(texts, STEPS, ROOM),
        policy_steps=np.zeros(len(texts), np.int64),
        lengths=np.array([1 + len(text.completion) % STEPS for text in texts], np.int64),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A run of texts with answers of two people, all kinds of them."""
    with closing(Store(tmp_path / "run.db")) as made:
        texts = [Text(f"prompt {i // 2}", f"completion {i} {'ab' * i}") for i in range(10)]
        texts += [Text(f"say {HOSTILE}", HOSTILE), Text(f"say {HOSTILE}", "no")]
        asked = made.ask(made.add(segments_of(texts)).reshape(-1, 2))
        for query, choice in zip(asked, [LEFT, RIGHT, EQUAL, Choice.INCOMPARABLE, RIGHT, LEFT], strict=True):
            made.answer(Preference(new_uuid(), query.id, choice, "ana"))
        made.answer(Preference(new_uuid(), asked[0].id, RIGHT, "bea"))
        undone = new_uuid()
        made.answer(Preference(undone, asked[1].id, LEFT, "bea"))
        made.undo(new_uuid(), "bea", undone)
        yield made


def outgoing(store: Store) -> Outgoing:
    with store.reading() as c:
        found, standing = events(c), uuids(c)
    numbers = sorted({record["query"][side] for record in found for side in ("left", "right")})
    segments = store.segments(numbers, states=True)
    names = dict(zip(numbers, names_of(segments), strict=True))
    named = [
        {**r, "query": {**r["query"], "left": names[r["query"]["left"]], "right": names[r["query"]["right"]]}}
        for r in found
    ]
    return Outgoing(About("texts", "?"), Layout.of(segments), named, standing, names, store)


def data(store: Store, sides: bool = True) -> Counter[Any]:
    """D by content, in no order; without sides, each pair as what is better and worse."""
    found = store.comparisons()
    assert found is not None
    made: Counter[Any] = Counter()
    for i, mu in enumerate(found.mu.tolist()):
        pair = []
        for side in (found.left, found.right):
            one = store.segments(side.ids[i : i + 1], states=True)
            pair.append((names_of(one)[0], unpack_text(one.states[0])))
        turn = not sides and (mu == 0.0 or (mu == 0.5 and pair[0] > pair[1]))
        made[tuple(pair[::-1] if turn else pair), 1 - mu if turn else mu] += 1
    return made


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def bring(folder: Path, *paths: Path, **others: Any) -> tuple[Store, list[Imported]]:
    """Into a new folder."""
    folder.mkdir()
    made = Store(folder / "run.db")
    return made, [bring_texts(made, prepared(made, path, features, room=ROOM, **others)) for path in paths]


def test_trl_has_prompt_chosen_and_rejected_and_ties_aside(store: Store, tmp_path: Path) -> None:
    paths = write_trl(tmp_path / "trl.jsonl", outgoing(store))
    assert [path.name for path in paths] == ["trl.jsonl", "trl.ties.jsonl"]
    decided, ties = lines(paths[0]), lines(paths[1])
    assert len(decided) == 5
    assert len(ties) == 1
    first = {"prompt": "prompt 0", "chosen": "completion 0 ", "rejected": "completion 1 ab"}
    assert decided[0] == {**first, "chosen_side": "left", "teacher": "ana"}
    assert ties[0] == {
        "prompt": "prompt 2",
        "first": "completion 4 abababab",
        "second": "completion 5 ababababab",
        "teacher": "ana",
    }


def test_trl_comes_back_as_it_went(store: Store, tmp_path: Path) -> None:
    paths = write_trl(tmp_path / "trl.jsonl", outgoing(store))
    assert all(map(holds_texts, paths[:1]))
    other, parts = bring(tmp_path / "other", *paths)
    with closing(other):
        assert data(other) == data(store)
        assert sorted(p.teacher for p, _ in other.preferences()) == ["ana"] * 5 + ["bea"]
        assert [part.passed_over for part in parts] == [[], []]
        assert other.changes(0).arrived is None, "nothing that follows may be timed by an answer without a date"
        assert other.counts().open == 0
        again = bring_texts(other, prepared(other, paths[0], features))
        assert (again.segments, again.brought.events, again.brought.known) == ([], 0, 5)
        assert data(other) == data(store)


def test_dialogues_come_back_as_they_went_but_for_their_sides(store: Store, tmp_path: Path) -> None:
    paths = write_dialogues(tmp_path / "hh.jsonl", outgoing(store))
    first = lines(paths[0])[0]
    assert first == {
        "chosen": "\n\nHuman: prompt 0\n\nAssistant: completion 0 ",
        "rejected": "\n\nHuman: prompt 0\n\nAssistant: completion 1 ab",
        "teacher": "ana",
    }
    other, _ = bring(tmp_path / "other", *paths)
    with closing(other):
        here, there = data(store, sides=False), data(other, sides=False)
        assert Counter(row["teacher"] for row in lines(paths[0])) == Counter(
            one["teacher"] for one in lines(write_trl(tmp_path / "trl.jsonl", outgoing(other))[0])
        )
        plain = {key for key in here if "Human" not in key[0][0][1].prompt}
        assert plain <= there.keys()
        assert sum(here.values()) == sum(there.values())


@pytest.mark.parametrize("write", [write_trl, write_dialogues])
def test_a_run_knows_its_own_answers_again(write: Callable[..., list[Path]], tmp_path: Path) -> None:
    texts = [Text(f"prompt {i // 2}", f"completion {i}") for i in range(10)]
    texts += [Text("one", "end"), Text("another", "end"), Text(f"say {HOSTILE}", HOSTILE), Text(f"say {HOSTILE}", "no")]
    made = replace(segments_of(texts), policy_steps=np.full(len(texts), 5000, np.int64))
    with closing(Store(tmp_path / "run.db")) as store:
        asked = store.ask(store.add(made).reshape(-1, 2))
        taken_back = new_uuid()
        for query, choice in zip(asked, [LEFT, RIGHT, EQUAL, Choice.INCOMPARABLE, RIGHT, LEFT, RIGHT], strict=True):
            store.answer(Preference(new_uuid() if query != asked[0] else taken_back, query.id, choice, "ana"))
        store.answer(Preference(new_uuid(), asked[0].id, RIGHT, "bea"))
        paths = write(tmp_path / "own.jsonl", outgoing(store))
        own, called = outgoing(store), {"ana": "annotator-1", "bea": "annotator-2"}
        open_ones = replace(own, events=[nameless(record, called) for record in own.events])
        nameless_ones = write(tmp_path / "open.jsonl", open_ones)
        store.undo(new_uuid(), "ana", taken_back)
        before = data(store)
        for path in paths + nameless_ones:
            again = bring_texts(store, prepared(store, path, features))
            ties = path.name.endswith(TIES)
            assert (again.segments, again.brought.events, again.brought.known) == ([], 0, 1 if ties else 6), path
        assert data(store) == before
        other = tmp_path / "other.jsonl"
        other.write_text(paths[0].read_text().replace('"ana"', '"zoe"'))
        assert bring_texts(store, prepared(store, other, features)).brought.events == 5, "somebody else said the same"
        other.write_text(
            json.dumps({"prompt": "prompt 3", "chosen": "completion 6", "rejected": "completion 7", "teacher": "ana"})
        )
        assert bring_texts(store, prepared(store, other, features)).brought.events == 1, "nobody could tell before"


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("order", [[write_trl, write_dialogues], [write_dialogues, write_trl]])
def test_the_same_answers_in_both_forms_are_brought_in_once(
    order: list[Callable[..., list[Path]]], together: bool, tmp_path: Path
) -> None:
    from backflip.exchange.incoming import import_all
    from test_exchange import a_run

    texts = [Text(f"prompt {i // 2}", f"completion {i}") for i in range(6)]
    texts += [Text(f"say {HOSTILE}", HOSTILE), Text(f"say {HOSTILE}", "no")]
    with closing(Store(tmp_path / "run.db")) as store:
        asked = store.ask(store.add(segments_of(texts)).reshape(-1, 2))
        for query, choice in zip(asked, [LEFT, RIGHT, EQUAL, RIGHT], strict=True):
            for teacher in ("annotator-1", "annotator-2"):
                store.answer(Preference(new_uuid(), query.id, choice, teacher))
        files = [write(tmp_path / f"{i}.jsonl", outgoing(store)) for i, write in enumerate(order)]
    with closing(Store(tmp_path / "other.db")) as other:
        for paths in [files[0] + files[1]] if together else files:
            found = import_all(a_run(tmp_path / paths[0].stem), other, paths, features=features, room=ROOM)
        assert (other.counts().labels, found.brought.known) == (8, 8)


def test_a_dialogue_of_several_turns_goes_out_as_it_came_in(tmp_path: Path) -> None:
    before = "\n\nHuman: hello\n\nAssistant: hi\n\nHuman: and?\n\nAssistant:"
    row = {"chosen": f"{before} well", "rejected": f"{before} no"}
    file = tmp_path / "hh.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert read_texts(file).judged[0].left == Text(before, " well")
    other, _ = bring(tmp_path / "other", file)
    with closing(other):
        assert lines(write_dialogues(tmp_path / "out.jsonl", outgoing(other))[0]) == [{**row, "teacher": "hh"}]


def test_best_of_four_is_three_comparisons(tmp_path: Path) -> None:
    samples = {f"sample{i}": [10 + i, 20] for i in range(4)}
    file = tmp_path / "labels.json"
    file.write_text(json.dumps([{"query": [1, 2], **samples, "best": 2}, {"query": [1], **samples, "best": 7}]))
    with pytest.raises(ExchangeError, match=r"entry 1: its query are tokens; give the function"):
        read_texts(file)
    found = read_texts(file, decode=lambda tokens: " ".join(map(str, tokens)))
    assert [one.left for one in found.judged] == [Text("1 2", "12 20")] * 3
    assert [one.right.completion for one in found.judged] == ["10 20", "11 20", "13 20"]
    assert {one.choice for one in found.judged} == {LEFT}
    assert found.passed_over == [f"{file}, entry 2: its best is 7, not 0 to 3"]
    text = tmp_path / "labels.jsonl"
    text.write_text(
        json.dumps({"query": "q", "sample0": "a", "sample1": "b", "sample2": "a", "sample3": "a", "best": 0})
    )
    other, (part,) = bring(tmp_path / "other", text)
    with closing(other):
        assert part.brought.events == other.counts().labels == 1  # samples that are the same say nothing


BAD = {
    "{": "this is not a line of JSON",
    "[" * 50_000: "this is not a line of JSON",
    "[1]": "this is list, not an object",
    '{"chosen": "a"}': "it has neither chosen and rejected",
    '{"chosen": 1, "rejected": "b"}': "its chosen is int, not a text",
    '{"prompt": ["p"], "chosen": "a", "rejected": "b"}': "its prompt is list, not a text",
    '{"chosen": "a", "rejected": "a"}': "its texts are the same",
    '{"chosen": "a", "rejected": "b", "teacher": ""}': "its teacher is no name",
    '{"chosen": "' + "a" * 200_000 + '", "rejected": "b"}': "the most are 100,000 bytes a line",
    '{"query": [1], "sample0": "a", "sample1": "b", "sample2": "c", "sample3": "d", "best": 0}': "its query are tokens",
    '{"query": {}, "sample0": "a", "sample1": "b", "sample2": "c", "sample3": "d", "best": 0}': "neither a text nor",
    '{"query": "", "sample0": "a", "sample1": "b", "sample2": "c", "sample3": "d", "best": true}': "its best is True",
}


def test_bad_lines_are_told_with_their_place_and_the_rest_comes_in(tmp_path: Path) -> None:
    good = [json.dumps({"prompt": "p", "chosen": f"better {i}", "rejected": "worse"}) for i in range(len(BAD) + 1)]
    file = tmp_path / "mixed.jsonl"
    file.write_text("\n".join(text for pair in zip(good, [*BAD, ""], strict=True) for text in pair))
    other, (part,) = bring(tmp_path / "other", file)
    with closing(other):
        assert part.brought.events == len(good)
        assert len(part.passed_over) == len(BAD)
        for i, (said, sentence) in enumerate(zip(part.passed_over, BAD.values(), strict=True)):
            assert said.startswith(f"{file}, line {2 * i + 2}: ")
            assert sentence in said


def test_hostile_texts_are_texts(tmp_path: Path) -> None:
    file = tmp_path / "hostile.jsonl"
    file.write_text(json.dumps({"prompt": HOSTILE, "chosen": HOSTILE, "rejected": "\ud800'; DROP TABLE event; --"}))
    other, _ = bring(tmp_path / "other", file)
    with closing(other):
        (((_, better), (_, worse)), mu), *more = data(other)
        assert (better, worse, mu, more) == (
            Text(HOSTILE, HOSTILE), Text(HOSTILE, "?'; DROP TABLE event; --"), 1.0, [],
        )  # fmt: skip


def test_texts_that_differ_beyond_their_room_are_no_pair(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    rows = [{"prompt": "p", "chosen": "x" * 900 + end, "rejected": "x" * 906} for end in ("abcabc", "abc")]
    file.write_text("\n".join(map(json.dumps, rows)))
    part = bring_texts(store, prepared(store, file, lambda texts: np.ones((len(texts), STEPS, 2), np.float32)))
    assert part.brought.events == 0
    assert part.passed_over[0] == f"{file}, line 1: its texts differ only in what there is no room for"


def test_features_of_another_model_are_refused_and_nothing_changes(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"chosen": "a", "rejected": "b"}\n')
    before = data(store)
    for made, sentence in [
        (
            np.zeros((2, STEPS, 5), np.float32),
            r"has features of the shape \(3, 5\), and those of the run have \(3, 2\)",
        ),
        (np.full((2, STEPS, 2), np.nan, np.float32), "are not all finite numbers"),
    ]:
        with pytest.raises(ExchangeError, match=sentence):
            prepared(store, file, lambda texts, made=made: made)  # type: ignore[misc]
    assert data(store) == before


def test_files_without_a_pair_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "none.jsonl"
    for content, sentence in (("", "has no pair of texts"), ("[]\n", "line 1: this is list, not an object")):
        file.write_text(content)
        assert not holds_texts(file)
        with pytest.raises(ExchangeError, match=sentence):
            read_texts(file)
    with pytest.raises(ExchangeError, match="cannot be read"):
        read_texts(tmp_path / "nowhere.jsonl")


def test_texts_and_clips_do_not_mix(tmp_path: Path) -> None:
    from backflip.exchange.bundle import outgoing as of_run
    from backflip.exchange.incoming import import_all
    from test_exchange import a_run

    seen = np.zeros((4, 4, 2), np.float32)
    seen[:, 0, 0] = np.arange(4)
    clips = Segments(
        ids=np.full(4, -1, np.int64),
        observations=seen,
        actions=np.zeros((4, 4, 2), np.float32),
        true_rewards=np.zeros((4, 4), np.float32),
        states=np.zeros((4, 4, 0), np.float32),
        policy_steps=np.zeros(4, np.int64),
        lengths=np.full(4, 4, np.int64),
    )
    run = a_run(tmp_path / "run")
    file = tmp_path / "some.jsonl"
    file.write_text('{"chosen": "a", "rejected": "b"}\n')
    with closing(run.store()) as store:
        store.ask(store.add(clips).reshape(-1, 2))
        store.answer(Preference(new_uuid(), 1, LEFT, "ana"))
        with pytest.raises(ExchangeError, match="clips and no texts; export --events"):
            write_trl(tmp_path / "out.jsonl", of_run(run, store))
        with pytest.raises(ExchangeError, match=r"with the extra `lm`: pip install 'backflip\[lm\]'"):
            import_all(run, store, [file])
        with pytest.raises(ExchangeError, match="holds texts, and the run's segments are clips"):
            import_all(run, store, [file], features=lambda texts: np.zeros((len(texts), 4, 2), np.float32))


def test_a_run_of_texts_takes_files_of_texts(store: Store, tmp_path: Path) -> None:
    from backflip.exchange.incoming import import_all
    from test_exchange import a_run

    file = tmp_path / "some.jsonl"
    file.write_text('{"chosen": "a", "rejected": "b"}\nbroken\n')
    found = import_all(a_run(tmp_path / "run"), store, [file], ask=1, features=features)
    assert (len(found.segments), found.brought.events) == (2, 1)
    assert found.passed_over[0].startswith(f"{file}, line 2: this is not a line of JSON")


def test_a_file_of_ties_may_have_none(tmp_path: Path) -> None:
    from backflip.exchange.incoming import import_all
    from test_exchange import a_run

    with closing(Store(tmp_path / "run.db")) as store, closing(Store(tmp_path / "other.db")) as other:
        (query,) = store.ask(store.add(segments_of([Text("p", "a"), Text("p", "b")])).reshape(-1, 2))
        store.answer(Preference(new_uuid(), query.id, LEFT, "ana"))
        paths = write_trl(tmp_path / "trl.jsonl", outgoing(store))
        assert import_all(a_run(tmp_path / "run"), other, paths, features=features, room=ROOM).brought.events == 1


def test_a_language_model_reads_before_others_have_to_wait(store: Store, tmp_path: Path) -> None:
    path, _ = write_trl(tmp_path / "trl.jsonl", outgoing(store))
    run = RunDir.create(tmp_path / "run", {"task": "own", "seed": 1, "teacher": "people"})
    with closing(run.store()) as into, closing(run.store()) as acting:

        def slowly(texts: list[Text]) -> Array:
            acting.note("meanwhile", "written")  # would wait for a transaction to end, and give up
            return features(texts)

        assert import_all(run, into, [path], features=slowly, room=ROOM).brought.events > 0
        assert acting.noted("meanwhile") == "written"
