"""Learning from paid completions: advantages by hand, and the sampler's honesty."""

from typing import Any

import numpy as np
import pytest
import torch

from backflip.lm.kl import exact, k1, k3
from backflip.lm.learn import Paid, advantages_of_tokens, leave_one_out, sampling_error, token_rewards
from backflip.lm.models import arrays
from backflip.lm.passes import Batch, forward, log_probabilities
from backflip.lm.tune import SamplingError, Tuner
from backflip.tuning import TuneConfig

SMALL: dict[str, Any] = {"batch_prompts": 2, "completions": 4, "response_tokens": 4, "controller": "fixed"}


def _paid(mask: list[list[float]], steps: Any = None) -> Paid:
    shape = (len(mask), len(mask[0]))
    batch = Batch(
        torch.zeros(shape[0], 1).long(), torch.ones(shape[0], 1), torch.zeros(shape).long(), torch.tensor(mask).float()
    )
    rewards = np.arange(1, shape[0] + 1, dtype=np.float32)
    return Paid(batch, rewards, torch.full(shape, -1.0), torch.full(shape, -1.5), steps)


def test_a_completion_is_compared_with_the_mean_of_the_prompts_others() -> None:
    # 1 against (2 + 6)/2, 2 against (1 + 6)/2, 6 against (1 + 2)/2; of three equal ones none is better.
    found = leave_one_out(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3)
    assert found.tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]


def test_each_token_pays_for_its_nats_and_the_last_is_paid_what_the_completion_is_worth() -> None:
    # log π - log ρ = ½ everywhere, β = 2: each token that counts costs 1.
    found = token_rewards(_paid([[1, 1, 0], [1, 1, 1]]), 2.0)
    assert found.tolist() == [[-1, 0, 0], [-1, -1, 1]]


def test_where_tokens_are_read_each_is_paid_its_own() -> None:
    steps = np.array([[3, 4, 0], [5, 6, 7]], np.float32)
    found = token_rewards(_paid([[1, 1, 0], [1, 1, 1]], steps), 2.0)
    assert found.tolist() == [[2, 3, 0], [4, 5, 6]]


def test_advantages_of_tokens_by_hand() -> None:
    # λ = ½, no discount. The first row ends after two tokens: δ = (0 + 4 - 2, 3 - 4) = (2, -1), so A = (1.5, -1). The
    # second: δ = (1 + 1 - 1, 0 + 1 - 1, 2 - 1) = (1, 0, 1), so A = (1.25, .5, 1). Returns are A + V.
    rewards = np.array([[0, 3, 0], [1, 0, 2]], np.float32)
    values = np.array([[2, 4, 9], [1, 1, 1]], np.float32)
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.float32)
    advantages, returns = advantages_of_tokens(rewards, values, mask, 0.5)
    raw = np.array([1.5, -1, 1.25, 0.5, 1])
    white = (raw - raw.mean()) / raw.std()
    assert advantages[torch.from_numpy(mask) > 0].numpy() == pytest.approx(white, abs=1e-5)
    assert returns.tolist() == [[3.5, 3, 0], [2.25, 1.5, 2]]
    assert float(advantages[0, 2]) == 0


def test_a_probability_that_is_no_number_is_an_infinite_error_unless_it_is_padding() -> None:
    now, drawn = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.25, torch.nan]])
    assert sampling_error(now, drawn, torch.tensor([[1.0, 0.0]])) == 0.25
    assert sampling_error(now, drawn, torch.ones(1, 2)) == np.inf


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_honest_samples_are_found_as_likely_as_when_they_were_drawn(miniature: Any, algorithm: Any) -> None:
    tuner = Tuner(miniature, TuneConfig(algorithm=algorithm, **SMALL))
    for key in range(3):
        sampled = tuner.sample(["This film", "I"], 4, (key,))
        values = tuner.learn(sampled, np.arange(8, dtype=np.float32))
        assert values["act/sampling_error"] < 1e-4


