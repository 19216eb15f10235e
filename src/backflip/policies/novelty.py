"""What a policy seeks before anybody has told it what to do: states that it has not seen. (Lee et al. 2021, PEBBLE)"""

import torch
from jaxtyping import Float
from torch import Tensor

NEIGHBOUR = 5
"""Which nearest neighbour's distance counts (PEBBLE)."""


def state_entropy(
    states: Float[Tensor, "b o"], among: Float[Tensor, "n o"], neighbour: int = NEIGHBOUR
) -> Float[Tensor, "b 1"]:
    """log ‖s - sₖ‖ for the k-th nearest neighbour sₖ, which estimates the states' entropy, with mean 0 and deviation 1.

    Coordinates are measured in their deviations over `among`, so that none counts more for its unit. (PEBBLE, eq. 3.)
    """
    mean, deviation = among.mean(0), among.std(0).clamp_min(1e-3)
    distances = torch.cdist((states - mean) / deviation, (among - mean) / deviation)
    nearest = distances.kthvalue(min(neighbour, len(among)), dim=1, keepdim=True).values
    logs = torch.log(nearest + 1e-6)
    normal: Float[Tensor, "b 1"] = (logs - logs.mean()) / logs.std().clamp_min(1e-6)
    return normal
