"""The tuned model of a run as a folder that transformers loads."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from texts_runs import finished, miniature, moved, settings, with_reward

pytest.importorskip("transformers")
PROMPT = "This film begins in a small town, and"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("models") / "mini")


def logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([tokens])).logits
    return torch.log_softmax(found, -1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("rank", [0, 4])
def test_an_exported_model_loads_again_and_gives_the_run_s_log_probabilities(
    model: Path, tmp_path: Path, rank: int
) -> None:
    import transformers

    from backflip.lm.export import export_model
    from backflip.lm.tune import Tune
    from backflip.settings import Settings

    run = with_reward(settings(model, lora_rank=rank), tmp_path / "run")
    moved(run)
    files = export_model(run, tmp_path / "out")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}
    assert not any("adapter" in file.name for file in files)
    with closing(run.store()) as store:
        tune = Tune(run, store, Settings.from_dict(run.settings))
        tune.load()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens = tokenizer(PROMPT)["input_ids"]
    assert tokens == tune.tuner.causal.tokens(PROMPT)
    ours, base = logits(tune.tuner.policy, tokens), transformers.AutoModelForCausalLM.from_pretrained(model)
    torch.testing.assert_close(logits(loaded, tokens), ours, atol=1e-5, rtol=1e-5)
    assert (logits(base, tokens) - ours).abs().max() > 1e-3


@pytest.mark.slow
def test_the_page_says_what_was_asked_by_whom_and_how_far_it_went(model: Path, tmp_path: Path) -> None:
    from backflip.lm.export import export_model

    (model / "README.md").write_text("---\nlicense: mit\n---\n# mini\n")
    run = finished(settings(model), tmp_path / "run")
    export_model(run, tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.startswith('---\nlicense: "mit"\nlibrary_name: "transformers"\n')
    assert "describes more vividly" in page
    assert "| oracle (a synthetic measure in people's place) | 12 |" in page
    assert "| people (who read completions) | 0 |" in page
    assert "nats a completion" in page
    assert "KL to the base, over the whole vocabulary | not measured" not in page
    assert str(tmp_path) not in page


def test_the_command_line_exports_a_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backflip.cli import main

    run = with_reward(settings(model), tmp_path / "run")
    main(["export", str(run.path), "--model", str(tmp_path / "out"), "--licence", "cc-by-4.0"])
    assert str(tmp_path / "out" / "model.safetensors") in capsys.readouterr().out
    assert 'license: "cc-by-4.0"' in (tmp_path / "out" / "README.md").read_text()


def test_what_has_no_model_to_export_is_said_in_a_sentence(model: Path, tmp_path: Path) -> None:
    from backflip.api import start
    from backflip.exchange import ExchangeError
    from backflip.lm.export import export_model
    from backflip.rundir import RunDir

    robot = RunDir.create(tmp_path / "robot", {"task": "Pendulum-v1", "teacher": "oracle", "seed": 0})
    with pytest.raises(ExchangeError, match="tunes no language model"):
        export_model(robot, tmp_path / "out")
    young = start(settings(model), tmp_path / "young")
    with pytest.raises(ExchangeError, match="no checkpoint yet"):
        export_model(young, tmp_path / "out")
    with pytest.raises(ExchangeError, match="names no licence"):
        export_model(young, tmp_path / "out", "do what\nyou like")
    assert not (tmp_path / "out").exists()


def test_kinds_of_teachers_are_told_apart_by_name() -> None:
    from backflip.lm.export import kind_of

    names = ("anna", "judge", "oracle", "mistake")
    assert [kind_of(name, 1.7e9) for name in names] == ["people", "judge", "oracle", "oracle"]
    assert [kind_of(name, 0.0) for name in names] == ["file", "judge", "oracle", "oracle"]


def test_the_licence_is_the_one_that_a_gguf_file_states(tmp_path: Path) -> None:
    import gguf

    from backflip.lm.export import base_of

    for name, licence in (("stated", "apache-2.0"), ("silent", None)):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        if licence:
            writer.add_license(licence)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    assert base_of(str(tmp_path / "stated.gguf")).licence == "apache-2.0"
    assert base_of(str(tmp_path / "silent.gguf")).licence == "unknown"


def test_a_base_model_is_named_without_this_machine_s_paths(model: Path) -> None:
    from backflip.lm.export import base_of

    assert base_of(str(model)).name == "mini"
    assert base_of("somebody/model-7b").hub == "somebody/model-7b"
    assert base_of("smollm2").licence == "apache-2.0"
    assert base_of("tiny").hub is None
