"""A script in the place of a person, for tasks that no reward describes. §3.2"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from backflip.preferences import Choice
from backflip.segments import Array
from backflip.store import Store
from backflip.teachers.oracle import FALLIBLE, Fallibility, answer, choose


class Scripted:
    """Answers every open query at once, by a script that judges what happened; one answer in ten is wrong.

    As an oracle's, each answer is drawn from a generator keyed by the query.
    """

    name = "scripted"

    def __init__(
        self,
        judge: Callable[[Array, Array], float],
        seed: int = 0,
        fallibility: Fallibility | None = None,
        margin: float = 0.0,
    ) -> None:
        """Let a script answer.

        Args:
            judge: the script, from the simulator's states [k s] and what was seen [k *o]; larger is better.
            fallibility: by default mistakes as people make them (§2.2.3).
            margin: two segments that differ by less are a tie.
        """
        self.judge = judge
        self.seed = seed
        self.fallibility = replace(fallibility or FALLIBLE["mistake"], equal=1.0)
        self.margin = margin

    def teach(self, store: Store) -> int:
        """Answer all open queries."""
        queries = store.open_queries()
        if not queries:
            return 0
        segments = store.segments(sorted({i for query in queries for i in (query.left, query.right)}), states=True)
        if segments.states.size == 0:
            raise ValueError("a script judges the simulator's states, and these segments were recorded without them")
        score = {
            int(number): float(self.judge(states[:length], seen[:length]))
            for number, states, seen, length in zip(
                segments.ids, segments.states, segments.observations, segments.lengths, strict=True
            )
        }
        choices: list[Choice] = []
        for query in queries:
            pair = score[query.left], score[query.right]
            rng = np.random.default_rng([self.seed, query.id])
            choices.append(choose(pair, pair, self.fallibility, self.margin, rng))
        return answer(store, queries, choices, self.name, self.seed)
