"""What others found to pay and `fast` does without: five ingredients of PEBBLE's successors, to be measured again.

Each is a context: while it lasts, one function of the method is replaced by that function with the ingredient.
benchmarks/labels.py runs them as variants; docs/log.md says what came of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from backflip.fit import Fitter, Table
from backflip.fitting import Fit
from backflip.policies.replay import Replay
from backflip.policies.sac import SAC
from backflip.preferences import Comparisons
from backflip.queries import pair_probabilities, random_pairs
from backflip.reward import LEAK, RewardEnsemble

OPTIMISM, OPTIMISM_DECAY = 0.05, 1e-5
"""Weight of the members' deviation, and its decay in a step (Liang et al. 2022, RUNE)."""
NEAR_STEPS = 10_000
"""Newest transitions that half of every batch comes from (Hu et al. 2024, QPA: the last ten episodes)."""
SURE = 0.99
"""How sure r̂ has to be to answer a pair itself (Park et al. 2022, SURF), without the 10 % error."""
PSEUDO_RATIO = 4
"""Pairs that r̂ answers itself, for each that the teacher answered (SURF)."""
LATENT_STEPS, LATENT_BATCH = 300, 256
"""Minibatches of the self-supervised task before the fits, and transitions in each."""


@contextmanager
def _instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, make(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def optimism() -> Iterator[None]:
    """RUNE (Liang et al. 2022): the policy is also paid the members' disagreement, ever less of it."""
    paid = 0

    def make(_: Any) -> Any:
        def reward(self: RewardEnsemble, observations: Any, actions: Any) -> Any:
            nonlocal paid
            members = self.member_rewards(observations, actions)
            steps = int(np.prod(members.shape[1:]))
            paid += steps if steps < 1000 else 0  # rollouts, not the memory paid anew
            weight = OPTIMISM * (1 - OPTIMISM_DECAY) ** paid
            return members.mean(0) + weight * members.std(0)

        return reward

    with _instead(RewardEnsemble, "reward", make):
        yield


@contextmanager
def caution() -> Iterator[None]:
    """The opposite: what the members disagree about pays less, by their deviation."""

    def make(_: Any) -> Any:
        def reward(self: RewardEnsemble, observations: Any, actions: Any) -> Any:
            members = self.member_rewards(observations, actions)
            return members.mean(0) - members.std(0)

        return reward

    with _instead(RewardEnsemble, "reward", make):
        yield


@contextmanager
def hybrid_replay() -> Iterator[None]:
    """QPA (Hu et al. 2024): half of every batch comes from what the policy did of late."""

    def make(before: Any) -> Any:
        def sample(self: Replay, places: Any) -> Any:
            newest = min(NEAR_STEPS, len(self))
            half = len(places) // 2
            places = places.copy()
            places[:half] = (self.added - 1 - places[:half] % newest) % self.capacity
            return before(self, places)

        return sample

    with _instead(Replay, "sample", make):
        yield


@contextmanager
def reset_critics() -> Iterator[None]:
    """The critics begin anew once half of the labels are in and forget what early rewards taught (Nikishin 2022)."""

    def make(before: Any) -> Any:
        repaid: dict[int, int] = {}

        def repay(self: SAC, reward: Any) -> None:
            before(self, reward)
            repaid[id(self)] = repaid.get(id(self), 0) + 1
            if repaid[id(self)] == 8:
                fresh = SAC(self.collector, self.config, self.seed + 1)
                self.critics.flat.copy_(fresh.critics.flat)
                self.slow.flat.copy_(fresh.critics.flat)
                self.adams["critics"].forget()
                rng = np.random.default_rng([self.seed, 99])
                self._learn(rng, 2000, False)

        return repay

    with _instead(SAC, "repay", make):
        yield


@contextmanager
def _stores() -> Iterator[dict[int, Any]]:
    """The store of each fitter, by the fitter's id; a fitter knows none itself."""
    stores: dict[int, Any] = {}

    def make(before: Any) -> Any:
        def step(self: Fit) -> bool:
            stores[id(self.fitter)] = self.store
            return bool(before(self))

        return step

    with _instead(Fit, "step", make):
        yield stores


@contextmanager
def pseudo_labels() -> Iterator[None]:
    """SURF (Park et al. 2022): pairs that r̂ is sure about are answered by r̂ itself and learned from too."""

    def make_table(before: Any) -> Any:
        def tabulated(self: Fitter, data: Any, error_rates: Any = None) -> Table:
            table: Table = before(self, data, error_rates)
            if self.fits == 0:
                return table
            rng = np.random.default_rng([self.seed, self.fits, 5])
            wanted = PSEUDO_RATIO * len(data)
            segments = stores[id(self)].sample(rng, 2 * wanted, 1000)
            pairs = random_pairs(rng, len(segments), wanted)
            p = pair_probabilities(self.ensemble, segments, pairs, 0.0).mean(0)
            pairs, p = pairs[np.maximum(p, 1 - p) > SURE], p[np.maximum(p, 1 - p) > SURE]
            if len(pairs) == 0:
                return table
            left, right = (segments[pairs[:, i]].without_states() for i in (0, 1))
            mu = (p > 0.5).astype(np.float32)
            pseudo = Comparisons(np.full(len(pairs), -1), left, right, mu, np.ones_like(mu))
            masks = [torch.from_numpy(side.mask()) for side in (left, right)]
            ones = torch.ones(self.ensemble.members, len(pairs))
            rate = table.error_rate
            if isinstance(rate, torch.Tensor):
                rate = torch.cat([rate, torch.full((len(pairs),), self.config.error_rate)])
            return Table(
                data=table.data.without_states().appended(pseudo),
                mask=torch.cat([table.mask, torch.stack(masks, 1)]),
                mu=torch.cat([table.mu, torch.from_numpy(mu)]),
                train=torch.cat([table.train, ones], 1),
                held_out=torch.cat([table.held_out, 0 * ones], 1),
                error_rate=rate,
            )

        return tabulated

    with _stores() as stores, _instead(Fitter, "_tabulated", make_table):
        yield


@contextmanager
def latent_dynamics() -> Iterator[None]:
    """REED (Metcalf et al. 2022): the hidden layers of r̂ also learn to predict the next state's, before each fit."""

    def make_fit(before: Any) -> Any:
        def fit(self: Fitter) -> bool:
            if self.fits > 0:
                _predict_next(self, stores[id(self)].recent(500))
            return bool(before(self))

        return fit

    with _stores() as stores, _instead(Fitter, "fit", make_fit):
        yield


def _predict_next(fitter: Fitter, segments: Any) -> None:
    """Minibatches of SimSiam's loss between the predicted and the seen next state, through the first layers of r̂."""
    ensemble = fitter.ensemble
    n, k = segments.true_rewards.shape
    inputs = ensemble.features(segments.observations, segments.actions).reshape(n, k, -1)
    now, following = inputs[:, :-1].flatten(0, 1), inputs[:, 1:].flatten(0, 1)
    w1, b1, w2, b2 = ensemble.parameters[:4]
    width = w2.shape[2]
    generator = torch.Generator().manual_seed(fitter.fits)
    head = torch.randn(ensemble.members, width, width, generator=generator).mul_(width**-0.5).requires_grad_()
    target = torch.randn(ensemble.inputs.observation_size, width, generator=generator) * 0.3
    adam = torch.optim.Adam([w1, b1, w2, b2, head], 3e-4)
    for _ in range(LATENT_STEPS):
        rows = torch.randint(len(now), (LATENT_BATCH,), generator=generator)
        hidden = now[rows].expand(ensemble.members, -1, -1)
        for weights, bias in ((w1, b1), (w2, b2)):
            hidden = torch.nn.functional.leaky_relu(torch.baddbmm(bias, hidden, weights), LEAK)
        seen = torch.tanh(following[rows][:, : ensemble.inputs.observation_size] @ target)
        loss = -torch.nn.functional.cosine_similarity(torch.bmm(hidden, head), seen.expand_as(hidden), dim=2).mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
        adam.step()


INGREDIENTS = {
    "optimism": optimism,
    "caution": caution,
    "hybrid-replay": hybrid_replay,
    "reset-critics": reset_critics,
    "pseudo-labels": pseudo_labels,
    "latent-dynamics": latent_dynamics,
}
