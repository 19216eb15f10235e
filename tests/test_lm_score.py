"""r̂ served to other trainers: POST /score."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from starlette.exceptions import StarletteDeprecationWarning

from texts_runs import miniature, publish, settings, with_reward

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

if TYPE_CHECKING:
    from backflip.lm.score import Scorer
    from backflip.rundir import RunDir

pytest.importorskip("transformers")
HERE = "http://127.0.0.1:8642"
PROMPT = "This film begins in a small town, and"
TOKEN = 43 * "t"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> "RunDir":
    folder = tmp_path_factory.mktemp("score")
    return with_reward(settings(miniature(folder / "mini")), folder / "run")


@pytest.fixture(scope="module")
def scorer(run: "RunDir") -> "Scorer":
    from backflip.lm.score import Scorer

    return Scorer(run)


@pytest.fixture
def client(run: "RunDir") -> Iterator[TestClient]:
    from backflip.lm.score import create_app

    app = create_app(run, TOKEN)
    yield TestClient(app, base_url=HERE)
    app.state.store.close()


def asked(*completions: str) -> dict[str, Any]:
    return {
        "query": [PROMPT + completion for completion in completions],
        "prompts": [PROMPT for _ in completions],
        "labels": ["" for _ in completions],
    }


def test_scores_are_what_the_run_pays_its_policy(run: "RunDir", scorer: "Scorer") -> None:
    from backflip.lm.models import load
    from backflip.lm.reward import CompletionReward, Reader, load_read
    from backflip.lm.tune import ORIGINAL
    from backflip.reward import RewardEnsemble
    from backflip.settings import Settings
    from backflip.texts import Text

    config = Settings.from_dict(run.settings).tune
    assert config is not None
    texts = [Text(PROMPT, " it was warm and golden."), Text(PROMPT, " I left.")]
    reader = Reader(load(config.model), config)
    ensemble = RewardEnsemble.load(run.path / "reward" / "000001" / "reward.safetensors")
    pays = CompletionReward(ensemble, load_read(run.path / ORIGINAL))
    found = scorer(texts)
    np.testing.assert_allclose(found.rewards, pays(reader.read(texts)), atol=1e-6)
    np.testing.assert_allclose(found.deviations, pays.members(reader.read(texts)).std(0), atol=1e-6)
    assert found.deviations.min() > 0
    assert len(scorer([]).rewards) == 0


def test_a_text_is_worth_the_same_with_its_end_and_without(scorer: "Scorer") -> None:
    from backflip.lm.small import END
    from backflip.texts import Text

    without, ended, padded = scorer([Text(PROMPT, " warm." + after) for after in ("", END, END + END + END)]).rewards
    assert without == pytest.approx(ended, abs=1e-6)
    assert without == pytest.approx(padded, abs=1e-6)


def test_completions_that_are_not_read_to_their_end_are_said_once(
    run: "RunDir", caplog: pytest.LogCaptureFixture
) -> None:
    from backflip.lm.score import Scorer
    from backflip.lm.small import END
    from backflip.texts import Text

    scorer = Scorer(run)
    longest = len(scorer._reader.original.tokens(" warm" * 30))
    scorer([Text(PROMPT, " warm."), Text(PROMPT, " w." + 20 * END)])
    assert not caplog.records
    for _ in range(2):
        scorer([Text(PROMPT, " warm."), Text(PROMPT, " warm" * 30)])
    assert [record.getMessage() for record in caplog.records] == [
        f"1 of 2 completions have more than 8 tokens, the longest {longest}: only their first 8 are scored, as many as "
        "the run's own have; let the trainer make no longer ones"
    ]


def test_openrlhf_s_request_is_answered_in_its_order(client: TestClient) -> None:
    reply = client.post(f"/score?token={TOKEN}", json=asked(" warm.", " cold and wet.", " warm."))
    assert reply.status_code == 200
    told = reply.json()
    assert told["rewards"][0] == pytest.approx(told["rewards"][2], abs=1e-6)
    assert told["rewards"][0] != pytest.approx(told["rewards"][1], abs=1e-4)
    assert told["scores"] == told["rewards"]
    assert len(told["extra_logs"]["reward_deviation"]) == 3


def test_the_token_may_come_in_a_header(client: TestClient) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/score", json=asked(" warm."), headers=bearer).status_code == 200


@pytest.mark.parametrize("given", ["", "?token=", "?token=" + 43 * "x", "?token=a;b", "?token=%C3%A9"])
def test_without_the_token_nothing_is_scored(client: TestClient, given: str) -> None:
    assert client.post("/score" + given, json=asked(" warm.")).status_code == 401


def test_a_foreign_name_and_a_foreign_page_are_refused(client: TestClient) -> None:
    address = f"/score?token={TOKEN}"
    assert client.post(address, json=asked(" a"), headers={"host": "evil.example"}).status_code == 400
    assert client.post(address, json=asked(" a"), headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post(address, content="query=1").status_code == 415


def test_who_may_only_label_may_not_score_and_who_may_watch_may(run: "RunDir", client: TestClient) -> None:
    store = client.app.state.store  # type: ignore[attr-defined]  # of FastAPI
    for role, status in (("label", 403), ("view", 200)):
        token = store.invite(f"trainer {role}", role, None)
        assert client.post(f"/score?token={token}", json=asked(" warm.")).status_code == status


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"query": ["a b"], "prompts": []}, "send a prompt with each"),
        ({"query": ["a b"], "prompts": ["c"]}, "does not hold its prompt"),
        ({"query": ["a b"]}, "prompts"),
        ({"query": "a b", "prompts": "a"}, "valid list"),
    ],
)
def test_what_cannot_be_scored_is_said(client: TestClient, wrong: dict[str, Any], says: str) -> None:
    reply = client.post(f"/score?token={TOKEN}", json=wrong)
    assert reply.status_code == 422
    assert says in reply.text


def test_padding_before_a_prompt_is_left_out() -> None:
    from backflip.lm.score import split
    from backflip.texts import Text

    assert split(["<pad><pad>Once upon"], ["Once"]) == [Text("Once", " upon")]


def test_a_newer_reward_is_used_from_the_next_request_on(tmp_path: Path) -> None:
    from backflip.lm.score import Scorer
    from backflip.reward import Inputs, RewardEnsemble
    from backflip.texts import Text

    made = settings(miniature(tmp_path / "mini"))
    run = with_reward(made, tmp_path / "run")
    scorer, texts = Scorer(run), [Text(PROMPT, " warm.")]
    first = scorer(texts)
    inputs = Inputs((2 * 16,), 0, discrete=False)  # embedding and last hidden state of the miniature's 16 numbers
    publish(run, RewardEnsemble(inputs, made.reward, seed=2), 2)
    second = scorer(texts)
    assert (first.version, second.version) == (1, 2)
    assert first.rewards[0] != second.rewards[0]


def test_a_run_without_a_reward_says_so_and_when_to_try_again(tmp_path: Path) -> None:
    from backflip.api import start
    from backflip.lm.score import Scorer, create_app
    from backflip.rundir import RunDir, RunError

    run = with_reward(settings(miniature(tmp_path / "mini")), tmp_path / "run")
    run.forget("reward")
    app = create_app(run, TOKEN)
    reply = TestClient(app, base_url=HERE).post(f"/score?token={TOKEN}", json=asked(" warm."))
    app.state.store.close()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert "has no r̂ yet" in reply.text
    with pytest.raises(RunError, match="not sampled from its original"):
        Scorer(start(settings(tmp_path / "mini"), tmp_path / "young"))
    robot = RunDir.create(tmp_path / "robot", {"task": "Pendulum-v1", "teacher": "oracle", "seed": 0})
    with pytest.raises(RunError, match="tunes no language model"):
        Scorer(robot)
