"""Commands about what there is: tasks, language models, this machine."""

from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from backflip.rundir import RunDir
from backflip.terminal import File, Run, Unusable, out, visible

if TYPE_CHECKING:
    from backflip.tuning import TuneConfig


def evaluate_run(run: Run, episodes: int = 10, video: Annotated[Path | None, File] = None, json: bool = False) -> None:
    """Let a run's newest policy act without exploration, and say what it achieves.

    Args:
        run: the run directory.
        episodes: whole episodes to play.
        video: also film the first ten seconds of an episode into this file (.webp, .gif or .png).
        json: print one JSON object instead of a table.
    """
    from backflip.evaluate import PICTURES, evaluate, film, summary
    from backflip.settings import settings_of

    directory = RunDir.open(run)
    settings = settings_of(directory)
    if episodes < 1:
        raise Unusable(f"--episodes is {episodes}; it must be at least 1")
    if video and video.suffix not in PICTURES:
        raise Unusable(f"{video} cannot be written; moving pictures are {', '.join(PICTURES)}")
    if video and not video.parent.is_dir():
        raise Unusable(f"the folder {video.parent} of --video {video} does not exist; make it, or choose another")
    if settings.is_text:
        if video:
            raise Unusable(f"{run} tunes a language model: there is nothing to film; leave --video out")
        _evaluate_text(directory, json)
        return
    if video:
        film(directory, video)
    found = evaluate(directory, episodes)
    if json:
        print(to_json(asdict(found)))
        return
    many = "one episode" if episodes == 1 else f"{episodes} episodes"
    table = Table(
        "",
        *("mean", "deviation", "lowest", "highest"),
        title=f"{found.task} after {found.policy_steps:,} steps, {many}",
    )
    for name, figures in summary(found).items():
        table.add_row(name, *(f"{figure:.{2 if name == found.behaviour_name else 1}f}" for figure in figures))
    out.print(table)
    if video:
        out.print(f"filmed: {video}", highlight=False, soft_wrap=True)


def _evaluate_text(run: RunDir, json: bool) -> None:
    from backflip.lm.evaluate import evaluate_text

    found = evaluate_text(run)
    if json:
        print(to_json(asdict(found)))
        return
    table = Table("", "original", "tuned", title=f"{found.task} after {found.policy_steps:,} completions")
    if found.gold is not None and found.gold_of_original is not None:
        table.add_row("stand-in for people", f"{found.gold_of_original:.2f}", f"{found.gold:.2f}")
    if found.reward is not None and found.reward_of_original is not None:
        table.add_row("r̂, in deviations", f"{found.reward_of_original:.2f}", f"{found.reward:.2f}")
    table.add_row("KL, nats a completion", "0", f"{found.kl:.2f}")
    out.print(table)
    for prompt, before, after in found.examples:
        out.print(visible(prompt), markup=False, highlight=False, soft_wrap=True, style="bold")
        out.print(f"  original: {visible(before)}", markup=False, highlight=False, soft_wrap=True)
        out.print(f"  tuned:    {visible(after)}", markup=False, highlight=False, soft_wrap=True)


def tasks() -> None:
    """List the tasks that have a question and settings of their own."""
    from backflip.envs import TASKS
    from backflip.lm.tasks import TEXT_TASKS

    for task in TASKS.values():
        teachers = "people, or a script in their place," if task.script else "only people"
        reward = "" if task.has_true_reward else f", no true reward: {teachers} can teach it"
        out.print(f"[bold]{task.name}[/] ({task.environment}{reward})", highlight=False, soft_wrap=True)
        out.print(f"  {task.question}", highlight=False, soft_wrap=True)
    for text in TEXT_TASKS.values():
        teachers = "an oracle, people or a judge" if text.gold else "people or a judge"
        out.print(f"[bold]{text.name}[/] (text, {teachers} can teach it)", highlight=False, soft_wrap=True)
        out.print(f"  {text.question}", highlight=False, soft_wrap=True)
    out.print("\nAny Gymnasium id works too: backflip train Pendulum-v1", highlight=False)
    out.print("One of your own is named with the module that registers it: my_module:Mine-v0", highlight=False)


def fetch(name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]) -> None:
    """Get a language model ready: smollm2 (135 million weights, 93 MB to fetch), or train tiny or reviews here.

    Args:
        name: smollm2, tiny or reviews.
    """
    from backflip.lm.small import fetch as get

    out.print(str(get(name, _say)), highlight=False, soft_wrap=True)


def doctor(database: Annotated[str | None, tyro.conf.arg(metavar="URL", help_behavior_hint="")] = None) -> None:
    """Say what this machine can do: versions, cores, GPU, renderers with their speed, database.

    Args:
        database: also look whether this PostgreSQL database can be used.
    """
    from backflip.doctor import examine

    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "–"}
    sound = True
    for what, how, fine in examine(database):
        sound &= fine is not False
        out.print(f"{marks[fine]} {what:<18}", end=" ")
        out.print(how, markup=False, highlight=False, soft_wrap=True)
    if not sound:
        raise SystemExit(1)


def make_ready(config: "TuneConfig") -> None:
    """See that the server that samples answers; train a small language model that is wanted and not there yet.

    That is said, since it takes minutes.
    """
    from backflip.lm.small import SMALL, find
    from backflip.lm.vllm import must_answer

    must_answer(config)
    if config.model in SMALL:
        find(config.model, _say)


def _say(sentence: str) -> None:
    out.print(sentence, highlight=False, soft_wrap=True)
