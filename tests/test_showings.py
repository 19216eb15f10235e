"""What annotators are shown: sides, repeats, known answers, overlap, quota; and researchers' changes to D."""

from collections.abc import Callable

import pytest

from backflip.preferences import Choice, Preference
from backflip.showings import MOST_HELD, REPEAT_AFTER, Checks
from backflip.store import Claim, Store, StoreError, new_uuid

AskMany = Callable[..., list[int]]


def answered(store: Store, annotator: str, seen: str = "left", checks: Checks | None = None) -> Claim:
    (claim,) = store.claim(annotator, checks=checks)
    showing = store.shown(claim.showing, annotator)
    store.answer(Preference(new_uuid(), showing.query, showing.meant(Choice(seen)), annotator, 1.0), showing=showing)
    return claim


def test_sides_are_shown_at_random_and_the_choice_is_the_querys_own(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 60)
    claims = [answered(store, "ana") for _ in range(60)]
    # Sixty coins: fewer than 15 or more than 45 heads happen once in 10,000.
    assert 15 < sum(claim.flipped for claim in claims) < 45
    for claim, (given, query) in zip(claims, store.preferences(), strict=True):
        shown_left = query.right if claim.flipped else query.left
        assert claim.left_clip == f"clip-{shown_left}"
        chosen = query.left if given.choice is Choice.LEFT else query.right
        assert chosen == shown_left, "they said left, of what they saw"


def test_a_tie_and_cannot_tell_have_no_sides(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 20)
    for seen in ["equal", "incomparable"] * 10:
        answered(store, "ana", seen)
    assert (store.counts().equal, store.counts().incomparable) == (10, 10)


def test_nobody_answers_what_they_were_never_shown(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 2)
    (claim,) = store.claim("ana")
    for number, name in ((claim.showing, "ben"), (claim.showing + 1, "ana"), (0, "ana"), (2**63, "ana")):
        with pytest.raises(StoreError, match="was never shown"):
            store.shown(number, name)


def test_a_repeat_exchanges_the_sides_comes_late_and_once_and_is_not_in_d(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 40)
    checks = Checks(repeats=1.0)
    first = [answered(store, "ana", checks=checks) for _ in range(REPEAT_AFTER)]
    assert {claim.purpose for claim in first} == {"label"}, "nothing is old enough"
    first.append(answered(store, "ana", checks=checks))
    repeat = answered(store, "ana", "left", checks)
    (original,) = [claim for claim in first if claim.query.id == repeat.query.id]
    assert (repeat.purpose, original.query.id) == ("repeat", first[0].query.id)
    assert repeat.flipped is not original.flipped
    assert store.counts().labels == len(first)
    data = store.comparisons()
    assert data is not None
    assert len(data) == len(first)
    asked = [answered(store, "ana", checks=checks) for _ in range(12)]
    repeats = [claim.query.id for claim in asked if claim.purpose == "repeat"]
    assert len({repeat.query.id, *repeats}) == 1 + len(repeats), "none is repeated twice"


def test_a_known_query_goes_to_each_annotator_once_and_is_not_in_d(store: Store, ask_many: AskMany) -> None:
    gold, *_ = ask_many(store, 9)
    store.set_gold(gold, Choice.LEFT, "it flips")
    checks = Checks(gold=1.0)
    for name in ("ana", "ben"):
        assert [answered(store, name, checks=checks).purpose for _ in range(3)] == ["gold", "label", "label"]
    assert store.counts().labels == 4
    assert gold not in {query.id for _, query in store.preferences()}
    store.set_gold(gold, None)
    assert answered(store, "cleo", checks=checks).purpose == "label"
    with pytest.raises(StoreError, match="no query 999"):
        store.set_gold(999, Choice.LEFT)


def test_checks_come_about_as_often_as_they_should(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 100)
    purposes = [answered(store, "ana", checks=Checks(repeats=0.2)).purpose for _ in range(80)]
    assert 4 <= purposes.count("repeat") <= 28  # 16 expected, deviation 4


@pytest.mark.parametrize(("repeats", "gold"), [(-0.1, 0.0), (0.0, 1.1), (0.6, 0.6), (float("nan"), 0.0)])
def test_shares_that_cannot_be_are_refused(repeats: float, gold: float) -> None:
    with pytest.raises(ValueError, match="shares"):
        Checks(repeats, gold)


