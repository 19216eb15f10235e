"""Asking: which pairs of segments are put to the teacher, and when. §2.2.2, §2.2.4"""

import time
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from backflip import browsing, open_queries
from backflip.clip_rewards import ClipRewards
from backflip.envs import find_task
from backflip.envs.clips import draw_segment, save_clip, save_sheet
from backflip.envs.facts import facts
from backflip.envs.poses import pose_segment, save_posed
from backflip.envs.task import Task
from backflip.published import RECORD_STEPS, Published
from backflip.queries import pair_probabilities, select_queries
from backflip.reward import RewardEnsemble
from backflip.rundir import RunDir
from backflip.segments import Array, Segments
from backflip.settings import JUDGE, SCRIPTED, Settings
from backflip.store import Store
from backflip.teachers import Teacher
from backflip.teachers.endpoint import Endpoint
from backflip.teachers.judge import Judge
from backflip.teachers.oracle import FALLIBLE, Oracle
from backflip.teachers.people import People
from backflip.teachers.scripted import Scripted
from backflip.tidying import tidy
from backflip.trust import Trust
from backflip.wanted import granted, wanted

LOOK_SECONDS = 10.0
"""Where people answer: how often agreement with them is recorded, at most. A slow person gives a few answers in 10,000
steps of one policy, and none in as many of another: steps say nothing about when there is something to record."""
CLIPS_SHOWN = 2000
"""The page shows what r̂ gives for the newest so many clips."""
CLIPS_AT_ONCE = 100
"""Segments that are read together for that: those with frames are large."""
CLIPS_SECONDS = 2.0
"""How often that is brought up to date, at most."""
CLIPS_SHARE = 0.05
"""The share of the time that it may take."""
SHEETS_AT_ONCE = 2
"""Sheets drawn in one turn for browsers that cannot draw: those of one pair."""
TIDY_SECONDS = 60.0
"""How often to look whether the run directory grows too large."""


