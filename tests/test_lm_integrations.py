"""r̂ as the reward of TRL and verl, called as these call it, and a budget of KL for TRL's trainers."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from texts_runs import miniature, settings, with_reward

pytest.importorskip("transformers")
PROMPT = "This film begins in a small town, and"
COMPLETIONS = [" it was warm and golden.", " I left."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trl")
    return with_reward(settings(miniature(folder / "mini")), folder / "run").path


@pytest.fixture(scope="module")
def reward(run: Path) -> Any:
    from backflip.lm.integrations import trl_reward

    return trl_reward(run)


def test_trl_gets_a_number_for_each_completion(reward: Any) -> None:
    metrics: dict[str, float] = {}
    found = reward(
        prompts=[PROMPT, PROMPT],
        completions=COMPLETIONS,
        completion_ids=[[1, 2], [3]],
        trainer_state=SimpleNamespace(global_step=3),
        log_extra=print,
        log_metric=metrics.__setitem__,
        some_column=["a", "b"],
    )
    assert [type(one) for one in found] == [float, float]
    assert found[0] != found[1]
    assert metrics["reward_version"] == 1
    assert metrics["reward_deviation"] > 0
    assert reward.__name__ == "backflip_reward"  # TRL names its measurements by it


def test_a_dialogue_is_worth_what_its_contents_are(reward: Any) -> None:
    dialogues = [[{"role": "user", "content": PROMPT}] for _ in COMPLETIONS]
    replies: list[list[dict[str, Any]]] = [
        [{"role": "assistant", "content": COMPLETIONS[0]}],
        [{"role": "assistant", "content": [{"type": "text", "text": COMPLETIONS[1]}]}],
    ]
    expected = reward(prompts=[PROMPT, PROMPT], completions=COMPLETIONS)
    assert reward(prompts=dialogues, completions=replies) == pytest.approx(expected)


def test_trl_s_reward_does_not_read_the_end(reward: Any) -> None:
    from backflip.lm.small import END

    plain = reward(prompts=[PROMPT], completions=[" warm."])
    assert reward(prompts=[PROMPT], completions=[" warm." + END]) == pytest.approx(plain, abs=1e-6)


def test_a_message_without_text_is_refused() -> None:
    from backflip.lm.integrations import plain

    with pytest.raises(ValueError, match="without text"):
        plain([{"role": "user", "content": None}])


def test_verl_gets_the_same_number(run: Path, reward: Any) -> None:
    from backflip.lm.integrations import verl_reward

    compute_score = verl_reward(run)
    found = compute_score(data_source="films", solution_str=" warm.", ground_truth="", extra_info={"prompt": PROMPT})
    assert found == pytest.approx(reward(prompts=[PROMPT], completions=[" warm."])[0], abs=1e-6)
    with pytest.raises(ValueError, match="extra_info"):
        compute_score("films", " warm.", "", {})


def test_beta_moves_by_the_kl_of_a_completion() -> None:
    from backflip.lm.integrations import kl_budget
    from backflip.lm.kl import Budget

    trainer = SimpleNamespace(beta=0.05)
    callback = kl_budget(trainer, target=6.0)
    callback.on_log(None, None, None, logs={"kl": 0.5, "completions/mean_length": 24.0})
    alone = Budget(0.05, 6.0)
    alone.update(12.0, 1)  # 0.5 nats a token, 24 tokens
    assert trainer.beta == pytest.approx(alone.beta)
    assert trainer.beta > 0.05
    before = trainer.beta
    callback.on_log(None, None, None, logs={"train_runtime": 3.0})
    assert trainer.beta == before
    for _ in range(30):
        callback.on_log(None, None, None, logs={"kl": 0.01, "completions/mean_length": 24.0})
    assert trainer.beta < before
    assert math.isfinite(trainer.beta)


def test_a_trainer_without_a_price_is_refused() -> None:
    from backflip.lm.integrations import kl_budget

    with pytest.raises(ValueError, match="set it to"):
        kl_budget(SimpleNamespace(beta=0))