def test_overlapping_queries_are_answered_by_two_and_by_no_third(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 3, drawn=False)
    with store.transaction():
        for number in range(1, 7):
            store.set_clip(number, f"clip-{number}")
        assert store.mark_drawn(overlap=1.0) == 3
    first = [answered(store, "ana").query.id for _ in range(3)]
    assert store.claim("ana") == [], "nobody answers the same twice"
    assert store.counts().open == 3
    held = [claim.query.id for claim in store.claim("ben", 3)]
    assert sorted(held) == sorted(first)
    assert store.claim("cleo", 3) == [], "two at a time would be three in the end"
    for _ in range(3):
        answered(store, "ben", "right")
    assert (store.counts().open, store.counts().labels) == (0, 6)
    assert store.claim("cleo", 3) == []
    data = store.comparisons()
    assert data is not None
    assert len(data) == 6


def test_a_share_of_queries_overlaps(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 100, drawn=False)
    with store.transaction():
        for number in range(1, 201):
            store.set_clip(number, f"clip-{number}")
        store.mark_drawn(overlap=0.25)
    for _ in range(100):
        answered(store, "ana")
    assert 8 <= store.counts().open <= 42  # 25 expected, deviation 4


def test_an_undone_repeat_is_shown_again_as_it_was(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 20)
    for _ in range(REPEAT_AFTER + 1):
        answered(store, "ana")
    (claim,) = store.claim("ana", checks=Checks(repeats=1.0))
    showing = store.shown(claim.showing, "ana")
    uuid = new_uuid()
    store.answer(Preference(uuid, showing.query, Choice.LEFT, "ana"), showing=showing)
    labels = store.counts().labels
    assert store.undo(new_uuid(), "ana", uuid) == claim.showing
    assert claim.showing in [again.showing for again in store.claim("ana", 3)]
    assert store.counts().labels == labels


def test_a_quota_ends_what_an_annotator_is_shown(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 9)
    store.invite("ana", quota=3)
    assert len(store.claim("ana", 5)) == 3
    for _ in range(3):
        answered(store, "ana")
    assert store.claim("ana", 5) == []
    assert len(store.claim("ben", 9)) == 6
    store.invite("ana", quota=4)
    assert store.claim("ana", 5) == [], "the others are in ben's hands"


def test_a_flagged_query_is_shown_to_nobody_and_changes_nothing_in_d(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 2)
    (claim,) = store.claim("ana")
    showing = store.shown(claim.showing, "ana")
    before, uuid = store.changes().last, new_uuid()
    assert store.flag(uuid, showing.query, "ana", "black", showing)
    assert not store.flag(uuid, showing.query, "ana", "black", showing)
    assert store.changes(before).touched.tolist() == []
    assert (store.counts().flagged, store.counts().open, store.counts().labels) == (1, 1, 0)
    assert {c.query.id for name in ("ana", "ben") for c in store.claim(name, 5)} == {3 - showing.query}


def test_researchers_exclude_and_relabel_answers(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 2)
    for _ in range(2):
        answered(store, "ana", "equal")
    (first, _), (second, _) = store.preferences()
    last = store.changes().last
    uuid = new_uuid()
    assert store.exclude(uuid, "cleo", first.uuid)
    assert not store.exclude(uuid, "cleo", first.uuid)
    better = Preference(new_uuid(), second.query, Choice.RIGHT, "cleo")
    assert store.relabel(better, second.uuid)
    assert not store.relabel(better, second.uuid)
    assert [(p.teacher, p.choice) for p, _ in store.preferences()] == [("cleo", Choice.RIGHT)]
    assert sorted(store.changes(last).touched.tolist()) == sorted([first.query, second.query])
    assert store.counts().open == 0, "an excluded answer's query is not asked again"
    for gone in (first.uuid, new_uuid()):
        with pytest.raises(StoreError, match="that stands"):
            store.exclude(new_uuid(), "cleo", gone)
        with pytest.raises(StoreError, match="that stands"):
            store.relabel(Preference(new_uuid(), first.query, Choice.LEFT, "cleo"), gone)


def test_one_uuid_cannot_take_out_or_replace_two_answers(store: Store, ask_many: AskMany) -> None:
    [asked] = ask_many(store, 1)
    mine, yours = (Preference(new_uuid(), asked, Choice.LEFT, name, 1.0) for name in ("ana", "ben"))
    for given in (mine, yours):
        store.answer(given)
    uuid = new_uuid()
    store.exclude(uuid, "cleo", mine.uuid)
    with pytest.raises(StoreError, match="already stands for"):
        store.exclude(uuid, "cleo", yours.uuid)
    better = Preference(new_uuid(), asked, Choice.RIGHT, "cleo")
    store.relabel(better, yours.uuid)
    third = Preference(new_uuid(), asked, Choice.LEFT, "dan", 1.0)
    store.answer(third)
    with pytest.raises(StoreError, match="already stands for"):
        store.relabel(better, third.uuid)


