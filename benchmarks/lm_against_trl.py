"""Our RLOO against TRL's RLOO and GRPO: tokens a second of processor time, reward at equal KL, and peak memory.

    python benchmarks/lm_against_trl.py [--quick] [--trl-python PATH] [--batches 40] [--seed 0]

The same model of a million weights, which is trained first, the same prompts, 16 of them a batch with 4 completions of
24 tokens, the same reward (VADER's compound of the completion), price of a nat, learning rate and bounds of gradients.
Each side runs in a process of its own, one after the other; TRL in an environment with trl 1.16, datasets and
vaderSentiment, whose python is given with --trl-python; without it only ours is measured. Time is the processor's,
from before the first batch to after the last; tokens are those of completions. Copies of each policy at four moments
are then judged alike: completions of all prompts, their reward and their exact KL to the original. Between these each
side's reward is drawn as a line over KL; the difference is that at the end, at the smaller of both KL. That line
is the way of a policy that still learns, so another figure compares what both sides maximise: reward less the price of
KL, at the end. The last line is a JSON object.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS, EACH, TOKENS = 16, 4, 24
BETA, LEARNING_RATE = 0.05, 3e-4
MOMENTS = 4
JUDGED = 3
"""Completions of each of 256 prompts, on which a policy is judged."""
MODEL_STEPS = 300


def compound(completions: list[str]) -> list[float]:
    """VADER's compound score of each."""
    vader: Any = importlib.import_module("vaderSentiment.vaderSentiment")
    analyser = vader.SentimentIntensityAnalyzer()
    return [float(analyser.polarity_scores(completion)["compound"]) for completion in completions]


def prompts() -> list[str]:
    """The prompts of the task `sentiment`."""
    from backflip.lm.tasks import text_task

    return text_task("sentiment").prompts()


def moments(batches: int) -> list[int]:
    """After how many batches a copy is kept."""
    return [max(1, round(batches * (i + 1) / MOMENTS)) for i in range(MOMENTS)]


def ours(work: Path, batches: int, seed: int) -> dict[str, float]:
    """Tune with backflip."""
    import numpy as np

    from backflip.lm.models import load
    from backflip.lm.tune import Tuner
    from backflip.loop import one_thread
    from backflip.tuning import TuneConfig

    one_thread()
    config = TuneConfig(
        batch_prompts=PROMPTS, completions=EACH, response_tokens=TOKENS, controller="fixed", beta=BETA,
        learning_rate=LEARNING_RATE, lora_rank=0,
    )  # fmt: skip
    tuner = Tuner(load(str(work / "model")), config, seed)
    every: list[str] = json.loads((work / "prompts.json").read_text())
    rng = np.random.default_rng(seed)
    tokens, aside, begun = 0, 0.0, time.process_time()
    for batch in range(1, batches + 1):
        some = [every[i] for i in rng.choice(len(every), PROMPTS, replace=False)]
        sampled = tuner.sample(some, EACH, (seed, batch))
        tuner.learn(sampled, np.array(compound([text.completion for text in sampled.texts]), np.float32))
        tokens += int(sampled.batch.mask.sum())
        if batch in moments(batches):
            before = time.process_time()
            tuner.policy.save_pretrained(work / f"ours-{batch}")
            aside += time.process_time() - before
    return {"tokens": tokens, "cpu_seconds": time.process_time() - begun - aside}


def theirs(work: Path, batches: int, seed: int, side: str) -> dict[str, float]:
    """Tune with TRL."""
    trl: Any = importlib.import_module("trl")
    transformers: Any = importlib.import_module("transformers")
    datasets: Any = importlib.import_module("datasets")
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    every: list[str] = json.loads((work / "prompts.json").read_text())
    settings: dict[str, Any] = {
        "output_dir": str(work / f"trl-{side}"), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "report_to": "none", "disable_tqdm": True, "logging_steps": 10**6, "save_strategy": "no", "seed": seed,
        "per_device_train_batch_size": PROMPTS * EACH, "gradient_accumulation_steps": 1, "num_generations": EACH,
        "max_completion_length": TOKENS, "max_steps": batches, "beta": BETA, "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant", "max_grad_norm": 1.0, "temperature": 1.0, "dataloader_pin_memory": False,
    }  # fmt: skip
    if side == "grpo":
        settings |= {"loss_type": "dr_grpo", "scale_rewards": "none"}
    config, trainer = (trl.GRPOConfig, trl.GRPOTrainer) if side == "grpo" else (trl.RLOOConfig, trl.RLOOTrainer)
    tokens, aside = 0, 0.0

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        nonlocal tokens
        tokens += sum(map(len, completion_ids))
        return compound(completions)

    class Keep(transformers.TrainerCallback):  # type: ignore[misc]  # of a library without types
        """Keeps copies of the policy, outside the time that counts."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Keep one at the moments."""
            del args, control
            nonlocal aside
            if state.global_step in moments(batches):
                before = time.process_time()
                model.save_pretrained(work / f"{side}-{state.global_step}")
                aside += time.process_time() - before

    tokenizer = transformers.AutoTokenizer.from_pretrained(work / "model")
    running = trainer(
        model=str(work / "model"),
        args=config(**settings),
        reward_funcs=reward,
        train_dataset=datasets.Dataset.from_dict({"prompt": every}),
        processing_class=tokenizer,
        callbacks=[Keep()],
    )
    begun = time.process_time()
    running.train()
    return {"tokens": tokens, "cpu_seconds": time.process_time() - begun - aside}


