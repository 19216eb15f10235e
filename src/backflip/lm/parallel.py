"""One run tuned by several processes: each completes other prompts, and their gradients are averaged.

Started by `torchrun --standalone --nproc-per-node 2 -m backflip.lm.parallel RUN`, or by `accelerate launch` with
`--multi_gpu`, which does the same (its `--cpu` starts one process only, unless there is MPI). Process 0 alone writes
the run directory and the store, asks and fits; before each batch it tells the others what to do, and they read r̂ and
checkpoints from the run directory.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from enum import IntEnum
from multiprocessing import util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from backflip.errors import Mendable
from backflip.lm.reward import Read, Sampled
from backflip.lm.run import PARTS
from backflip.lm.sharding import is_asked, shard
from backflip.lm.tune import PolicySteps, Tune, Tuner
from backflip.loop import Parts, at_once, in_turn, one_thread
from backflip.rundir import RunDir, RunError
from backflip.settings import Settings, settings_of
from backflip.store import Store

LONGEST_WAIT = timedelta(days=30)
"""How long the others wait for process 0, which may wait for people."""
LARGEST_DIFFERENCE = 1e-4
"""By how much weights of two processes may differ, on machines that round differently."""


class Apart(RunError):
    """Processes that should have the same weights do not."""


class Do(IntEnum):
    """What process 0 tells the others to do."""

    STOP = 0
    BATCH = 1
    """Complete prompts and learn."""
    SHOW = 2
    """Complete prompts, before there is an r̂."""
    LOAD = 3
    """Go on from a checkpoint."""
    COMPARE = 4
    """See whether all have the same weights, and take those of process 0."""


class Order(NamedTuple):
    """What to do, and with which r̂ or checkpoint."""

    do: Do
    number: int = 0


class Group:
    """The processes that share a run."""

    def __init__(self) -> None:
        """Join them.

        Raises:
            RunError: nobody said how many there are, and which this one is.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise RunError(
                "this is started by a launcher: torchrun --standalone --nproc-per-node 2 -m backflip.lm.parallel RUN, "
                "or accelerate launch --multi_gpu --num_processes 2 -m ...; one process alone: backflip resume RUN"
            )
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._at_work = False
        self._dismissed = False

    def average(self, leaves: Sequence[Tensor]) -> None:
        """Average the gradients of some weights over all processes."""
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None and not hasattr(leaf, "full_tensor")]
        if not gradients:  # those that are spread are averaged as they come
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        begin = 0
        for gradient in gradients:
            gradient.copy_(flat[begin : begin + gradient.numel()].view_as(gradient))
            begin += gradient.numel()

    def means(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over all processes of measurements that all of them have."""
        names = sorted(values)
        found = torch.tensor([values[name] for name in names], dtype=torch.float64)
        dist.all_reduce(found)
        return dict(zip(names, (found / self.size).tolist(), strict=True))

    def gathered(self, mine: Tensor) -> Tensor | None:
        """The rows of all processes in the order of these, at process 0."""
        parts = [torch.empty_like(mine) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(mine.contiguous(), parts)
        return None if parts is None else torch.cat(parts)

    def tell(self, order: Order) -> None:
        """Tell the others what to do."""
        dist.broadcast(torch.tensor(order, dtype=torch.int64), 0)

    def hear(self) -> Order:
        """Wait for what process 0 says."""
        said = torch.zeros(2, dtype=torch.int64)
        dist.broadcast(said, 0)
        return Order(Do(int(said[0])), int(said[1]))

    @torch.no_grad()
    def compare(self, leaves: Sequence[Tensor]) -> None:
        """Take the weights of process 0, which differ by rounding at most.

        Raises:
            Apart: they differ by more.
        """
        for leaf in leaves:
            if hasattr(leaf, "full_tensor"):
                continue  # it is spread: there is only one
            theirs = leaf.detach().clone()
            dist.broadcast(theirs, 0)
            if float((theirs - leaf).abs().max()) > LARGEST_DIFFERENCE:
                raise Apart(f"process {self.rank} has other weights than process 0; resume the run from its checkpoint")
            leaf.copy_(theirs)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside, all processes do the same; one that dies there cannot tell the others to stop."""
        self._at_work = True
        yield
        self._at_work = False

    def dismiss(self) -> None:
        """Let the others end, unless this process died in the middle of what all do: then the launcher ends them."""
        if self.rank == 0 and not self._at_work and not self._dismissed:
            self._dismissed = True
            self.tell(Order(Do.STOP))
            self.leave()

    def leave(self) -> None:
        """End together: whoever ended before the others have read its last words would take these with it."""
        dist.barrier()


class Together:
    """The language model's part of a run at process 0, with the others behind it."""

    def __init__(self, run: RunDir, store: Store, settings: Settings) -> None:
        self.group = Group()
        self.tune = Tune(run, store, settings)
        dist.barrier()  # the others find the original's completions
        join(self.tune.tuner, self.group)
        util.Finalize(None, self.group.dismiss, exitpriority=100)  # however this process ends

    @property
    def done(self) -> bool:
        """Whether the budget of completions is used up."""
        return self.tune.done

    @property
    def policy(self) -> PolicySteps:
        """The policy with its count of completions."""
        return self.tune.policy

    def step(self, wait: bool = False) -> bool:
        """One batch of all processes; False if there was none."""
        tune = self.tune
        newer = tune.look_for_reward()
        if tune.paid_by is None and wait and tune.shown.enough(tune.policy.steps):
            tune.tell("waiting for the first answers")
            return False
        exploring = tune.paid_by is None
        with self.group.working():
            self.group.tell(Order(Do.SHOW if exploring else Do.BATCH, tune.reward.version))
            values = batch(tune, self.group)
        if exploring:
            tune.tell("exploring")
        else:
            version = {"act/reward_version": float(tune.reward.version)}
            tune.measure({**values, **version, **tune.since_the_answer(newer)})
        return True

    def tell(self, state: str) -> None:
        """Let everybody know how far the policy is."""
        self.tune.tell(state)

    def save(self, number: int) -> None:
        """A checkpoint, once all have the same weights."""
        with self.group.working():
            self.group.tell(Order(Do.COMPARE))
            self.group.compare(self.tune.tuner.learner.leaves)
            self.tune.save(number)

    def load(self, exactly: int | None = None) -> None:
        """Go on from the newest checkpoint, or from that of a number, all together."""
        newest = self.tune.run.newest("act", exactly)
        if newest is not None:
            with self.group.working():
                self.group.tell(Order(Do.LOAD, newest.number))
                self.tune.load(newest.number)


def join(tuner: Tuner, group: Group) -> None:
    """From now on a tuner's gradients are averaged over all processes, which begin with the same weights."""
    group.compare(tuner.learner.leaves)
    tuner.learner.average = group.average
    if is_asked():
        shard(tuner, init_device_mesh("cpu", (group.size,)))
    tuner.processes = group.size
    dist.barrier()


def batch(tune: Tune, group: Group) -> dict[str, float]:
    """This process's share of a batch; returns measurements, means over all processes."""
    count = tune.config.batch_prompts
    prompts = tune.draw(count * group.size)
    mine = prompts[count * group.rank : count * (group.rank + 1)]
    sampled = tune.tuner.sample(mine, tune.config.completions, (*tune.key(), group.rank))
    found = show(tune, group, sampled, prompts)
    if tune.paid_by is None:
        tune.policy.explored += group.size * len(sampled.batch)
        return {}
    rewards = tune.paid_by(sampled.read)
    steps = tune.paid_by.steps(sampled.read) if tune.config.reads == "tokens" else None
    values = learn(tune.tuner, group, sampled, rewards, steps)
    return {**values, **found, "act/predicted_return": values["act/reward"]}


def learn(
    tuner: Tuner, group: Group, sampled: Sampled, rewards: Float32[np.ndarray, " n"], steps: Any = None
) -> dict[str, float]:
    """Learn from this process's share of a batch; β moves by the KL of all of it."""
    kl = group.means({"kl": sampled.exact_kl})["kl"]
    return group.means(tuner.learn(replace(sampled, exact_kl=kl), rewards, steps))


def show(tune: Tune, group: Group, sampled: Sampled, prompts: list[str]) -> dict[str, float]:
    """Let the completions of all processes be asked about; at process 0 what they are truly worth, if that is known."""
    responses = group.gathered(sampled.batch.responses)
    observations = group.gathered(torch.from_numpy(sampled.read.observations))
    lengths = group.gathered(torch.from_numpy(sampled.read.lengths))
    if responses is None or observations is None or lengths is None:
        return {}
    texts = tune.tuner.texts(prompts, tune.config.completions, responses)
    gold = tune.gold(texts)
    tune.show(texts, Read(observations.numpy(), lengths.numpy()), gold)
    return {} if gold is None else {"act/true_return": float(gold.mean())}


def follow(run: RunDir, settings: Settings) -> None:
    """Do what process 0 says until it says to stop."""
    group = Group()
    dist.barrier()
    with closing(run.store()) as store:  # which stays as it is: a tuner is made with one
        tune = Tune(run, store, settings)
        join(tune.tuner, group)
        while (order := group.hear()).do is not Do.STOP:
            obey(order, tune, group)
    group.leave()


def obey(order: Order, tune: Tune, group: Group) -> None:
    """Do one thing that process 0 said."""
    if order.do is Do.LOAD:
        tune.load(order.number)
    elif order.do is Do.COMPARE:
        group.compare(tune.tuner.learner.leaves)
        tune.tuner.content()  # process 0 saves it
    else:
        if order.do is Do.BATCH:
            tune.look_for_reward(order.number)
        batch(tune, group)


def main(arguments: Sequence[str]) -> None:
    """One of the processes of a run.

    Raises:
        RunError: the run directory cannot be used, or no launcher started this.
    """
    if len(arguments) != 1:
        raise RunError("give the run directory, and nothing else: ... -m backflip.lm.parallel RUN")
    one_thread()
    run = RunDir.open(Path(arguments[0]))
    settings = settings_of(run)
    if settings.tune is None:
        raise RunError(f"{run.path} tunes no language model; go on with it by: backflip resume {run.path}")
    if os.environ.get("RANK", "0") != "0":
        follow(run, settings)
        return
    run.store(check=True).close()
    if settings.mode == "at_once":
        at_once(run, parts=Parts(act=Together, ask=PARTS.ask, fit=PARTS.fit))
        return
    leaders: list[Together] = []

    def act(run: RunDir, store: Store, settings: Settings) -> Together:
        leaders.append(Together(run, store, settings))
        return leaders[0]

    in_turn(run, parts=Parts(act=act, ask=PARTS.ask, fit=PARTS.fit))
    leaders[0].group.dismiss()


def end() -> None:
    """End this process at once: gloo's threads now and then abort one that ends as others do (torch 2.13)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Mendable as error:
        print(f"backflip: {error}", file=sys.stderr)  # noqa: T201 (a command line of its own)
        raise SystemExit(2) from None
    end()
