"""Teachers: what synthetic ones answer, and how they err; and what is kept ready for people."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.preferences import Choice, Preference, Query
from backflip.segments import Array, Segments
from backflip.store import Checks, Role, Store
from backflip.teachers import Teacher
from backflip.teachers.oracle import FALLIBLE, Fallibility, Oracle, choose, probability, remembered_return
from backflip.teachers.people import DRAWN_AT_ONCE, People, PeopleConfig, are_several
from backflip.teachers.scripted import Scripted

MakeSegments = Callable[..., Segments]
LEFT, EQUAL, RIGHT, INCOMPARABLE = Choice.LEFT, Choice.EQUAL, Choice.RIGHT, Choice.INCOMPARABLE


@pytest.fixture
def kept(tmp_path: Path) -> str:
    """Where the store of a test lies."""
    return str(tmp_path / "run.db")


def _paid(make_segments: MakeSegments, rewards: list[list[float]]) -> Segments:
    return replace(make_segments(len(rewards), len(rewards[0])), true_rewards=np.array(rewards, np.float32))


def _choices(oracle: Oracle, left: list[float], right: list[float], margin: float = 0.0, n: int = 1) -> list[Choice]:
    """What an oracle says of the same pair of reward sequences in n queries, numbered from 1."""

    def side(rewards: list[float]) -> Segments:
        k = len(rewards)
        return Segments(
            ids=np.zeros(n, np.int64),
            observations=np.zeros((n, k, 1), np.float32),
            actions=np.zeros((n, k, 1), np.float32),
            true_rewards=np.tile(np.array(rewards, np.float32), (n, 1)),
            states=np.zeros((n, k, 0), np.float32),
            policy_steps=np.zeros(n, np.int64),
            lengths=np.full(n, k),
        )

    return oracle.choices([Query(i + 1, 1, 2) for i in range(n)], side(left), side(right), margin)


def _share(choices: list[Choice], choice: Choice) -> float:
    return sum(c is choice for c in choices) / len(choices)


def _ask(store: Store, segments: Segments) -> list[Query]:
    return store.ask(store.add(segments).reshape(-1, 2))


# ---- the oracle


def test_the_oracle_prefers_the_larger_return_and_ties_equal_ones() -> None:
    oracle = Oracle()
    assert _choices(oracle, [0, 3], [2, 0]) == [LEFT]
    assert _choices(oracle, [2, 0], [0, 3]) == [RIGHT]
    assert set(_choices(oracle, [1, 2], [2, 1], n=50)) == {EQUAL}
    assert set(_choices(oracle, [0, 0], [0, 0], n=50)) == {EQUAL}
    assert _choices(oracle, [1e30, 0], [-1e30, 0]) == [LEFT]


@pytest.mark.parametrize("name", FALLIBLE)
def test_no_teacher_favours_a_side_between_equal_returns(name: str) -> None:
    choices = _choices(Oracle(FALLIBLE[name]), [1, 1], [1, 1], n=2000)
    # Whatever is not a tie is a fair coin: at most 4·√(n)/2 away from a half.
    left, right = _share(choices, LEFT), _share(choices, RIGHT)
    assert abs(left - right) <= 4 / 2000**0.5
    assert name == "stochastic" or set(choices) == {EQUAL}


def test_the_best_of_both_sides_is_chosen_equally_often(make_segments: MakeSegments) -> None:
    left, right = make_segments(2000, seed=1), make_segments(2000, seed=2)
    choices = Oracle().choices([Query(i + 1, 1, 2) for i in range(2000)], left, right, 0.0)
    assert _share(choices, LEFT) == pytest.approx(0.5, abs=2 / 2000**0.5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("difference", [-1.0, 0.4, 2.0])
def test_a_stochastic_teacher_answers_left_with_probability_sigma_of_beta_times_the_difference(
    beta: float, difference: float
) -> None:
    n = 4000
    choices = _choices(Oracle(Fallibility(rationality=beta)), [difference, 0.25], [0, 0.25], n=n)
    p = 1 / (1 + np.exp(-beta * difference))
    assert _share(choices, LEFT) == pytest.approx(p, abs=3.5 * (p * (1 - p) / n) ** 0.5)
    assert set(choices) <= {LEFT, RIGHT}


def test_the_probability_does_not_overflow() -> None:
    assert [probability(x) for x in (-1e9, 0, np.log(3), 1e9)] == pytest.approx([0, 0.5, 0.75, 1])


def test_a_myopic_teacher_weighs_a_step_by_gamma_for_each_step_after_it() -> None:
    rewards = np.array([[1, 1, 1], [8, 4, 2], [1, 2, 4]], np.float32)
    # γ = ½: 1/4 + 1/2 + 1 = 1.75; 2 + 2 + 2 = 6; and of the two first steps only, 1·½ + 2 = 2.5.
    remembered = remembered_return(rewards, np.array([3, 3, 2]), 0.5)
    np.testing.assert_allclose(remembered, [1.75, 6, 2.5])
    np.testing.assert_allclose(remembered_return(rewards, np.array([3, 3, 0]), 1.0), [3, 14, 0])


def test_a_myopic_teacher_prefers_what_it_saw_last() -> None:
    early, late = [2.0, 0, 0], [0, 0, 1.0]
    assert _choices(Oracle(), early, late) == [LEFT]
    assert _choices(Oracle(Fallibility(memory=0.5)), early, late) == [RIGHT]  # 2/4 against 1
    assert _choices(Oracle(Fallibility(memory=0.9)), early, late) == [LEFT]  # 1.62 against 1


@pytest.mark.parametrize("mistake", [0.0, 0.1, 0.5, 1.0])
def test_a_mistaken_teacher_flips_that_share_of_its_answers(mistake: float) -> None:
    n = 4000
    wrong = _share(_choices(Oracle(Fallibility(mistake=mistake)), [1, 0], [0, 0], n=n), RIGHT)
    assert wrong == pytest.approx(mistake, abs=3.5 * (mistake * (1 - mistake) / n) ** 0.5)


def test_a_mistake_never_makes_a_decision_of_a_tie() -> None:
    assert set(_choices(Oracle(Fallibility(mistake=1.0)), [1, 0], [1, 0], n=20)) == {EQUAL}


def test_skip_applies_its_share_once() -> None:
    # A share of 0.1 of a mean of 10 is 1. Twice, as in B-Pref's script, it would be 0.1, and 0.5 would be answered.
    oracle = Oracle(Fallibility(skip=0.1))
    assert _choices(oracle, [0.5], [0.2], margin=10) == [INCOMPARABLE]
    assert _choices(oracle, [1.0], [0.2], margin=10) == [INCOMPARABLE]
    assert _choices(oracle, [1.01], [0.2], margin=10) == [LEFT]
    assert _choices(oracle, [0.2], [1.01], margin=10) == [RIGHT]


def test_equal_applies_its_share_once() -> None:
    oracle = Oracle(Fallibility(equal=0.1))
    assert _choices(oracle, [5.0], [4.5], margin=10) == [EQUAL]
    assert _choices(oracle, [4.5], [5.0], margin=10) == [EQUAL]
    assert _choices(oracle, [5.0], [4.0], margin=10) == [LEFT]  # not less than 1
    assert _choices(oracle, [4.0], [5.5], margin=10) == [RIGHT]


@pytest.mark.parametrize("margin", [-10.0, 0.0])
def test_without_a_positive_mean_return_nothing_is_skipped_and_only_ties_are_equal(margin: float) -> None:
    # As in B-Pref, whose rule only holds above 0. Else a task that pays nothing but costs would never be answered.
    for teacher in (FALLIBLE["skip"], FALLIBLE["equal"]):
        assert _choices(Oracle(teacher), [-5.0], [-6.0], margin=margin) == [LEFT]
        assert _choices(Oracle(teacher), [-5.0], [-5.0], margin=margin) == [EQUAL]


def _b_pref(
    rewards: tuple[Array, Array], beta: float, gamma: float, flips: bool, skip: float, equal: float
) -> Choice | None:
    """B-Pref's order, step for step (reward_model.py, get_label): skip, mark ties, γ, β or not, flip, set ties."""
    sums = [r.sum() for r in rewards]
    if skip > 0 and not max(sums) > skip:
        return INCOMPARABLE
    tie = abs(sums[0] - sums[1]) < equal
    weighted = [r.copy() for r in rewards]
    for index in range(len(rewards[0]) - 1):
        for r in weighted:
            r[: index + 1] *= gamma
    first, second = (r.sum() for r in weighted)
    if beta > 0:
        return EQUAL if tie else None
    label = int(first < second)
    label = 1 - label if flips else label
    return EQUAL if tie else (LEFT, RIGHT)[label]