def one_side(work: Path, batches: int, seed: int, side: str) -> None:
    """Run one side in this process, and write what it took."""
    found = ours(work, batches, seed) if side == "ours" else theirs(work, batches, seed, side)
    found["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["tokens_per_cpu_s"] = found["tokens"] / found["cpu_seconds"]
    (work / f"{side}.json").write_text(json.dumps(found))


def judged(work: Path, name: str, seed: int) -> tuple[float, float]:
    """KL to the original and reward of the policy in a folder, on completions of all prompts."""
    from backflip.lm.models import load
    from backflip.lm.tune import Tuner
    from backflip.tuning import TuneConfig

    transformers: Any = importlib.import_module("transformers")
    tuner = Tuner(load(str(work / "model")), TuneConfig(response_tokens=TOKENS, lora_rank=0, micro_batch=256), seed)
    policy = transformers.AutoModelForCausalLM.from_pretrained(work / name)
    tuner.policy.load_state_dict(policy.state_dict())
    tuner.completions = 1  # its KL is to be computed
    sampled = tuner.sample(prompts(), JUDGED, (seed, 99))
    rewards = compound([text.completion for text in sampled.texts])
    return sampled.exact_kl, sum(rewards) / len(rewards)


def difference(mine: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    """Our reward less theirs at the end, at the smaller of both KL; earlier neither is where it settles."""
    import numpy as np

    kl = min(mine[-1][0], other[-1][0])
    rewards = [
        points[-1][1] if points[-1][0] == kl else float(np.interp(kl, *np.array(sorted(points)).T))
        for points in (mine, other)
    ]
    return rewards[0] - rewards[1]


def main() -> None:
    """Make the model, run all sides, judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model that is hardly trained, and a few batches")
    parser.add_argument("--trl-python", help="python of an environment with trl 1.16, datasets and vaderSentiment")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=["ours", "rloo", "grpo"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    batches = 4 if options.quick else options.batches
    if options.side:
        one_side(options.work, batches, options.seed, options.side)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), batches, options)


def compare(work: Path, batches: int, options: Any) -> None:
    """All sides on one model."""
    from backflip.lm.corpus import reviews
    from backflip.lm.small import SMALL, save, train
    from backflip.loop import one_thread

    one_thread()
    shape = SMALL["tiny"]
    save(
        train(shape, reviews(shape.texts), steps=30 if options.quick else MODEL_STEPS, seed=options.seed),
        work / "model",
    )
    (work / "prompts.json").write_text(json.dumps(prompts()))
    figures: dict[str, float | None] = {"tokens_per_cpu_s_ratio": None, "reward_at_equal_kl_difference": None}
    lines: dict[str, list[tuple[float, float]]] = {}
    begin = judged(work, "model", options.seed)
    for side in ("ours", "rloo", "grpo") if options.trl_python else ("ours",):
        python = sys.executable if side == "ours" else options.trl_python
        command = [python, __file__, "--side", side, "--work", str(work), "--batches", str(batches)]
        command += ["--seed", str(options.seed), *(["--quick"] if options.quick else [])]
        subprocess.run(command, check=True)
        found = json.loads((work / f"{side}.json").read_text())
        for name in ("tokens_per_cpu_s", "peak_megabytes"):
            figures[f"{side}_{name}"] = round(found[name])
        lines[side] = [begin, *(judged(work, f"{side}-{batch}", options.seed) for batch in moments(batches))]
        points = " ".join(f"({kl:.2f} nats {reward:.3f})" for kl, reward in lines[side])
        print(
            f"{side:5} {found['tokens_per_cpu_s']:6.0f} tokens/CPU-s {found['peak_megabytes']:5.0f} MB  {points}",
            flush=True,
        )
    if options.trl_python:
        for side in ("rloo", "grpo"):
            speeds = [json.loads((work / f"{name}.json").read_text())["tokens_per_cpu_s"] for name in ("ours", side)]
            figures[f"tokens_per_cpu_s_ratio_{side}"] = round(speeds[0] / speeds[1], 2)
            figures[f"reward_at_equal_kl_difference_{side}"] = round(difference(lines["ours"], lines[side]), 4)
            mine, other = (reward - BETA * kl for kl, reward in (lines["ours"][-1], lines[side][-1]))
            figures[f"maximised_difference_{side}"] = round(mine - other, 4)
        figures["tokens_per_cpu_s_ratio"] = figures["tokens_per_cpu_s_ratio_rloo"]
        figures["reward_at_equal_kl_difference"] = figures["reward_at_equal_kl_difference_rloo"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
