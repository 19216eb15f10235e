"""Models from folders: what cannot be used is refused in a sentence; the original stays what it was."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backflip.lm.models import ModelError, adapted, arrays, load, original_of, put_back
from backflip.lm.passes import by_transformers, forward
from backflip.lm.small import fetch, find
from backflip.lm.tune import Tuner
from backflip.segments import Array
from backflip.tuning import TuneConfig

SMALL: dict[str, Any] = {"batch_prompts": 2, "completions": 4, "response_tokens": 6, "learning_rate": 1e-2}


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for wrong, reason in ((tmp_path, "no config.json"), (tmp_path / "none", "does not exist")):
        with pytest.raises(ModelError, match=reason) as caught:
            load(str(wrong))
        assert "\n" not in str(caught.value)


def test_a_folder_with_torn_weights_is_refused(miniature_folder: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(miniature_folder, torn)
    (torn / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model") as caught:
        load(str(torn))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_tokenizer_is_refused(miniature_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(miniature_folder, bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer that can be loaded") as caught:
        load(str(bare))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_is_refused(miniature: Any, miniature_folder: Path, tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    shutil.copytree(miniature_folder, endless)
    miniature.tokenizer.eos_token = None
    miniature.tokenizer.save_pretrained(endless)
    with pytest.raises(ModelError, match="no token that ends a text; set its eos_token"):
        load(str(endless))


def test_a_model_that_has_to_be_fetched_first_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFLIP_MODELS", str(tmp_path))
    with pytest.raises(ModelError, match="backflip fetch smollm2"):
        find("smollm2")
    with pytest.raises(ModelError, match="no model is called 'gpt5'; there are: tiny, reviews, smollm2"):
        fetch("gpt5")


def test_adapters_without_peft_say_what_to_install(miniature: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"needs peft: pip install 'backflip\[lm\]'"):
        adapted(miniature.model, 4)


def test_small_models_are_tuned_as_a_whole_unless_adapters_are_asked_for(miniature: Any) -> None:
    assert adapted(miniature.model, None) is miniature.model
    assert adapted(miniature.model, 4) is not miniature.model


def test_text_and_tokens_come_back_and_a_text_ends_at_its_end(miniature: Any) -> None:
    text = "It was naïve, ünd—\n漢字 so."
    tokens = miniature.tokens(text)
    assert miniature.text(tokens) == text
    assert miniature.text([*tokens, miniature.end, *tokens]) == text
    assert miniature.tokens("") == []


def _logits(model: Any, batch: Any) -> Array:
    with torch.no_grad(), original_of(model):
        found: Array = by_transformers(model, batch).logits.numpy()
    return found


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_learning_moves_the_policy_and_leaves_the_original_as_it_was_loaded(
    miniature: Any, miniature_folder: Path, tmp_path: Path, rank: int, algorithm: Any
) -> None:
    config = TuneConfig(algorithm=algorithm, lora_rank=rank, **SMALL)
    base = load(str(miniature_folder)).model
    torch.manual_seed(0)
    tuner = Tuner(miniature, config)
    batch = tuner.sample(["This film", "I"], 4, (0,)).batch
    before = _logits(base, batch)
    assert np.array_equal(_logits(tuner.original.model, batch), before)
    features = tuner.reader.read(tuner.sample(["This film"], 2, (1,)).texts).observations
    texts = tuner.sample(["This film"], 2, (1,)).texts
    for key in range(3):
        tuner.learn(tuner.sample(["This film", "I"], 4, (key,)), np.arange(8, dtype=np.float32))
    assert np.array_equal(_logits(tuner.original.model, batch), before)
    assert np.array_equal(tuner.reader.read(texts).observations, features)
    with torch.no_grad():
        assert np.abs(forward(tuner.policy, batch).logits.numpy() - before).max() > 0.01
    assert tuner.sample(["This film"], 4, (9,)).exact_kl > 0

    tuner.save(tmp_path)
    resumed = Tuner(load(str(miniature_folder)), config)
    resumed.load(tmp_path)
    assert np.array_equal(_logits(resumed.original.model, batch), before)
    assert all(np.array_equal(a, arrays(resumed.policy)[name]) for name, a in arrays(tuner.policy).items())


def test_weights_of_another_model_are_refused(miniature: Any, letters: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"run/policy was tuned from another model: .* give the model it began with"):
        put_back(miniature.model, arrays(letters.model), Path("run/policy"))