def test_decisions_are_those_of_b_pref() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        rewards = rng.normal(0.3, 1, 5), rng.normal(0.3, 1, 5)
        skip, equal, margin = rng.choice([0.0, 0.3]), rng.choice([0.0, 0.4]), rng.choice([-2.0, 3.0])
        gamma, flips = rng.choice([1.0, 0.7]), bool(rng.integers(2))
        beta = float(rng.choice([0.0, 2.0]))
        expected = _b_pref(rewards, beta, gamma, flips, skip * margin, equal * margin)
        remembered = [float(remembered_return(r[None].astype(np.float32), np.array([5]), gamma)[0]) for r in rewards]
        teacher = Fallibility(beta or None, gamma, float(flips), skip, equal)
        returns = float(rewards[0].sum()), float(rewards[1].sum())
        given = choose(returns, (remembered[0], remembered[1]), teacher, margin, rng)
        assert given is expected or (expected is None and given in (LEFT, RIGHT))


@pytest.mark.parametrize(
    "values",
    [
        {"mistake": -0.1},
        {"mistake": 1.1},
        {"mistake": float("nan")},
        {"memory": 0.0},
        {"memory": 1.1},
        {"skip": -0.1},
        {"skip": float("nan")},
        {"equal": -0.1},
        {"rationality": -1.0},  # B-Pref's own way to say "perfectly rational"
        {"rationality": float("nan")},
    ],
)
def test_an_impossible_teacher_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is no teacher"):
        Fallibility(**values)


