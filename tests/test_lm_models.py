"""Models from folders: what cannot be used is refused in a sentence; the original stays what it was."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from backflip.lm.models import (
    ModelError,
    adapted,
    arrays,
    load,
    memory_suffices,
    must_load,
    original_of,
    put_back,
)
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


def _bert() -> Any:
    return transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )


def test_a_model_that_does_not_continue_texts_is_refused(miniature_folder: Path, tmp_path: Path) -> None:
    llama = transformers.LlamaConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    of_llama: Any = transformers.LlamaForSequenceClassification
    both_ways = "what it says of a token depends on those behind it"
    others = {
        "encoder": (transformers.BertModel(_bert()), "lacks cls.predictions"),
        "scores": (of_llama(llama), "lacks lm_head.weight, which would be drawn at"),
        "both ways": (transformers.BertLMHeadModel(_bert()), both_ways),
    }
    for name, (model, reason) in others.items():
        shutil.copytree(miniature_folder, tmp_path / name)
        model.save_pretrained(tmp_path / name)
        with pytest.raises(ModelError, match=f"is no causal language model: (it )?{reason}") as caught:
            load(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of Mamba's slow way
def test_a_model_that_keeps_a_state_instead_of_what_it_attends_to_is_refused(
    miniature_folder: Path, tmp_path: Path
) -> None:
    config = transformers.MambaConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1)
    shutil.copytree(miniature_folder, tmp_path / "mamba")
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    with pytest.raises(ModelError, match=r"cannot be sampled from token by token .*model of Mamba's kind") as caught:
        load(str(tmp_path / "mamba"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_a_model_of_another_kind_that_attends_is_taken(miniature_folder: Path, tmp_path: Path, kind: str) -> None:
    configs: dict[str, Any] = {"gpt2": transformers.GPT2Config, "bloom": transformers.BloomConfig}
    config = configs[kind](vocab_size=300, hidden_size=8, n_layer=1, n_head=2)
    shutil.copytree(miniature_folder, tmp_path / kind)
    auto: Any = transformers.AutoModelForCausalLM
    auto.from_config(config).save_pretrained(tmp_path / kind)
    load(str(tmp_path / kind))


@pytest.mark.parametrize("whole", [True, False])
def test_adapters_alone_are_no_model(miniature: Any, miniature_folder: Path, tmp_path: Path, whole: bool) -> None:
    if whole:
        shutil.copytree(miniature_folder, tmp_path, dirs_exist_ok=True)
    adapted(miniature.model, 2).save_pretrained(tmp_path)
    miniature.tokenizer.save_pretrained(tmp_path)
    for refused in (load, must_load):
        with pytest.raises(ModelError, match="holds adapters; merge them into their model") as caught:
            refused(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_their_configuration_are_not_called_too_large(
    miniature_folder: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(miniature_folder, odd)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "intermediate_size": 2 * config["intermediate_size"]}))
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model") as caught:
        load(str(odd))
    assert "memory" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")]
)
def test_too_little_memory_is_said_in_a_sentence(error: Exception) -> None:
    said = pytest.raises(ModelError, match=r"memory does not suffice for tuning gpt .*; use a smaller --model")
    with said, memory_suffices("tuning gpt"):
        raise error
    with pytest.raises(RuntimeError, match="shapes differ"), memory_suffices("tuning gpt"):
        raise RuntimeError("shapes differ")


def as_gguf(causal: Any, file: Path) -> None:
    """A Llama of float32 as llama.cpp's converter writes it, with the byte-level tokenizer."""
    import gguf

    config, weights = causal.model.config, causal.model.state_dict()
    tokenizer = json.loads(causal.tokenizer.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(causal.tokenizer.get_vocab(), key=causal.tokenizer.get_vocab().__getitem__))
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
    writer.add_eos_token_id(causal.end)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk"}
    for name, weight in weights.items():
        if name == "lm_head.weight":  # the same as what tokens are embedded by
            continue
        array = weight.numpy()
        if "q_proj" in name or "k_proj" in name:  # its halves are interleaved there
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            rows, columns = array.shape
            array = array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_read(miniature: Any, miniature_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "miniature.gguf"
    as_gguf(miniature, file)
    found = load(str(file))
    batch = Tuner(load(str(miniature_folder)), TuneConfig(**SMALL)).sample(["This film", "I"], 2, (0,)).batch
    assert np.allclose(_logits(found.model, batch), _logits(miniature.model, batch), atol=1e-4)
    assert found.tokens("This film") == miniature.tokens("This film")


def test_a_folder_is_refused_without_its_weights_being_read(miniature_folder: Path, tmp_path: Path) -> None:
    must_load(str(miniature_folder))
    light = tmp_path / "light"
    shutil.copytree(miniature_folder, light, ignore=shutil.ignore_patterns("*.safetensors"))
    must_load(str(light))
    (light / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"has a config.json that cannot be read") as caught:
        must_load(str(light))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_tokenizer_is_refused(miniature_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(miniature_folder, bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    for refused in (load, must_load):
        with pytest.raises(ModelError, match="no tokenizer that can be loaded") as caught:
            refused(str(bare))
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