def test_every_answer_says_which_instruction_its_annotator_had(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 3)
    assert store.instructed() is None
    (claim,) = store.claim("ana")
    assert store.shown(claim.showing, "ana").instruction is None
    first = store.instruct(" Which is better? ")
    assert store.instruct("Which is better?") == first == store.instructed()
    second = store.instruct("Which flips more?")
    assert second.id != first.id
    claims = store.claim("ana", 2)
    assert [store.shown(c.showing, "ana").instruction for c in claims if c != claim] == [second.id]
    for text in ("", "  ", "x" * 9000):
        with pytest.raises(StoreError, match="characters"):
            store.instruct(text)


# ---- practice


def test_explained_queries_are_lessons_whose_answers_are_no_part_of_d(store: Store, ask_many: AskMany) -> None:
    numbers = ask_many(store, 12)
    for number in numbers[:8]:
        store.set_gold(number, Choice.LEFT, f"because {number}")
    store.set_gold(numbers[8], Choice.RIGHT)  # known, but not explained
    store.flag(new_uuid(), numbers[0], "ben")
    lessons = store.lessons("ana", 6)
    assert [(lesson.shown.query.id, lesson.why) for lesson in lessons] == [(n, f"because {n}") for n in numbers[1:7]]
    assert {lesson.right for lesson in lessons} == {Choice.LEFT, Choice.RIGHT}, "sides are exchanged here too"
    for lesson in lessons:
        showing = store.shown(lesson.shown.showing, "ana")
        assert showing.meant(lesson.right) is Choice.LEFT
        assert (
            lesson.shown.left_clip == f"clip-{lesson.shown.query.right if showing.flipped else showing.query * 2 - 1}"
        )
        store.answer(Preference(new_uuid(), showing.query, Choice.LEFT, "ana"), showing=showing)
    assert store.lessons("ana", 6) == lessons, "who practises again sees the same"
    assert (store.comparisons(), store.counts().labels) == (None, 0)


def test_lessons_are_neither_lent_nor_counted_nor_checks_afterwards(store: Store, ask_many: AskMany) -> None:
    numbers = ask_many(store, 4)
    store.set_gold(numbers[0], Choice.LEFT, "it flips")
    store.invite("ana", quota=2)
    (lesson,) = store.lessons("ana", 5)
    uuid = new_uuid()
    showing = store.shown(lesson.shown.showing, "ana")
    store.answer(Preference(uuid, showing.query, Choice.LEFT, "ana"), showing=showing)
    store.undo(new_uuid(), "ana", uuid)
    store.answer(Preference(new_uuid(), showing.query, Choice.RIGHT, "ana"), showing=showing)
    checks = Checks(gold=1.0)
    assert [answered(store, "ana", checks=checks).purpose for _ in range(2)] == ["label", "label"]
    assert store.claim("ana") == [], "the quota counts what was answered for D"
    assert answered(store, "ben", checks=checks).purpose == "gold", "who did not practise is measured by it"
    assert store.claim("ben", checks=checks)[0].query.id == numbers[3]


def test_nobody_is_measured_by_a_flagged_query(store: Store, ask_many: AskMany) -> None:
    gold, _ = ask_many(store, 2)
    store.set_gold(gold, Choice.LEFT)
    store.flag(new_uuid(), gold, "ben")
    assert answered(store, "ana", checks=Checks(gold=1.0)).purpose == "label"


def test_what_a_page_says_it_holds_is_renewed_only_where_it_does(store: Store, ask_many: AskMany) -> None:
    ask_many(store, 30)
    first = {claim.showing for claim in store.claim("ana", 3)}
    others = {claim.showing for claim in store.claim("ben", 3)}
    more = store.claim("ana", 2, besides=[*first, *others, *range(1000, 1500)])
    assert len(more) == 2
    assert not {claim.showing for claim in more} & (first | others)
    assert {claim.showing for claim in store.claim("ana", 9)} >= first
    assert len(store.claim("eve", 30)) == 30 - 9 - 3, "what was made up is lent to nobody"


def test_nobody_can_hold_so_much_that_others_starve(store: Store, ask_many: AskMany) -> None:
    ask_many(store, MOST_HELD + 5)
    mine: set[int] = set()
    for _ in range(10):
        mine |= {claim.showing for claim in store.claim("ana", 10, besides=mine)}
    assert len(mine) == MOST_HELD
    assert len(store.claim("ben", 10)) == 5
