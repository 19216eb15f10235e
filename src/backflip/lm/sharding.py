"""Weights, gradients and Adam's moments spread over the processes that share a run: FSDP2, over gloo on a CPU too."""

import os
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard

from backflip.lm.learn import RLOO
from backflip.lm.sampling import Transformers
from backflip.lm.tune import Tuner
from backflip.rundir import RunError

ASKED = "ACCELERATE_USE_FSDP"
"""Set to "true" by `accelerate launch --use_fsdp`."""


def is_asked() -> bool:
    """Whether whoever started this process wants weights spread."""
    return os.environ.get(ASKED, "").lower() in ("true", "1")


def shard(tuner: Tuner, mesh: Any) -> None:
    """From now on each process keeps its part of the policy; a layer is whole only while it computes.

    The frozen original stays whole. All processes have to pass through the policy equally often from here on.

    Raises:
        RunError: tuned by PPO, or sampled elsewhere.
    """
    if not isinstance(tuner.sampler, Transformers) or type(tuner.learner) is not RLOO:
        raise RunError("weights are spread over processes (FSDP) for RLOO that samples here only; leave FSDP out")
    for layer in _layers(tuner.policy):
        fully_shard(layer, mesh=mesh)
    fully_shard(tuner.policy, mesh=mesh)
    tuner.learner.take_weights()
    tuner.sampler.to_the_end = True


def _layers(model: Any) -> list[Any]:
    """A model's layers: its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
