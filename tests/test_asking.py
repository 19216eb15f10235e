"""Asking people: a buffer of open queries that is kept full, ranked by the newest r̂, and fresh."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OPEN = 6


class Desk:
    """A run that people teach, with its store and its part that asks; clips are drawn in no time."""

    def __init__(self, path: Path, store: Any, run: Any, ask: Any, make_segments: Any) -> None:
        self.path, self.store, self.run, self.ask, self.make_segments = path, store, run, ask, make_segments
        self.published = 0

    def publish(self, seed: int) -> None:
        from backflip.reward import Inputs, RewardEnsemble

        recent = self.store.recent(1)
        shape, action = recent.observations.shape[2:], recent.actions.shape[2:]
        self.published += 1
        with self.run.publishing("reward", self.published) as directory:
            inputs = Inputs(tuple(shape), int(np.prod(action)), discrete=False)
            RewardEnsemble(inputs, seed=seed).save(directory / "reward.safetensors")

    def answer(self, count: int) -> None:
        from backflip.preferences import Choice, Preference
        from backflip.store import new_uuid

        for claim in self.store.claim("ana", count):
            self.store.answer(Preference(new_uuid(), claim.query.id, Choice.LEFT, "ana"))


@pytest.fixture
def desk(tmp_path: Path, make_segments: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    from backflip import asking
    from backflip.queries import AskConfig
    from backflip.rundir import RunDir
    from backflip.settings import Settings
    from backflip.teachers.people import People

    drawn: list[int] = []

    def draw(states: Any, length: int) -> str:
        drawn.append(length)
        return f"{len(drawn):064x}"

    monkeypatch.setattr(asking, "make_teacher", lambda run, settings: People(draw))
    settings = Settings("hopper-backflip", labels=40, ask=AskConfig(open_queries=OPEN, stale_steps=1_000))
    run = RunDir.create(tmp_path / "run", settings.to_dict())
    run.tell("act", steps=100)
    with closing(run.store()) as store:
        yield Desk(run.path, store, run, asking.Ask(run, store, settings), make_segments)


def settle(desk: Desk) -> None:
    """Let it ask and draw until there is nothing left to do."""
    for _ in range(4 * OPEN):
        desk.ask.step()


def test_nothing_is_asked_before_there_is_enough_to_choose_from(desk: Desk) -> None:
    desk.store.add(desk.make_segments(2 * OPEN - 1))
    desk.ask.step()
    assert desk.store.open_queries() == []
    desk.store.add(desk.make_segments(1))
    desk.ask.step()
    assert len(desk.store.open_queries()) == OPEN


def test_the_buffer_is_kept_full_and_drawn_while_people_answer(desk: Desk) -> None:
    desk.store.add(desk.make_segments(200))
    settle(desk)
    for _ in range(5):
        assert len(desk.store.claim("ana", OPEN)) == OPEN, "all are drawn"
        desk.answer(OPEN)
        settle(desk)
        assert len(desk.store.open_queries()) == OPEN
    assert desk.store.counts().labels == 5 * OPEN


def test_who_skips_all_that_is_open_is_asked_something_else(desk: Desk) -> None:
    from backflip.store import new_uuid

    desk.store.add(desk.make_segments(200))
    seen: set[int] = set()
    for _ in range(3):
        settle(desk)
        claims = desk.store.claim("ana", OPEN)
        assert len(claims) == OPEN
        assert seen.isdisjoint(claim.query.id for claim in claims)
        for claim in claims:
            seen.add(claim.query.id)
            desk.store.skip(new_uuid(), claim.query.id, "ana", desk.store.shown(claim.showing, "ana"))
    settle(desk)
    assert len(desk.store.open_queries()) == 4 * OPEN, "others may still be asked what one skipped"


def test_pairs_that_wait_for_a_second_annotator_keep_nobody_from_others(desk: Desk) -> None:
    from dataclasses import replace

    from backflip.asking import Ask
    from backflip.teachers.people import PeopleConfig

    settings = replace(desk.ask.settings, people=PeopleConfig(overlap=1.0))
    desk.ask = Ask(desk.run, desk.store, settings)
    desk.store.add(desk.make_segments(200))
    for labels in (OPEN, 2 * OPEN):
        settle(desk)
        desk.answer(OPEN)
        assert desk.store.counts().labels == labels


def test_what_is_stored_as_predicted_has_the_error_rate_of_the_fit(desk: Desk) -> None:
    from dataclasses import replace

    from backflip.asking import Ask
    from backflip.fit import FitConfig

    desk.store.add(desk.make_segments(200))
    desk.publish(seed=1)
    desk.ask = Ask(desk.run, desk.store, replace(desk.ask.settings, fit=FitConfig(error_rate=0.9)))
    settle(desk)
    predicted = np.array([query.p_left for query in desk.store.open_queries()])
    assert predicted.size
    assert np.abs(predicted - 0.5).max() <= 0.05 + 1e-6


def test_no_more_is_asked_than_labels_are_wanted(desk: Desk) -> None:
    desk.store.add(desk.make_segments(400))
    for _ in range(20):
        settle(desk)
        desk.answer(OPEN)
    counts = desk.store.counts()
    assert (counts.labels, counts.open, counts.asked) == (40, 0, 40)


def test_a_new_reward_ranks_what_nobody_holds_anew(desk: Desk) -> None:
    desk.store.add(desk.make_segments(200))
    settle(desk)
    held = desk.store.claim("ana", 1)[0].query.id
    assert all(query.p_left == () for query in desk.store.open_queries())
    desk.publish(seed=1)
    desk.ask.step()
    first = {query.id: query.p_left for query in desk.store.open_queries()}
    assert first[held] == ()
    assert all(len(p_left) == 3 for number, p_left in first.items() if number != held)
    desk.publish(seed=2)
    desk.ask.step()
    second = {query.id: query.p_left for query in desk.store.open_queries()}
    assert all(first[number] != second[number] for number in first if number != held)
    best = max((query for query in desk.store.open_queries() if query.id != held), key=lambda query: query.disagreement)
    assert desk.store.claim("bob", 1)[0].query.id == best.id


def test_what_shows_behaviour_of_long_ago_is_taken_back_and_replaced(desk: Desk) -> None:
    desk.store.add(desk.make_segments(200))
    settle(desk)
    held = desk.store.claim("ana", 1)[0].query.id
    old = {query.id for query in desk.store.open_queries()}
    desk.run.tell("act", steps=5_000)
    desk.store.add(desk.make_segments(50))
    desk.publish(seed=1)
    settle(desk)
    now = desk.store.open_queries()
    assert {query.id for query in now} & old == {held}
    assert len(now) == OPEN
    assert {query.policy_steps for query in now if query.id != held} == {5_000}


def test_no_pair_is_ever_asked_twice(desk: Desk) -> None:
    desk.store.add(desk.make_segments(100))
    for _ in range(20):
        settle(desk)
        desk.answer(OPEN)
    pairs = [tuple(sorted((query.left, query.right))) for _, query in desk.store.preferences()]
    assert len(pairs) == len(set(pairs)) == 40


def test_pairs_that_were_asked_before_leave_no_gap_in_what_is_asked(desk: Desk) -> None:
    desk.store.add(desk.make_segments(2 * OPEN))  # 66 pairs, of which 40 will be asked
    settle(desk)
    for answered in range(OPEN, 40, OPEN):
        desk.answer(OPEN)
        desk.ask.step()
        assert len(desk.store.open_queries()) == min(OPEN, 40 - answered)
        settle(desk)


def test_the_page_hears_what_every_member_gives_for_every_step_of_the_clips(desk: Desk) -> None:
    from backflip.clip_rewards import ClipRewards
    from backflip.published import Published

    desk.store.add(desk.make_segments(200, lengths=[4, 3] * 100))
    settle(desk)
    assert not desk.run.clip_rewards.exists(), "there is no r̂ yet"
    desk.publish(seed=3)
    desk.ask._show_from = 0.0
    desk.ask.step()
    found = ClipRewards.load(desk.run.clip_rewards)
    assert (found.version, found.policy_steps, len(found.ids)) == (1, 100, 2 * OPEN)
    assert found.ids.tolist() == sorted(i for q in desk.store.open_queries() for i in (q.left, q.right))
    newest = Published(desk.run)
    newest.refresh()
    assert newest.ensemble is not None
    segments = desk.store.segments(found.ids)
    expected = newest.ensemble.member_rewards(segments.observations, segments.actions)
    assert set(found.lengths.tolist()) == {3, 4}
    for i, length in enumerate(found.lengths):
        np.testing.assert_array_equal(found.rewards[:, i, :length], expected[:, i, :length])
        assert (found.rewards[:, i, length:] == 0).all()


def test_what_the_page_hears_of_clips_is_brought_up_to_date_but_not_all_the_time(desk: Desk) -> None:
    from backflip.clip_rewards import ClipRewards

    desk.store.add(desk.make_segments(200))
    desk.publish(seed=3)
    settle(desk)
    before = ClipRewards.load(desk.run.clip_rewards)
    assert len(before.ids) < 2 * OPEN, "it was told when the first pair was drawn, and not at once again"
    desk.ask._show_from = 0.0
    desk.ask.step()
    assert len(ClipRewards.load(desk.run.clip_rewards).ids) == 2 * OPEN
    desk.publish(seed=4)
    desk.ask.step()
    assert ClipRewards.load(desk.run.clip_rewards).version == 1
    desk.ask._show_from = 0.0
    desk.ask.step()
    assert ClipRewards.load(desk.run.clip_rewards).version == 2


def test_agreement_with_people_is_recorded_by_time_and_only_after_answers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip import asking

    def looks() -> int:
        desk.ask.step()
        return sum(line["name"] == "ask/alarm" for line in desk.run.metrics()[0])

    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    desk.store.add(desk.make_segments(200))
    settle(desk)
    desk.run.tell("act", steps=50_000)
    assert looks() == 0, "nobody has answered"
    desk.answer(1)
    assert looks() == 1, "no step was made since"
    now[0] += asking.LOOK_SECONDS + 1
    assert looks() == 1, "no answer came since"
    desk.answer(1)
    assert looks() == 2
    now[0] += asking.LOOK_SECONDS - 1
    desk.answer(1)
    assert looks() == 2, "too soon"
    now[0] += 1.5
    assert looks() == 3, "what came in the meantime is not forgotten"