class _Dishonest:
    """Samples with top-k or another temperature, and says truly how likely tokens were to it."""

    def __init__(self, tuner: Tuner, top: int | None, temperature: float) -> None:
        self.tuner, self.top, self.temperature = tuner, top, temperature

    def sample(self, prompts: Any, each: int, key: Any) -> Any:
        batch, _ = self.tuner.sampler.sample(prompts, each, key)
        with torch.no_grad():
            logits = forward(self.tuner.policy, batch).logits
        if self.top:
            least = logits.topk(self.top, -1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        table = torch.log_softmax(logits / self.temperature, -1)
        responses = torch.multinomial(table.exp().flatten(0, 1), 1).reshape(batch.responses.shape)
        return (
            Batch(batch.prompts, batch.prompt_mask, responses, torch.ones_like(batch.mask)),
            table.gather(2, responses[..., None])[..., 0],
        )

    def renew(self, model: Any) -> None:
        """Nothing to renew."""


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
@pytest.mark.parametrize(("top", "temperature"), [(3, 1.0), (None, 0.5)])
def test_a_sampler_that_follows_other_probabilities_is_refused(
    letters: Any, algorithm: Any, top: int | None, temperature: float
) -> None:
    config = TuneConfig(algorithm=algorithm, **{**SMALL, "response_tokens": 1})
    tuner = Tuner(letters, config)
    dishonest = Tuner(letters, config, sampler=_Dishonest(tuner, top, temperature))
    sampled = dishonest.sample(["ab", "c"], 4, (0,))
    with pytest.raises(SamplingError, match=r"other probabilities than the policy's .*sample without top-k"):
        dishonest.learn(sampled, np.zeros(8, np.float32))


def test_all_measures_of_kl_agree_with_the_enumerated_one(letters: Any) -> None:
    """A policy that was moved by hand; 16,000 completions of up to three of four letters."""
    tuner = Tuner(letters, TuneConfig(**{**SMALL, "response_tokens": 3, "micro_batch": 4096}))
    with torch.no_grad():
        for parameter in tuner.policy.parameters():
            parameter.mul_(1.3)
    tuner.completions = 1  # it is no longer the original
    enumerated = _enumerated_kl(tuner, "ab")
    sampled = [tuner.sample(["ab"], 4096, (key,)) for key in range(4)]
    ways = [(s.log_p, s.original, s.batch.mask) for s in sampled]
    assert enumerated > 0.02
    assert np.mean([s.exact_kl for s in sampled]) == pytest.approx(enumerated, rel=0.03)
    assert np.mean([float(k1(*way).mean()) for way in ways]) == pytest.approx(enumerated, rel=0.15)
    assert np.mean([float(k3(*way).mean()) for way in ways]) == pytest.approx(enumerated, rel=0.1)


def test_the_kl_of_an_untouched_policy_is_exactly_0_however_it_is_measured(miniature: Any) -> None:
    tuner = Tuner(miniature, TuneConfig(**SMALL))
    batch = tuner.sample(["This film", "I"], 4, (1,)).batch
    with torch.no_grad():
        tables = [
            log_probabilities(forward(model, batch).logits, batch.responses, 1.0)
            for model in (tuner.policy, tuner.original.model)
        ]
    (drawn, table), (original, original_table) = tables
    assert (k1(drawn, original, batch.mask) == 0).all()
    assert (k3(drawn, original, batch.mask) == 0).all()
    assert (exact(table, original_table, batch.mask) == 0).all()


def _enumerated_kl(tuner: Tuner, prompt: str) -> float:
    """Σ π(y)·(log π(y) - log ρ(y)) over all completions y."""
    t = tuner.config.response_tokens
    found = [torch.tensor(way) for way in np.ndindex(*[5] * t)]
    kept = [way for way in found if not _goes_on_after_its_end(way.tolist())]
    responses = torch.stack(kept)
    mask = ((responses == 0).long().cumsum(1) - (responses == 0).long() == 0).float()
    tokens = torch.tensor(tuner.tokens(prompt)).expand(len(kept), -1)
    batch = Batch(tokens, torch.ones(tokens.shape), responses, mask)
    with torch.no_grad():
        policy, original = (
            (log_probabilities(forward(model, batch).logits, responses, 1.0)[0] * mask).sum(1).double()
            for model in (tuner.policy, tuner.original.model)
        )
    assert float(policy.exp().sum()) == pytest.approx(1, abs=1e-5)
    return float((policy.exp() * (policy - original)).sum())


def _goes_on_after_its_end(way: list[int]) -> bool:
    return 0 in way and any(way[way.index(0) :])


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_a_reward_that_is_no_number_moves_no_weight_and_is_said(miniature: Any, algorithm: Any) -> None:
    tuner = Tuner(miniature, TuneConfig(algorithm=algorithm, batch_prompts=2, completions=4, response_tokens=6))
    sampled = tuner.sample(["This film", "I"], 4, (0,))
    before, beta = arrays(tuner.policy), tuner.controller.beta
    with pytest.raises(FloatingPointError, match=r"norm is nan: .* numbers are not finite; the weights are"):
        tuner.learn(sampled, np.full(8, np.nan, np.float32))
    assert all(np.array_equal(value, before[name]) for name, value in arrays(tuner.policy).items())
    assert tuner.controller.beta == beta
    assert tuner.completions == 0