class Ask:
    """Chooses pairs of segments and puts them to the teacher. §2.2.2, §2.2.4"""

    def __init__(self, run: RunDir, store: Store, settings: Settings) -> None:
        self.run, self.store, self.settings = run, store, settings
        self.teacher = self._make_teacher()
        self.reward = Published(run)
        self.trust = Trust(run, store)
        self._recorded = self._looked = self._judged = 0
        self._look_from = 0.0
        self._shown: tuple[int, list[int]] = (0, [])
        self._show_from = 0.0
        self._tidied = time.monotonic()

    def step(self) -> bool:
        """Ask what is due, let the teacher answer; False if there was nothing to do."""
        policy_steps = int(self.run.told("act").get("steps", 0))
        newer = self.reward.refresh()
        counts = self.store.counts()
        compared = counts.labels - counts.incomparable
        still_open = counts.open
        if self.settings.asks_people:
            due = min(self.settings.labels, compared + self.settings.ask.open_queries)
            if newer:
                self._rerank(policy_steps)
            self._show_rewards(policy_steps)
            with self.store.reading() as c:
                still_open = open_queries.untouched(c)
        else:
            training = self.reward.ensemble is not None
            due = self.settings.schedule.labels(policy_steps) if training else self.settings.labels_before_training
        asked = self._ask(due - compared - still_open, policy_steps)
        answered = self.teacher.teach(self.store)
        drew = self._draw_wanted()
        self._tidy_now_and_then()
        recorded_long_ago = policy_steps - self._recorded >= RECORD_STEPS
        if answered or asked or recorded_long_ago or self._is_time_to_look(policy_steps, counts.labels):
            self._measure(policy_steps, due)
        return bool(asked or answered or drew)

    def _ask(self, missing: int, policy_steps: int) -> int:
        if missing <= 0:
            return 0
        counts, ask = self.store.counts(), self.settings.ask
        if self.reward.ensemble is None and not self.settings.has_shown_enough(counts.segments, policy_steps):
            return 0
        rng = np.random.default_rng([self.settings.seed, counts.asked, policy_steps, self.reward.version])
        found = self._candidates(rng, missing)
        if found is None:
            return 0
        candidates, groups = found
        with self.store.reading() as c:
            before = open_queries.asked_among(c, candidates.ids)
        pairs, p_left, average = select_queries(
            rng, self.reward.ensemble, candidates, missing, ask, groups, before, self.settings.fit.error_rate
        )
        asked = self.store.ask(candidates.ids[pairs], p_left, policy_steps)
        if asked and p_left is not None:
            disagreement = float(np.mean([query.disagreement for query in asked]))
            self.run.record(policy_steps, {"ask/disagreement": disagreement, "ask/disagreement_candidates": average})
        return len(asked)

    def _candidates(
        self, rng: np.random.Generator, missing: int
    ) -> tuple[Segments, Int64[np.ndarray, " n"] | None] | None:
        """Segments to choose pairs from, and the groups within which they can be compared, if not all can."""
        # As many as the candidate pairs have sides: reading all that are recent would cost fifty times as much.
        sampled = self.store.sample(rng, 2 * missing * self.settings.ask.oversample, self.settings.ask.recent)
        return None if sampled is None else (sampled, None)

    def _make_teacher(self) -> Teacher:
        return make_teacher(self.run, self.settings)

    def _rerank(self, policy_steps: int) -> None:
        """What nobody holds yet is judged by the new r̂, and taken back where it shows behaviour of long ago."""
        waiting = self.store.open_queries(unclaimed_only=True)
        stale = [q.id for q in waiting if policy_steps - q.policy_steps > self.settings.ask.stale_steps]
        self.store.expire(stale)
        waiting = [query for query in waiting if query.id not in stale]
        if not waiting or self.reward.ensemble is None:
            return
        segments = self.store.segments([i for query in waiting for i in (query.left, query.right)])
        pairs = np.arange(2 * len(waiting), dtype=np.int64).reshape(-1, 2)
        self.store.rerank(
            waiting, pair_probabilities(self.reward.ensemble, segments, pairs, self.settings.fit.error_rate)
        )

    def _draw_wanted(self) -> int:
        """Draw clips that somebody's browser cannot draw; how many notes asked for that."""
        notes = wanted(self.run.wanted)[:SHEETS_AT_ONCE] if self.settings.asks_people else []
        for clip in notes:
            with self.store.reading() as c:
                number = browsing.segment_of(c, clip)
            if number is not None:
                segment = self.store.segments([number], states=True)
                drawn = draw_segment(find_task(self.settings.task), segment.states[0], int(segment.lengths[0]))
                save_sheet(self.run.clips, clip, drawn)
            granted(self.run.wanted, clip)
        return len(notes)

    def _tidy_now_and_then(self) -> None:
        """Only where people are asked does anything pile up: drawings, and queries taken back."""
        if self.settings.asks_people and time.monotonic() - self._tidied >= TIDY_SECONDS:
            tidy(self.run, self.store, self.settings.disk_megabytes * 10**6)
            self._tidied = time.monotonic()

    def _show_rewards(self, policy_steps: int) -> None:
        """Let the page know now and then what the newest r̂ gives for the clips."""
        begun = time.monotonic()
        if self.reward.ensemble is None or begun < self._show_from:
            return
        with self.store.reading() as c:
            ids = sorted(clip.id for clip in browsing.drawn(c, CLIPS_SHOWN))
        if not ids:
            return
        if (self.reward.version, ids) != self._shown:
            rewards = rewards_of_clips(self.store, self.reward.ensemble, ids, self.reward.version, policy_steps)
            rewards.save(self.run.clip_rewards)
            self._shown = (self.reward.version, ids)
        self._show_from = begun + max(CLIPS_SECONDS, (time.monotonic() - begun) / CLIPS_SHARE)

    def _is_time_to_look(self, policy_steps: int, answers: int) -> bool:
        """Where people answer, now and then if their answers are others than at the last look; else by steps."""
        if self.settings.asks_people:
            return answers != self._judged and time.monotonic() >= self._look_from
        return policy_steps - self._looked >= RECORD_STEPS

    def _measure(self, policy_steps: int, due: int) -> None:
        counts = self.store.counts()
        self._recorded = policy_steps
        values = {"ask/labels": float(counts.labels), "ask/open_queries": float(counts.open)}
        if not self.settings.asks_people:
            values["ask/due"] = float(due)
        if self._is_time_to_look(policy_steps, counts.labels):
            self._looked, self._judged = policy_steps, counts.labels
            self._look_from = time.monotonic() + LOOK_SECONDS
            values |= self.trust.look()
        self.run.record(policy_steps, values)
        said = None if self.settings.asks_people else due  # people have no schedule to be behind
        self.run.tell("ask", state="asking", open=counts.open, asked=counts.asked, due=said, labels=counts.labels)


def rewards_of_clips(
    store: Store, ensemble: RewardEnsemble, ids: list[int], version: int, policy_steps: int
) -> ClipRewards:
    """What every member of an r̂ gives for every step of some segments."""
    lengths, rewards = [], []
    for start in range(0, len(ids), CLIPS_AT_ONCE):
        part = store.segments(ids[start : start + CLIPS_AT_ONCE])
        rewards.append(ensemble.member_rewards(part.observations, part.actions) * part.mask())
        lengths.append(part.lengths)
    return ClipRewards(
        np.array(ids, np.int64), np.concatenate(lengths), np.concatenate(rewards, 1), version, policy_steps
    )


def make_teacher(run: RunDir, settings: Settings) -> Teacher:
    """The teacher that a run's settings name."""
    task = find_task(settings.task)
    if settings.asks_people:
        posed = settings.people.clips == "poses"
        return People(lambda states, length: _save(run.clips, task, states, length, posed), settings.people)
    if settings.teacher == JUDGE:
        question = run.settings.get("question") or task.question
        return Judge(Endpoint.from_environment(), question, lambda states, length: draw_segment(task, states, length))
    if settings.teacher == SCRIPTED:
        script, rate = task.script, facts(task).steps_per_second
        assert script is not None  # api.start saw to it
        return Scripted(lambda states, seen: script(states, seen, rate), settings.seed, margin=task.script_margin)
    return Oracle(FALLIBLE[settings.teacher], settings.seed, settings.teacher)


def _save(clips: Path, task: Task, states: Array, length: int, as_poses: bool) -> str:
    """Make a clip of a segment, as poses if that is wanted and can be; its name."""
    posed = pose_segment(task, states, length) if as_poses else None
    return save_clip(clips, draw_segment(task, states, length)) if posed is None else save_posed(clips, posed)
