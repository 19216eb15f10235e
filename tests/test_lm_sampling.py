"""Completions are drawn exactly as the model's probabilities say."""

from typing import Any

import numpy as np
import pytest
import torch

from backflip.lm.passes import Batch, forward, log_probabilities
from backflip.lm.sampling import Transformers, padded, up_to_the_end


def test_prompts_are_padded_at_the_left() -> None:
    tokens, mask = padded([[5, 6], [], [7]], 9)
    assert tokens.tolist() == [[5, 6], [9, 9], [9, 7]]
    assert mask.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert padded([], 9)[0].shape == (0, 1)


def test_a_completion_ends_with_its_first_end_which_counts() -> None:
    responses = torch.tensor([[1, 2, 3], [1, 0, 0], [0, 1, 0]])
    assert up_to_the_end(responses, 0).tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


def test_completions_are_as_frequent_as_the_model_says(letters: Any) -> None:
    """20,000 completions of one and two tokens: no frequency is off by more than five standard deviations."""
    sampler = Transformers(letters.model, 0, 2, 0.8, together=4096)
    batch, log_p = sampler.sample([[1, 2]], 20_000, (3,))
    kinds, counts = np.unique(batch.responses.numpy(), axis=0, return_counts=True)
    for kind, count in zip(kinds, counts, strict=True):
        row = int((batch.responses == torch.from_numpy(kind)).all(1).nonzero()[0])
        p = float(log_p[row].sum().exp())
        assert abs(count / 20_000 - p) < 5 * np.sqrt(p * (1 - p) / 20_000)


def test_log_p_is_the_models_own_at_the_temperature(miniature: Any) -> None:
    prompts = [miniature.tokens(text) for text in ("This film", "After ten minutes of it", "I")]
    batch, log_p = Transformers(miniature.model, miniature.end, 8, 0.7).sample(prompts, 3, (1,))
    with torch.no_grad():
        again, _ = log_probabilities(forward(miniature.model, batch).logits, batch.responses, 0.7)
    assert log_p.numpy() == pytest.approx((again * batch.mask).numpy(), abs=1e-5)


def test_the_completions_of_a_prompt_lie_side_by_side_and_a_key_names_them(miniature: Any) -> None:
    sampler = Transformers(miniature.model, miniature.end, 6, 1.0, together=4)
    prompts = [[5, 6, 7], [8]]
    first, log_p = sampler.sample(prompts, 3, (1, 2))
    again, log_p_again = sampler.sample(prompts, 3, (1, 2))
    other, _ = sampler.sample(prompts, 3, (1, 3))
    assert first.prompts[:, -1].tolist() == [7, 7, 7, 8, 8, 8]
    assert torch.equal(first.responses, again.responses)
    assert torch.equal(log_p, log_p_again)
    assert not torch.equal(first.responses, other.responses)


def test_after_its_end_a_completion_costs_nothing(letters: Any) -> None:
    batch, log_p = Transformers(letters.model, 0, 5, 1.0).sample([[1], [2]], 50, (0,))
    ended = batch.mask == 0
    assert ended.any()
    assert (batch.responses[ended] == 0).all()
    assert (log_p[ended] == 0).all()


@pytest.mark.parametrize("together", [1, 3, 64])
def test_neither_padding_nor_the_others_of_a_batch_change_a_log_probability_or_a_feature(
    miniature: Any, together: int
) -> None:
    prompts = [miniature.tokens(text) for text in ("It", "When I think of this long western film", "My friends told")]
    batch, _ = Transformers(miniature.model, miniature.end, 7, 1.0).sample(prompts, 2, (4,))
    batch.responses[0, 3:] = miniature.end
    batch.mask[0, 4:] = 0
    with torch.no_grad():
        expected = forward(miniature.model, batch, hidden=True)
        whole, _ = log_probabilities(expected.logits, batch.responses, 1.0)
        assert expected.after is not None
        for i in range(0, len(batch), together):
            some = batch[i : i + together]
            for one in (some, _wider(some, 3, 2, miniature.end)):
                passed = forward(miniature.model, one, hidden=True)
                t = some.responses.shape[1]
                found, _ = log_probabilities(passed.logits[:, :t], some.responses, 1.0)
                assert passed.after is not None
                counts = some.mask > 0
                assert found[counts].numpy() == pytest.approx(whole[i : i + together][counts].numpy(), abs=1e-5)
                last, wanted = passed.after[:, :t], expected.after[i : i + together]
                assert last[counts].numpy() == pytest.approx(wanted[counts].numpy(), abs=1e-4)


def _wider(batch: Batch, left: int, right: int, filler: int) -> Batch:
    pad = torch.nn.functional.pad
    return Batch(
        pad(batch.prompts, (left, 0), value=filler),
        pad(batch.prompt_mask, (left, 0)),
        pad(batch.responses, (0, right), value=filler),
        pad(batch.mask, (0, right)),
    )


def test_tables_are_kept_of_a_whole_draw_or_not_at_all(miniature: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip.lm import sampling

    sampler = Transformers(miniature.model, miniature.end, 4, 1.0, together=4)
    prompts = [miniature.tokens("This film")] * 4
    vocabulary = len(miniature.tokenizer)
    for most, kept in ((8 * 4 * vocabulary, True), (8 * 4 * vocabulary - 1, False)):  # 8 completions, 4 together
        monkeypatch.setattr(sampling, "MOST_KEPT", most)
        batch, _ = sampler.sample(prompts, 2, (0,))
        assert (sampler.tables is not None) == kept
        if sampler.tables is not None:
            assert sampler.tables.shape == (8, 4, vocabulary)
            assert len(batch) == 8
