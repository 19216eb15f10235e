"""What r̂ reads of a completion, what it is paid, and members that differ by priors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.fit import FitConfig, Fitter
from backflip.lm.models import ModelError, identity, load
from backflip.lm.passes import Batch, forward
from backflip.lm.reward import CompletionReward, Read, Reader, combined, joined, load_read, must_be_of, save_read
from backflip.preferences import Comparisons
from backflip.reward import Inputs, RewardConfig, RewardEnsemble
from backflip.segments import Array
from backflip.texts import Text
from backflip.tuning import TuneConfig

TEXTS = [
    Text("This film", " is boring and bad."),
    Text("I watched this western twice this week and", " I loved it."),
    Text("", " So it is."),
]


def _reader(causal: Any, **changes: Any) -> Reader:
    return Reader(causal, TuneConfig(**{"response_tokens": 20, **changes}))


def _from_tokens(reader: Reader, texts: list[Text], with_end: bool) -> Read:
    """As the sampler would have drawn these texts, with or without the token that ends them."""
    batch = reader.batch(texts)
    if not with_end:
        lengths = (batch.responses != reader.original.end).sum(1)
        batch = Batch(
            batch.prompts,
            batch.prompt_mask,
            batch.responses,
            (torch.arange(batch.mask.shape[1]) < lengths[:, None]).float(),
        )
    with torch.no_grad():
        passed = forward(reader.original.model, batch, hidden=True)
    return reader.from_passed(passed, batch)


@pytest.mark.parametrize("reads", ["completion", "tokens"])
def test_a_text_is_read_the_same_with_and_without_its_end_from_tokens_and_from_text(miniature: Any, reads: Any) -> None:
    reader = _reader(miniature, reads=reads)
    read = reader.read(TEXTS)
    for with_end in (True, False):
        found = _from_tokens(reader, TEXTS, with_end)
        assert np.array_equal(found.lengths, read.lengths)
        assert found.observations == pytest.approx(read.observations, abs=1e-5)
    assert read.observations.shape[1:] == (reader.steps, reader.size)


@pytest.mark.parametrize("reads", ["completion", "tokens"])
def test_a_text_is_read_the_same_among_any_others(miniature: Any, reads: Any) -> None:
    whole = _reader(miniature, reads=reads).read(TEXTS)
    alone = joined([_reader(miniature, reads=reads).read([text]) for text in TEXTS])
    assert whole.observations == pytest.approx(alone.observations, abs=1e-5)
    assert np.array_equal(whole.lengths, alone.lengths)


def test_sampled_tokens_that_are_their_texts_own_are_read_as_the_text_is(miniature: Any) -> None:
    from backflip.lm.tune import Tuner

    tuner = Tuner(miniature, TuneConfig(response_tokens=8, temperature=0.3))
    sampled = tuner.sample([text.prompt for text in TEXTS], 20, (0,))
    read = tuner.reader.read(sampled.texts)
    rows = [row[: int(n)].tolist() for row, n in zip(sampled.batch.responses, sampled.batch.mask.sum(1), strict=True)]
    own = [
        miniature.tokens(text.completion) == [token for token in row if token != miniature.end]
        for text, row in zip(sampled.texts, rows, strict=True)
    ]
    assert sum(own) > 10
    assert read.observations[own] == pytest.approx(sampled.read.observations[own], abs=1e-4)


def test_an_empty_completion_and_a_long_one_can_be_read(miniature: Any) -> None:
    reader = _reader(miniature, reads="tokens", response_tokens=4, prompt_tokens=3)
    read = reader.read([Text("p", ""), Text("a long prompt " * 30, "a long completion " * 30)])
    assert read.lengths.tolist() == [1, 4]
    assert (read.observations[0] == 0).all()
    assert np.isfinite(read.observations).all()


def test_tokens_and_the_whole_are_the_same_features(miniature: Any) -> None:
    """The whole is the mean of the tokens."""
    whole, tokens = (_reader(miniature, reads=reads).read(TEXTS) for reads in ("completion", "tokens"))
    mean = tokens.observations.sum(1) / tokens.lengths[:, None]
    assert mean == pytest.approx(whole.observations[:, 0], abs=1e-5)


def test_an_encoder_cannot_read_tokens(miniature: Any, miniature_folder: Path) -> None:
    with pytest.raises(ModelError, match="leave out --encoder to read tokens"):
        _reader(miniature, encoder=str(miniature_folder), reads="tokens")
    with pytest.raises(ModelError, match="cannot be loaded as a text encoder"):
        _reader(miniature, encoder="/no/encoder")


def test_an_encoder_reads_what_a_policy_could_have_written(miniature: Any, miniature_folder: Path) -> None:
    reader = _reader(miniature, encoder=str(miniature_folder), response_tokens=4)
    short = miniature.text(miniature.tokens(" I loved it so much that")[:4])
    end = miniature.tokenizer.eos_token
    alike = [Text("p", short), Text("p", " I loved it so much that"), Text("p", short + end)]
    one, longer, _ = reader.read(alike).observations
    assert longer == pytest.approx(one, abs=1e-5)
    endings = [Text("p", " so"), Text("p", f" so{end}"), Text("p", f" so{end} bad")]
    bare, ended, behind = reader.read(endings).observations
    assert ended == pytest.approx(bare, abs=1e-5)
    assert behind == pytest.approx(bare, abs=1e-5)
    assert np.abs(bare - one).max() > 0.01


def test_an_encoder_whose_tokenizer_knows_no_padding_reads_several_texts_as_one(
    miniature: Any, miniature_folder: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(miniature_folder, tmp_path / "bare")
    miniature.tokenizer.pad_token = None
    miniature.tokenizer.save_pretrained(tmp_path / "bare")
    bare, plain = (_reader(miniature, encoder=str(folder)) for folder in (tmp_path / "bare", miniature_folder))
    assert bare.read(TEXTS).observations == pytest.approx(plain.read(TEXTS).observations, abs=1e-5)
    miniature.tokenizer.eos_token = None
    miniature.tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="has no token to fill up with; set its pad_token and save it again"):
        _reader(miniature, encoder=str(tmp_path / "bare"))


def test_another_model_of_the_same_shape_is_refused(miniature: Any, miniature_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run" / "original.safetensors"
    file.parent.mkdir()
    save_read(file, _reader(miniature).read(TEXTS), identity(miniature.model))
    must_be_of(file, load(str(miniature_folder)))
    with torch.no_grad():
        next(iter(miniature.model.parameters()))[0, 0] += 1
    with pytest.raises(
        ModelError, match=r"is not the model that .*run began with: its weights are others; put that one"
    ):
        must_be_of(file, miniature)


def test_features_come_back_from_their_file(tmp_path: Path) -> None:
    read = Read(np.ones((2, 3, 4), np.float32), np.array([1, 3]))
    save_read(tmp_path / "read.safetensors", read)
    again = load_read(tmp_path / "read.safetensors")
    assert np.array_equal(again.observations, read.observations)
    assert again.lengths.tolist() == [1, 3]
    assert read.mask().tolist() == [[1, 0, 0], [1, 1, 1]]


def _reads(n: int, seed: int = 0, steps: int = 3) -> Read:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, n)
    observations = rng.normal(size=(n, steps, 6)).astype(np.float32)
    observations[np.arange(steps) >= lengths[:, None]] = 0
    return Read(observations, lengths)


def _ensemble(prior: float = 1.0, seed: int = 0) -> RewardEnsemble:
    return RewardEnsemble(Inputs((6,), 0, False), RewardConfig(members=4, layers=1, width=16, prior=prior), seed)


def test_every_member_has_mean_0_and_deviation_1_on_the_originals_completions() -> None:
    original = _reads(50)
    members = CompletionReward(_ensemble(), original).members(original)
    assert members.mean(1) == pytest.approx(np.zeros(4), abs=1e-5)
    assert members.std(1) == pytest.approx(np.ones(4), abs=1e-5)


def test_a_member_that_finds_all_equal_pays_nothing_rather_than_infinity() -> None:
    same = Read(np.ones((5, 1, 6), np.float32), np.ones(5, np.int64))
    assert np.abs(CompletionReward(_ensemble(), same)(same)).max() < 1


def test_aggregates_by_hand() -> None:
    members = np.array([[1, 4], [3, 0]], np.float32)
    assert combined(members, "mean").tolist() == [2, 2]
    assert combined(members, "minimum").tolist() == [1, 0]
    # Deviations of the members are 1 and 2: 2 - ½·1 and 2 - ½·2.
    assert combined(members, "pessimistic", 0.5).tolist() == [1.5, 1]


@pytest.mark.parametrize("aggregate", ["mean", "pessimistic", "minimum"])
def test_the_steps_of_a_completion_add_up_to_what_it_is_paid(aggregate: str) -> None:
    reward, read = CompletionReward(_ensemble(), _reads(50), aggregate), _reads(20, seed=1)
    steps = reward.steps(read)
    assert steps.sum(1) == pytest.approx(reward(read), abs=1e-4)
    assert (steps[read.mask() == 0] == 0).all()


def _weights(layers: list[Any]) -> list[Array]:
    return [layer.detach().numpy().copy() for layer in layers]


def test_fitting_never_moves_a_prior_but_for_the_units_of_its_inputs(make_segments: Any) -> None:
    segments = make_segments(40, steps=1, observation=(6,), action=(0,))
    pairs = np.arange(40).reshape(-1, 2)
    left, right = segments[pairs[:, 0]], segments[pairs[:, 1]]
    fitter = Fitter(_ensemble(), FitConfig(first_steps=20, steps=20))
    mu = (left.true_returns() > right.true_returns()).astype(np.float32)
    fitter.data = Comparisons(np.arange(20), left, right, mu, np.ones(20, np.float32))
    drawn = _weights(fitter.ensemble.priors)
    learned = _weights(fitter.ensemble.parameters)
    fitter.fit()
    after_one = _weights(fitter.ensemble.priors)
    fitter.fit()
    assert all(np.array_equal(a, b) for a, b in zip(after_one[2:], drawn[2:], strict=True))
    assert all(
        a == pytest.approx(b, abs=1e-4) for a, b in zip(_weights(fitter.ensemble.priors), after_one, strict=True)
    )
    assert not np.array_equal(learned[2], _weights(fitter.ensemble.parameters)[2])
    assert not any(prior.requires_grad for prior in fitter.ensemble.priors)


def test_inputs_in_other_units_leave_outputs_with_priors_as_they_were() -> None:
    rng = np.random.default_rng(0)
    ensemble = _ensemble(prior=2.0)
    seen = rng.normal(size=(30, 6)).astype(np.float32)
    actions = np.zeros((30, 0), np.float32)
    before = ensemble.raw(seen, actions).numpy()
    ensemble.restandardise_inputs([rng.normal(3, 7, size=(50, 6)).astype(np.float32)])
    assert ensemble.raw(seen, actions).numpy() == pytest.approx(before, abs=1e-4)


def test_priors_are_saved_and_loaded_and_weigh_what_they_are_said_to(tmp_path: Path) -> None:
    plain, ensemble = _ensemble(prior=0.0), _ensemble(prior=2.0)
    seen, actions = np.ones((3, 6), np.float32), np.zeros((3, 0), np.float32)
    raw = ensemble.raw(seen, actions)
    added = ensemble._through(ensemble.priors, ensemble.features(seen, actions))
    assert raw.numpy() == pytest.approx((plain.raw(seen, actions) + 2 * added).numpy(), abs=1e-5)
    ensemble.priors[0] += 1
    ensemble.save(tmp_path / "reward.safetensors")
    again = RewardEnsemble.load(tmp_path / "reward.safetensors")
    assert torch.equal(again.raw(seen, actions), ensemble.raw(seen, actions))
    assert not torch.equal(again.raw(seen, actions), raw)
