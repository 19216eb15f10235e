"""Completions sampled by a vLLM server in an environment of its own, over its OpenAI-compatible HTTP interface.

vLLM pins other versions of what the page needs, and is never imported here.
"""

import json
import os
import shutil
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from time import sleep
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from backflip.errors import in_one_line
from backflip.lm.models import ModelError, quiet
from backflip.lm.passes import Batch
from backflip.lm.sampling import Sampler, padded, seed_of
from backflip.tuning import TuneConfig

KEY = "BACKFLIP_SAMPLER_KEY"
"""Environment variable with the server's --api-key, if it has one."""
REQUEST_SECONDS = 600.0
WAIT_SECONDS = 10.0
"""For the list of a server's models, before a run begins."""
AT_ONCE = 32
"""Requests under way together; the server makes batches of them."""
DROPPED = 3
"""Times that completions are asked for again where the connection breaks off: their seed makes them the same."""
DROPPED_SECONDS = 0.5
"""Pause before it, and once more as long before each further time."""
LONGEST_WHY = 300
"""Characters of the server's own words in a message."""


class SamplerError(ModelError):
    """The server that samples does not do what it is asked; the message says why and what to do."""


class VLLM:
    """Samples from a server that gets each new policy as a folder, which it has to see under the same path.

    A policy with adapters is sent as an adapter, any other with all its weights.
    """

    def __init__(self, url: str, end: int, tokens: int, temperature: float, folder: Path) -> None:
        self.url, self.folder = url.rstrip("/"), folder
        self.end, self.tokens, self.temperature = end, tokens, temperature
        self.name = ""
        """Under which name the server knows the policy; empty before the first request."""
        self._new: Any = None
        self._adapter = ""

    def renew(self, model: Any) -> None:
        """Sample from this model from now on; it is sent when next somebody samples."""
        self._new = model

    def sample(
        self, prompts: Sequence[Sequence[int]], each: int, key: Sequence[int]
    ) -> tuple[Batch, Float[Tensor, "n t"]]:
        """`each` completions of every prompt, side by side, and log π of their tokens as they were drawn.

        Raises:
            SamplerError: the server does not answer, or not as vLLM does.
        """
        self._send()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            found = list(
                threads.map(
                    lambda numbered: self._complete(list(numbered[1]), each, seed_of([*key, numbered[0]])),
                    enumerate(prompts),
                )
            )
        drawn = [completion for completions in found for completion in completions]
        responses = torch.full((len(drawn), self.tokens), self.end, dtype=torch.int64)
        log_p, mask = torch.zeros(len(drawn), self.tokens), torch.zeros(len(drawn), self.tokens)
        for row, (tokens, chances) in enumerate(drawn):
            responses[row, : len(tokens)] = torch.tensor(tokens)
            log_p[row, : len(tokens)] = torch.tensor(chances)
            mask[row, : len(tokens)] = 1
        whole, prompt_mask = (part.repeat_interleave(each, 0) for part in padded(prompts, self.end))
        return Batch(whole, prompt_mask, responses, mask, each), log_p

    def _complete(self, prompt: list[int], each: int, seed: int) -> list[tuple[list[int], list[float]]]:
        """Tokens and their log-probabilities of some completions of a prompt."""
        reply = self._post(
            "/v1/completions",
            again=DROPPED,
            content={
                "model": self.name,
                "prompt": prompt,
                "n": each,
                "max_tokens": self.tokens,
                "temperature": self.temperature,
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "logprobs": 1,
                "return_token_ids": True,
                "add_special_tokens": False,
                "seed": seed,
            },
        )
        try:
            choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
            found = [
                ([int(t) for t in choice["token_ids"]], [float(p) for p in choice["logprobs"]["token_logprobs"]])
                for choice in choices
            ]
        except (LookupError, TypeError, ValueError) as error:
            raise SamplerError(
                f"{self.url} does not answer as vLLM does ({error!r}); it has to know return_token_ids, as vLLM does "
                "from 0.10.2 on"
            ) from error
        self._check(choices, found, each)
        return found

    def _check(self, choices: list[Any], found: list[tuple[list[int], list[float]]], each: int) -> None:
        if len(found) != each:
            raise SamplerError(f"{self.url} gave {len(found)} completions of a prompt, and {each} were asked for")
        for choice, (tokens, chances) in zip(choices, found, strict=True):
            if not 0 < len(tokens) == len(chances) <= self.tokens:
                raise SamplerError(
                    f"{self.url} gave {len(tokens)} tokens with {len(chances)} probabilities, of at most {self.tokens}"
                )
            if self.end in tokens[:-1] or (len(tokens) < self.tokens and tokens[-1] != self.end):
                raise SamplerError(
                    f"{self.url} ended a completion at another token than the model's ({choice.get('finish_reason')}, "
                    f"{choice.get('stop_reason')}); start it with --generation-config vllm"
                )

    # ---- the newest policy, to the server

    def _send(self) -> None:
        if not self.name:
            self.name = self.base(REQUEST_SECONDS)
        if self._new is None:
            return
        model, self._new = self._new, None
        place = self.folder / uuid.uuid4().hex[:12]
        place.mkdir(parents=True)
        try:
            with quiet():
                model.save_pretrained(place)
            if hasattr(model, "peft_config"):
                self._send_adapter(place)
            else:
                self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(place)}})
                self._post("/reset_prefix_cache", None)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _send_adapter(self, place: Path) -> None:
        name, old = f"backflip-{place.name}", self._adapter
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(place)})
        self.name = self._adapter = name
        if old:
            self._post("/v1/unload_lora_adapter", {"lora_name": old})

    def base(self, seconds: float) -> str:
        """Under which name the server knows the model that it was started with.

        Raises:
            SamplerError: it does not answer within so many seconds, or has no model.
        """
        try:
            return str(self._asked("/v1/models", None, "GET", seconds)["data"][0]["id"])
        except (LookupError, TypeError) as error:
            raise SamplerError(f"{self.url} lists no model; start it with: vllm serve MODEL") from error

    def _post(self, path: str, content: Any, again: int = 0) -> Any:
        return self._asked(path, None if content is None else json.dumps(content).encode(), "POST", again=again)

    def _asked(
        self, path: str, body: bytes | None, method: str, seconds: float = REQUEST_SECONDS, again: int = 0
    ) -> Any:
        headers = {"Content-Type": "application/json", "User-Agent": "backflip"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310 (see TuneConfig)
        try:
            content = _undropped(lambda: _read(request, seconds), again)
        except urllib.error.HTTPError as error:
            with error:
                said = in_one_line(error.read(LONGEST_WHY).decode("utf-8", "replace"), LONGEST_WHY)
            raise SamplerError(f"{self.url}{path} refuses ({error.code}: {said}); {_hint(path)}") from None
        except (OSError, HTTPException) as error:
            why = getattr(error, "reason", error)
            raise SamplerError(f"{self.url} does not answer ({why}); start vLLM there, and resume the run") from None
        try:
            return json.loads(content)
        except ValueError:
            return {}  # vLLM says "Success: ..." in plain words to some requests


def _read(request: urllib.request.Request, seconds: float) -> bytes:
    with urllib.request.urlopen(request, timeout=seconds) as reply:  # noqa: S310
        content: bytes = reply.read()
    return content


def _undropped(ask: Callable[[], bytes], again: int) -> bytes:
    """What is answered, asked for again where the connection breaks off; one that is refused is no such."""
    for time in range(1, again + 1):
        try:
            return ask()
        except (OSError, IncompleteRead) as error:
            why = getattr(error, "reason", error)
            if not isinstance(why, ConnectionResetError | BrokenPipeError | ConnectionAbortedError | IncompleteRead):
                raise
            sleep(time * DROPPED_SECONDS)
    return ask()


def _hint(path: str) -> str:
    if "lora" in path:
        return "start vLLM with --enable-lora --max-lora-rank N and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    if path == "/v1/completions":
        return "see what vLLM says on its terminal"
    return "start vLLM with VLLM_SERVER_DEV_MODE=1, where weights can be exchanged, or tune adapters: lora_rank 16"


def must_answer(config: TuneConfig) -> None:
    """See that the server that is to sample, if one was named, is there and has a model.

    Raises:
        SamplerError: it does not answer, or has none.
    """
    if config.sampler is not None:
        VLLM(config.sampler, 0, 1, 1.0, Path()).base(WAIT_SECONDS)


def server_of(config: TuneConfig, end: int, folder: Path) -> Sampler | None:
    """The server that samples, if one was named.

    Args:
        folder: where new weights are written for it.
    """
    if config.sampler is None:
        return None
    return VLLM(config.sampler, end, config.response_tokens, config.temperature, folder.absolute())