# ---- answering


def test_an_oracle_answers_all_open_queries_once(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        oracle = Oracle()
        assert isinstance(oracle, Teacher)
        assert oracle.teach(store) == 0
        queries = _ask(store, make_segments(20))
        assert oracle.teach(store) == 10
        assert oracle.teach(store) == 0
        assert store.counts().labels == 10
        data = store.comparisons()
        assert data is not None
        better = data.left.true_returns() > data.right.true_returns()
        np.testing.assert_array_equal(data.mu, better)
        assert {given.query for given, _ in store.preferences()} == {query.id for query in queries}


def test_an_answer_that_was_taken_back_is_not_counted_as_given_again(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        _ask(store, make_segments(2))
        Oracle().teach(store)
        ((given, _),) = store.preferences()
        store.undo("undo", "oracle", given.uuid)
        assert store.counts().open == 1
        assert Oracle().teach(store) == 0


def test_answers_depend_on_the_query_and_not_on_when_it_is_answered(
    tmp_path: Path, make_segments: MakeSegments
) -> None:
    given = []
    for run, batches in enumerate([(40,), (2, 10, 28)]):
        with closing(Store(tmp_path / f"{run}.db")) as store:
            segments = make_segments(40)
            segments.true_rewards[:] = np.tile([0.5, 0], 20)[:, None]
            start = 0
            for size in batches:
                _ask(store, segments[start : start + size])
                Oracle(FALLIBLE["stochastic"], seed=3).teach(store)
                start += size
            given.append([(answer.query, answer.choice) for answer, _ in store.preferences()])
    assert given[0] == given[1]
    assert len({choice for _, choice in given[0]}) == 2


def test_another_seed_gives_other_answers() -> None:
    one, two = (_choices(Oracle(FALLIBLE["stochastic"], seed=seed), [1.0], [0.0], n=100) for seed in (0, 1))
    assert one != two


def test_thresholds_are_shares_of_the_recent_mean_return(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        # Segments of 2 steps. The mean return is (0.4 + 0.6 + 40 + 40)/4 = 20.25: a tenth is 2.025, a hundredth 0.2.
        _ask(store, _paid(make_segments, [[0.2, 0.2], [0.3, 0.3], [20, 20], [19, 21.0]]))
        Oracle(FALLIBLE["skip"], name="skip").teach(store)
        assert [answer.choice for answer, _ in store.preferences()] == [INCOMPARABLE, EQUAL]


def test_a_task_without_a_true_reward_is_refused_in_words(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        _ask(store, replace(make_segments(2), true_rewards=np.full((2, 4), np.nan, np.float32)))
        with pytest.raises(ValueError, match="is not finite; an oracle answers from it: mend the environment"):
            Oracle().teach(store)
        assert store.counts().labels == 0


def test_padding_is_not_judged(make_segments: MakeSegments) -> None:
    segments = _paid(make_segments, [[1, 1, 100], [1, 1.5, 0]])
    short = replace(segments, lengths=np.array([2, 2]))
    for teacher in (Fallibility(), Fallibility(memory=0.9)):
        assert Oracle(teacher).choices([Query(1, 1, 2)], short[:1], short[1:], 0.0) == [RIGHT]


# ---- a script


def _last(states: Array, seen: Array) -> float:
    """A script that judges by the first number of the last state."""
    del seen
    return float(states[-1, 0])


def test_a_script_answers_all_open_queries_by_the_states(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        teacher = Scripted(_last, fallibility=Fallibility())
        assert isinstance(teacher, Teacher)
        assert teacher.teach(store) == 0
        # The true rewards are of no use to it: there are none.
        segments = replace(make_segments(20, state=3), true_rewards=np.full((20, 4), np.nan, np.float32))
        queries = _ask(store, segments)
        assert teacher.teach(store) == 10
        assert teacher.teach(store) == 0
        for answer, query in store.preferences():
            left, right = store.segments([query.left, query.right], states=True).states[:, -1, 0]
            assert answer.choice is (LEFT if left > right else RIGHT)
            assert answer.teacher == "scripted"
        assert len(store.preferences()) == len(queries)


def test_a_script_judges_each_segment_once_and_without_its_padding(kept: str, make_segments: MakeSegments) -> None:
    judged: list[tuple[Array, Array]] = []

    def judge(states: Array, seen: Array) -> float:
        judged.append((states, seen))
        return 0.0

    with closing(Store(kept)) as store:
        segments = make_segments(3, state=1, lengths=[4, 3, 2])
        one, two, three = store.add(segments).tolist()
        store.ask(np.array([[one, two], [two, three], [three, one]]))
        assert Scripted(judge).teach(store) == 3
    for i, (states, seen) in enumerate(judged):
        np.testing.assert_array_equal(states, segments.states[i, : segments.lengths[i]])
        np.testing.assert_array_equal(seen, segments.observations[i, : segments.lengths[i]])
    assert len(judged) == 3


def test_two_clips_that_a_script_finds_equal_are_a_tie(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        _ask(store, make_segments(6, state=1))
        Scripted(lambda states, seen: 1.0).teach(store)
        assert {answer.choice for answer, _ in store.preferences()} == {EQUAL}


def test_clips_that_a_script_tells_apart_by_less_than_its_margin_are_a_tie(
    kept: str, make_segments: MakeSegments
) -> None:
    with closing(Store(kept)) as store:
        segments = make_segments(6, state=1)
        segments.states[:, -1, 0] = [0.0, 0.9, 0.0, 1.1, 5.0, 2.0]
        _ask(store, segments)
        Scripted(_last, fallibility=Fallibility(), margin=1.0).teach(store)
        assert [answer.choice for answer, _ in store.preferences()] == [EQUAL, RIGHT, LEFT]


def test_a_script_errs_in_one_answer_of_ten_and_the_same_ones_whenever_it_is_asked(
    tmp_path: Path, make_segments: MakeSegments
) -> None:
    n, given = 200, []
    for run, batches in enumerate([(n,), (2, n - 2)]):
        with closing(Store(tmp_path / f"{run}.db")) as store:
            segments = make_segments(2 * n, state=1)
            segments.states[:, :, 0] = np.tile([1, 0], n)[:, None]
            start = 0
            for size in batches:
                _ask(store, segments[2 * start : 2 * (start + size)])
                Scripted(_last, seed=3).teach(store)
                start += size
            given.append([(answer.query, answer.uuid, answer.choice) for answer, _ in store.preferences()])
    assert given[0] == given[1]
    wrong = sum(choice is RIGHT for *_, choice in given[0]) / n
    assert wrong == pytest.approx(0.1, abs=3.5 * (0.1 * 0.9 / n) ** 0.5)


def test_segments_without_states_are_refused_in_words(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        _ask(store, make_segments(2))
        with pytest.raises(ValueError, match="judges the simulator's states, and these segments were recorded without"):
            Scripted(_last).teach(store)
        assert store.counts().labels == 0


# ---- people


class Drawer:
    """Makes a clip's name of what it is to draw; breaks on demand."""

    def __init__(self, breaks_at: int = -1) -> None:
        self.drawn: list[tuple[Array, int]] = []
        self.breaks_at = breaks_at

    def __call__(self, states: Array, length: int) -> str:
        if len(self.drawn) == self.breaks_at:
            raise KeyboardInterrupt
        self.drawn.append((states, length))
        return f"clip-{states[0, 0]}-{length}"


def _ask_people(store: Store, make_segments: MakeSegments, queries: int) -> list[Query]:
    segments = make_segments(2 * queries, state=3, lengths=[4, 2] * queries)
    p_left = np.stack([np.linspace(0.5, 0, queries), np.linspace(0.5, 1, queries)]).astype(np.float32)
    return store.ask(store.add(segments).reshape(-1, 2), p_left)


def test_people_get_the_queries_with_most_disagreement_first(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        queries = _ask_people(store, make_segments, 5)
        drawer = Drawer()
        people = People(drawer)
        assert isinstance(people, Teacher)
        assert store.claim("ana") == []
        assert people.teach(store) == 0
        assert [claim.query.id for claim in store.claim("ana", 9)] == [queries[4].id, queries[3].id]
        assert len(drawer.drawn) == 2 * DRAWN_AT_ONCE
        assert sorted(length for _, length in drawer.drawn) == [2, 2, 4, 4]
        people.teach(store)
        people.teach(store)
        assert [claim.query.id for claim in store.claim("ben", 9)] == [queries[i].id for i in (2, 1, 0)]
        people.teach(store)
        assert len(drawer.drawn) == 10
        assert store.counts().labels == 0


def test_what_is_drawn_is_the_segments_own_states(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        (query,) = _ask_people(store, make_segments, 1)
        drawer = Drawer()
        People(drawer).teach(store)
        stored = store.segments([query.left, query.right], states=True)
        for (states, _), expected in zip(drawer.drawn, stored.states, strict=True):
            np.testing.assert_array_equal(states, expected)


@pytest.mark.parametrize("breaks_at", [0, 1, 2, 3])
def test_drawing_that_was_interrupted_goes_on_after_a_restart(
    kept: str, make_segments: MakeSegments, breaks_at: int
) -> None:
    with closing(Store(kept)) as store:
        _ask_people(store, make_segments, 2)
        with pytest.raises(KeyboardInterrupt):
            People(Drawer(breaks_at)).teach(store)
    with closing(Store(kept)) as store:
        drawer = Drawer()
        People(drawer).teach(store)
        assert len(drawer.drawn) == 4 - breaks_at
        assert len(store.claim("ana", 9)) == 2


def test_a_query_whose_segments_were_all_drawn_before_can_be_claimed(kept: str, make_segments: MakeSegments) -> None:
    # After a crash between drawing and marking, or where both segments were shown in other pairs.
    with closing(Store(kept)) as store:
        first, second = _ask_people(store, make_segments, 2)
        people = People(Drawer())
        people.teach(store)
        for claim in store.claim("ana", 2):
            store.answer(Preference(f"answer {claim.query.id}", claim.query.id, LEFT, "ana"))
        again = store.ask(np.array([[first.left, second.left], [first.right, second.right]]))
        people.teach(store)
        assert {claim.query.id for claim in store.claim("ana", 9)} == {query.id for query in again}


@pytest.mark.parametrize(
    ("invited", "revoked", "overlap"),
    [
        ([], [], 0.0),
        (["label"], [], 0.0),
        (["label", "view"], [], 0.0),
        (["label", "admin"], [], 0.05),
        (["label", "label", "label"], [], 0.05),
        (["label", "label"], [1], 0.0),
    ],
)
def test_two_answer_a_query_now_and_then_once_several_can_answer(
    kept: str, invited: list[Role], revoked: list[int], overlap: float
) -> None:
    with closing(Store(kept)) as store:
        for i, role in enumerate(invited):
            store.invite(f"somebody {i}", role)
        for i in revoked:
            store.revoke(f"somebody {i}")
        assert PeopleConfig().overlapping(are_several(store.accounts())) == overlap


def test_queries_that_two_are_to_answer_are_lent_twice(kept: str, make_segments: MakeSegments) -> None:
    with closing(Store(kept)) as store:
        (query,) = _ask_people(store, make_segments, 1)
        People(Drawer(), PeopleConfig(overlap=1.0)).teach(store)
        for name in ("ana", "ben"):
            (claim,) = store.claim(name)
            store.answer(Preference(f"answer of {name}", claim.query.id, LEFT, name))
        assert store.claim("eve") == []
        assert [given.query for given, _ in store.preferences()] == [query.id, query.id]


def test_what_was_said_about_measuring_people_holds_for_one_and_for_several() -> None:
    config = PeopleConfig(overlap=0.5, repeats=0.0, gold=0.25)
    for several in (False, True):
        assert config.overlapping(several) == 0.5
        assert config.checks(several) == Checks(repeats=0.0, gold=0.25)
    assert PeopleConfig().checks(several=False) == Checks()
    assert PeopleConfig().checks(several=True) == Checks(repeats=0.03, gold=0.01)


@pytest.mark.parametrize("wrong", [{"overlap": 1.5}, {"repeats": -0.1}, {"gold": float("nan")}, {"repeats": 1.0}])
def test_shares_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"share|must be a number"):
        PeopleConfig(**wrong)
