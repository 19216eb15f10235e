"""The table of annotators: shares, agreement, Krippendorff's α, and what of it counts as evidence."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from backflip.annotators import Answer, agreement, alpha, estimated, evidence, summaries
from backflip.preferences import Choice
from backflip.shares import share, share_of

LEFT, EQUAL, RIGHT, INCOMPARABLE = Choice.LEFT, Choice.EQUAL, Choice.RIGHT, Choice.INCOMPARABLE


def _given(annotator: str, choices: str, first: int = 1) -> list[Answer]:
    """Answers to queries in a row: l, e, r, i; a dot passes one over."""
    letters = {"l": LEFT, "e": EQUAL, "r": RIGHT, "i": INCOMPARABLE}
    return [
        Answer(annotator, first + position, letters[letter]) for position, letter in enumerate(choices) if letter != "."
    ]


# ---- shares


@pytest.mark.parametrize(("hits", "of"), [(0, 5), (3, 7), (5, 5), (60, 100), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(hits: int, of: int) -> None:
    found = share(hits, of)
    assert found is not None
    expected = stats.binomtest(hits, of).proportion_ci(method="wilson")
    assert (found.value, found.of) == (hits / of, of)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_a_share_of_nothing_is_not_measured() -> None:
    assert share(0, 0) is None
    assert share_of([]) is None


# ---- the table


def test_the_row_of_an_annotator_by_hand() -> None:
    answers = [
        Answer("ana", 1, LEFT, seconds=2.0, at=10, p_left=0.8),
        Answer("ana", 2, RIGHT, seconds=4.0, at=20, p_left=0.7),
        Answer("ana", 3, RIGHT, flipped=True, seconds=None, at=30, p_left=0.5),  # shown on the left
        Answer("ana", 4, EQUAL, seconds=9.0, at=50, p_left=0.9),
        Answer("ana", 5, INCOMPARABLE, at=40),
        Answer("ana", 6, LEFT, "gold", gold=LEFT, at=45),
        Answer("ana", 7, EQUAL, "gold", gold=RIGHT, at=46),
        Answer("ana", 1, RIGHT, "repeat", flipped=True, at=47),
    ]
    (row,) = summaries(answers, estimated(answers))
    assert (row.annotator, row.answers, row.last_seen) == ("ana", 8, 50)
    # Shown on the left: 1, 3, 6 and the repeat of 1, whose right clip stood there.
    assert (row.left, row.right, row.equal, row.incomparable) == (4 / 8, 1 / 8, 2 / 8, 1 / 8)
    assert row.side_bias is not None
    assert (row.side_bias.value, row.side_bias.of) == (4 / 5, 5)
    assert row.seconds == 4
    assert row.gold is not None
    assert (row.gold.value, row.gold.of) == (1 / 2, 2)
    assert row.consistency is not None
    assert (row.consistency.value, row.consistency.of) == (0, 1)
    # r̂ foresaw 1 and not 2, and was undecided about 3; ties, gold and repeats are left out.
    assert row.reward is not None
    assert (row.reward.value, row.reward.of) == (1.5 / 3, 3)
    assert row.overlap is None
    assert row.error_rate is not None
    assert row.error_rate.low is not None


def test_what_was_not_measured_is_none() -> None:
    (row,) = summaries(_given("ana", "eie"))
    assert (row.seconds, row.side_bias, row.consistency, row.overlap, row.gold, row.reward, row.error_rate) == (
        None,
    ) * 7
    (row,) = summaries(_given("ana", "l"))
    assert row.error_rate is None
    assert summaries([]) == []


def test_those_with_most_answers_come_first() -> None:
    rows = summaries(_given("cem", "l") + _given("ben", "lr", 5) + _given("ana", "r", 9))
    assert [row.annotator for row in rows] == ["ben", "ana", "cem"]


def test_a_flipped_repeat_that_chooses_the_same_clip_is_consistent() -> None:
    first = _given("ana", "lre")
    repeats = [replace(answer, purpose="repeat", flipped=True) for answer in first]
    unasked = [Answer("ana", 99, LEFT, "repeat"), replace(repeats[0], annotator="ben")]
    rows = {row.annotator: row for row in summaries([*first, *repeats, *unasked])}
    assert rows["ana"].consistency is not None
    assert (rows["ana"].consistency.value, rows["ana"].consistency.of) == (1, 3)
    assert rows["ben"].consistency is None  # ben never answered it before


@pytest.mark.parametrize(
    ("one", "other", "agreed"),
    [(LEFT, LEFT, 1), (EQUAL, EQUAL, 1), (LEFT, EQUAL, 0.5), (EQUAL, RIGHT, 0.5), (LEFT, RIGHT, 0)],
)
def test_a_tie_against_a_side_is_half_an_agreement(one: Choice, other: Choice, agreed: float) -> None:
    assert agreement(one, other) == agreement(other, one) == agreed
    assert agreement(one, INCOMPARABLE) is None


def test_overlap_is_the_mean_agreement_with_all_others_on_each_query() -> None:
    answers = _given("ana", "lleli") + _given("ben", "lrll.") + _given("cem", "r..ir")
    rows = {row.annotator: row.overlap for row in summaries(answers)}
    # ana: 1 with ben but not with cem ½; 2 with ben 0; 3 a tie against a side ½; 4 with ben 1 (cem cannot tell).
    assert rows["ana"] is not None
    assert (rows["ana"].value, rows["ana"].of) == ((0.5 + 0 + 0.5 + 1) / 4, 4)
    assert rows["cem"] is not None
    assert (rows["cem"].value, rows["cem"].of) == (0, 1)  # on 5 ana cannot tell


def test_gold_pairs_and_repeats_are_no_overlap() -> None:
    gold = [replace(a, purpose="gold", gold=LEFT) for a in _given("ana", "ll") + _given("ben", "ll")]
    assert [row.overlap for row in summaries(gold)] == [None, None]
    assert alpha(gold) is None


# ---- α


def test_alpha_of_krippendorffs_example_of_two_observers_and_two_values() -> None:
    # Krippendorff (2011), Computing Krippendorff's alpha-reliability, A: 0.095.
    one, other = "lrllllllrl", "rrrllrllll"
    assert alpha(_given("ana", one) + _given("ben", other)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_a_hand_made_example_with_ties_and_gaps() -> None:
    # Pairs (l, l), (l, e), (r, r); query 4 only ana answered, and on 5 ben cannot tell. Values: l 3, e 1, r 2, of 6.
    # Ordinal distances (cumulative counts less half of both ends, squared): l-e (3/2 + 1/2)² = 4, l-r (3/2 + 1 + 1)² =
    # 12.25, e-r (1/2 + 1)² = 2.25. Observed: 2·4 / 6 = 4/3. Expected: 2·(3·1·4 + 3·2·12.25 + 1·2·2.25) / (6·5) = 6.
    assert alpha(_given("ana", "llrll") + _given("ben", "ler.i")) == pytest.approx(1 - (4 / 3) / 6)


def test_alpha_is_one_where_all_agree_and_unknown_where_nothing_could_differ() -> None:
    assert alpha(_given("ana", "lrl") + _given("ben", "lrl")) == pytest.approx(1)
    assert alpha(_given("ana", "lll") + _given("ben", "lll")) is None
    assert alpha(_given("ana", "lr.") + _given("ben", "..l")) is None
    assert alpha([]) is None


# ---- evidence


def test_evidence_is_every_answer_that_chose_a_side_with_the_best_that_is_known_of_its_query() -> None:
    found = evidence(
        [
            Answer("ana", 1, LEFT, p_left=0.9 / (1 + np.exp(-2.0)) + 0.05),
            Answer("ben", 1, RIGHT),
            Answer("ana", 2, EQUAL, p_left=0.9),
            Answer("ana", 3, LEFT, "gold", gold=RIGHT, p_left=0.9),
            Answer("ben", 4, LEFT),
            Answer("ana", 1, LEFT, "repeat", p_left=0.5),
            Answer("ana", 5, LEFT, "gold", gold=EQUAL),
        ]
    )
    assert found.annotators.tolist() == ["ana", "ben", "ana", "ben", "ana"]
    assert found.queries.tolist() == [1, 1, 3, 4, 1]
    assert found.left.tolist() == [True, False, True, True, True]
    np.testing.assert_allclose(found.expected, [2, 2, -np.inf, np.nan, 2])


def test_the_table_tells_a_careful_annotator_from_a_careless_one() -> None:
    rng = np.random.default_rng(0)
    answers = []
    for name, wrong in (("careful", 0.03), ("careless", 0.35)):
        right = rng.random(80) >= wrong
        answers += [Answer(name, n, LEFT if r else RIGHT, "gold", gold=LEFT) for n, r in enumerate(right)]
    careful, careless = (row.error_rate for row in summaries(answers, estimated(answers)))
    assert careful is not None
    assert careless is not None
    assert (careful.high or 1) < (careless.low or 0)
