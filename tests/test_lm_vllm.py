"""Completions from a server that speaks as vLLM does; here one that a test starts, with a miniature behind it."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from texts_runs import finished, miniature, settings

pytest.importorskip("transformers")
PROMPTS = ["This film begins in a small town, and", "I watched this"]
Reply = dict[str, Any]


class Server:
    """What a vLLM server does with a model of transformers."""

    def __init__(self, model: Path) -> None:
        from backflip.lm.models import load

        self.causal = load(str(model))
        self.base = self.model = self.causal.model
        self.asked: list[tuple[str, Any]] = []
        self.ignores_weights = False
        self.twists: Callable[[Reply], Reply] = lambda reply: reply
        self.heat = 1.0
        self.drops = 0
        """So many requests for completions still get no answer, their connection is cut."""
        self.lock = threading.Lock()

    def answer(self, path: str, content: Any) -> Any:
        with self.lock:  # one at a time, as the model here needs it
            self.asked.append((path, content))
            if path == "/v1/models":
                return {"data": [{"id": "mini"}]}
            if path == "/v1/completions":
                return self.twists(self.complete(content))
            if not self.ignores_weights:
                self.exchange(path, content)
            return None

    def drops_one(self) -> bool:
        with self.lock:
            self.drops -= 1
            return self.drops >= 0

    def exchange(self, path: str, content: Any) -> None:
        import copy

        import peft
        import transformers

        if path == "/collective_rpc":
            place = content["kwargs"]["weights_path"]
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
            self.model = loaded
        elif path == "/v1/load_lora_adapter":
            self.model = peft.PeftModel.from_pretrained(copy.deepcopy(self.base), content["lora_path"])

    def complete(self, content: Any) -> Reply:
        from backflip.lm.sampling import Transformers

        assert (content["top_p"], content["top_k"], content["repetition_penalty"]) == (1.0, -1, 1.0)
        sampler = Transformers(self.model, self.causal.end, content["max_tokens"], content["temperature"] * self.heat)
        batch, log_p = sampler.sample([content["prompt"]], content["n"], [content["seed"] % 2**32])
        choices = []
        for i, (row, chances, mask) in enumerate(zip(batch.responses, log_p, batch.mask, strict=True)):
            many = int(mask.sum())
            choices.append(
                {
                    "index": i,
                    "token_ids": row[:many].tolist(),
                    "logprobs": {"token_logprobs": chances[:many].tolist()},
                    "finish_reason": "stop",
                    "stop_reason": None,
                }
            )
        return {"choices": choices[::-1]}


@contextmanager
def listening(server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path == "/v1/completions" and server.drops_one():
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            answer = server.answer(self.path, json.loads(body) if body else None)
            content = b"Success" if answer is None else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        request_queue_size = 128  # as many as may ask at once, or the system cuts connections

    http = Listening(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("vllm") / "mini")


@pytest.fixture
def server(model: Path) -> Server:
    return Server(model)


def tuner(model: Path, url: str, folder: Path, rank: int = 0, algorithm: Any = "rloo") -> Any:
    from backflip.lm.models import load
    from backflip.lm.tune import Tuner
    from backflip.lm.vllm import server_of
    from backflip.tuning import TuneConfig

    config = TuneConfig(
        str(model),
        algorithm=algorithm,
        completions=3,
        response_tokens=8,
        learning_rate=3e-2,
        lora_rank=rank,
        sampler=url,
    )
    causal = load(str(model))
    return Tuner(causal, config, 0, server_of(config, causal.end, folder))


def learned(tuner: Any, batches: int) -> None:
    for number in range(batches):
        sampled = tuner.sample(PROMPTS, 3, [1, number])
        tuner.learn(sampled, np.random.default_rng(number).normal(size=6).astype(np.float32))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("rank", [0, 4])
def test_the_server_samples_each_new_policy(model: Path, server: Server, tmp_path: Path, rank: int) -> None:
    with listening(server) as url:
        found = tuner(model, url, tmp_path, rank)
        learned(found, 4)  # else SamplingError
        assert found.sample(PROMPTS, 3, [2]).exact_kl > 1e-3
    sent = [path for path, _ in server.asked if path in ("/collective_rpc", "/v1/load_lora_adapter")]
    assert sent == 5 * ["/v1/load_lora_adapter" if rank else "/collective_rpc"]
    reset = "/v1/unload_lora_adapter" if rank else "/reset_prefix_cache"
    assert sum(path == reset for path, _ in server.asked) == (4 if rank else 5)
    assert list(tmp_path.iterdir()) == []  # no weights are left lying about


def test_a_draw_is_named_by_its_key_and_prompts_do_not_share_it(model: Path, server: Server, tmp_path: Path) -> None:
    with listening(server) as url:
        found = tuner(model, url, tmp_path)
        first, again, other = (found.sample([PROMPTS[0]] * 2, 3, key) for key in ([1], [1], [2]))
    assert [text.completion for text in first.texts] == [text.completion for text in again.texts]
    assert [text.completion for text in first.texts] != [text.completion for text in other.texts]
    completions = [text.completion for text in first.texts]
    assert completions[:3] != completions[3:]


def test_log_probabilities_are_the_policy_s_own(model: Path, server: Server, tmp_path: Path) -> None:
    from backflip.lm.passes import forward, log_probabilities

    with listening(server) as url:
        found = tuner(model, url, tmp_path)
        sampled = found.sample(PROMPTS, 3, [1])
    logits = forward(found.policy, sampled.batch).logits
    expected, _ = log_probabilities(logits, sampled.batch.responses, 1.0)
    torch.testing.assert_close(sampled.log_p, expected.detach() * sampled.batch.mask, atol=1e-4, rtol=1e-4)


def test_a_server_that_keeps_old_weights_is_found_out(model: Path, server: Server, tmp_path: Path) -> None:
    from backflip.lm.tune import SamplingError

    server.ignores_weights = True
    with listening(server) as url, pytest.raises(SamplingError, match="other probabilities"):
        learned(tuner(model, url, tmp_path), 4)


def test_a_server_that_samples_otherwise_is_found_out(model: Path, server: Server, tmp_path: Path) -> None:
    from backflip.lm.tune import SamplingError

    server.heat = 0.7
    with listening(server) as url, pytest.raises(SamplingError, match="other probabilities"):
        learned(tuner(model, url, tmp_path), 1)


def at_another_token(reply: Reply) -> Reply:
    choice = reply["choices"][0]
    choice["token_ids"], choice["logprobs"]["token_logprobs"] = [5], [-1.0]
    return reply


def without_ids(reply: Reply) -> Reply:
    for choice in reply["choices"]:
        del choice["token_ids"]
    return reply


@pytest.mark.parametrize(
    ("twists", "says"),
    [
        (at_another_token, "another token"),
        (without_ids, "return_token_ids"),
        (lambda reply: {"choices": reply["choices"][:1]}, "1 completions of a prompt"),
    ],
)
def test_a_server_that_answers_otherwise_is_refused(
    model: Path, server: Server, tmp_path: Path, twists: Callable[[Reply], Reply], says: str
) -> None:
    from backflip.lm.vllm import SamplerError

    server.twists = twists
    with listening(server) as url, pytest.raises(SamplerError, match=says):
        tuner(model, url, tmp_path).sample(PROMPTS, 3, [1])


def test_ppo_learns_from_a_server_and_finds_out_one_that_samples_otherwise(
    model: Path, server: Server, tmp_path: Path
) -> None:
    from backflip.lm.tune import SamplingError

    with listening(server) as url:
        found = tuner(model, url, tmp_path, algorithm="ppo")
        learned(found, 2)
        assert found.sample(PROMPTS, 3, [2]).exact_kl > 1e-3
        server.heat = 0.7
        with pytest.raises(SamplingError, match="other probabilities"):
            learned(found, 1)


def test_a_connection_that_breaks_off_changes_nothing(
    model: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip.lm import vllm

    monkeypatch.setattr(vllm, "DROPPED_SECONDS", 0.01)
    with listening(server) as url:
        found = tuner(model, url, tmp_path)
        undisturbed = found.sample(PROMPTS, 3, [1])
        server.drops = 2
        assert found.sample(PROMPTS, 3, [1]).texts == undisturbed.texts
        server.drops = 99
        with pytest.raises(vllm.SamplerError, match="does not answer"):
            found.sample(PROMPTS, 3, [1])
    assert server.drops == 99 - len(PROMPTS) * (vllm.DROPPED + 1)


@pytest.mark.slow
def test_the_command_line_names_the_server_and_writes_nothing_where_none_answers(
    model: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from backflip import cli

    options = ["--model", str(model), "--teacher", "oracle", "--labels", "8", "--steps", "64", "--mode", "in_turn"]
    nobody = ["train", "descriptive", *options, "--run", str(tmp_path / "none"), "--sampler", "http://127.0.0.1:9"]
    with pytest.raises(SystemExit) as ended:
        cli.main(nobody)
    assert ended.value.code == 2
    assert "http://127.0.0.1:9 does not answer" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "none").exists()
    with listening(server) as url:
        cli.main([*nobody[:-3], str(tmp_path / "run"), "--sampler", url])
    assert sum(path == "/v1/completions" for path, _ in server.asked) >= 64 // 4


def test_where_nobody_listens_is_said(model: Path, tmp_path: Path) -> None:
    from backflip.lm.vllm import SamplerError

    with pytest.raises(SamplerError, match="does not answer"):
        tuner(model, "http://127.0.0.1:9", tmp_path).sample(PROMPTS, 3, [1])


@pytest.mark.slow
def test_a_whole_run_samples_from_the_server(model: Path, server: Server, tmp_path: Path) -> None:
    with listening(server) as url:
        made = settings(model, sampler=url)
        run = finished(made, tmp_path / "run")
    names = {line["name"] for line in run.metrics()[0]}
    assert "act/sampling_error" in names
    prompts = sum(path == "/v1/completions" for path, _ in server.asked)
    assert prompts == 96 // 2 + 16 // 2  # a request a prompt: the run's, and the original's


def test_an_address_is_checked_before_anything_begins(model: Path) -> None:
    from backflip.tuning import TuneConfig

    config = TuneConfig(str(model))
    with pytest.raises(ValueError, match="address of a server"):
        replace(config, sampler="127.0.0.1:8000")
