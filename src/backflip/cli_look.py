"""Commands about what there is: tasks, language models, this machine."""

from typing import Annotated

import tyro

from backflip.terminal import out


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


def make_ready(model: str) -> None:
    """Train a small language model that is wanted and not there yet; say so, since it takes minutes."""
    from backflip.lm.small import SMALL, find

    if model in SMALL:
        find(model, _say)


def _say(sentence: str) -> None:
    out.print(sentence, highlight=False, soft_wrap=True)
