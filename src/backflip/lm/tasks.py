"""Tasks for a language model: prompts, the question that people answer, and a stand-in for their taste.

Settings, and with them PyTorch, are imported when they are needed: a list of tasks should not have to wait for them.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from backflip.errors import Mendable
from backflip.lm.corpus import openings
from backflip.rundir import RunDir
from backflip.texts import Text

Gold = Callable[[Sequence[Text]], Float32[np.ndarray, " n"]]
PROMPTS_FILE = "prompts.txt"
"""A run's own copy of the file that its prompts came from."""
PROMPTS = 256
MISSING = "VADER, which stands in for people here, is not installed: pip install 'backflip[lm]'"


class TaskError(Mendable, ValueError):
    """A text task that cannot be; the message says what to do."""


@dataclass(frozen=True)
class TextTask:
    """What a language model is to complete, and what people are asked about it."""

    name: str
    question: str
    prompts: Callable[[], list[str]]
    gold: Gold | None
    """A stand-in for people's taste, which oracles read; None where only people know."""
    source: str


def sentiment(texts: Sequence[Text]) -> Float32[np.ndarray, " n"]:
    """How kind each completion sounds, from -1 to 1: VADER's compound score (Hutto & Gilbert 2014).

    Raises:
        TaskError: VADER is not installed.
    """
    analyser = _vader()
    return np.array([analyser.polarity_scores(text.completion)["compound"] for text in texts], np.float32)


def vividness(texts: Sequence[Text]) -> Float32[np.ndarray, " n"]:
    """Words about what can be seen, heard, felt or tasted, in ten words of each completion."""
    scores = []
    for text in texts:
        words = re.findall(r"[a-z]+", text.completion.lower())
        scores.append(10 * sum(word in SENSES for word in words) / max(8, len(words)))
    return np.array(scores, np.float32)


_SENSES = """
red blue green golden black white grey dark bright pale silver crimson shining glowing loud quiet silent roaring
whispering humming ringing soft rough smooth cold warm hot wet dry sharp heavy sweet bitter sour salty fresh smoky
burning frozen trembling thin thick wide narrow tall tiny old rusty dusty muddy foggy stormy
"""
SENSES = frozenset(_SENSES.split())

TEXT_TASKS = {
    task.name: task
    for task in (
        TextTask(
            "sentiment",
            "Which continuation speaks more kindly of the film? How well it is written does not matter.",
            lambda: openings(PROMPTS),
            sentiment,
            "Ziegler et al. 2019, §3.1.1, with prompts of our own",
        ),
        TextTask(
            "descriptive",
            "Which continuation describes more vividly what can be seen, heard or felt?",
            lambda: openings(PROMPTS),
            vividness,
            "Ziegler et al. 2019, §3.1.1, with prompts of our own",
        ),
        TextTask("own", "Which continuation is better?", list, None, "prompts and question are given"),
    )
}
"""Every text task by name."""


def text_task(name: str, prompts: str | None = None, question: str | None = None) -> TextTask:
    """A text task, with other prompts or another question if they are given; prompts are read when needed.

    Raises:
        TaskError: no such task, or it lacks its prompts.
    """
    if name not in TEXT_TASKS:
        raise TaskError(f"no text task is called {name!r}; there are: {', '.join(TEXT_TASKS)}")
    task = TEXT_TASKS[name]
    if name == "own" and not prompts:
        raise TaskError("the task `own` completes prompts of your own: give a file with one a line, --prompts FILE")
    return TextTask(
        task.name,
        question or task.question,
        functools.partial(read_prompts, prompts) if prompts else task.prompts,
        task.gold,
        task.source,
    )


def task_of(run: RunDir) -> TextTask:
    """The task of a run, with the prompts that it began with where they came from a file.

    Raises:
        TaskError: its prompts cannot be read.
    """
    from backflip.settings import settings_of

    settings = settings_of(run)
    assert settings.tune is not None
    return text_task(settings.task, prompts_of(run), settings.tune.question)


def prompts_of(run: RunDir) -> str | None:
    """The file of the prompts that a run began with, its own copy where it has one; None where they are the task's."""
    from backflip.settings import settings_of

    settings = settings_of(run)
    given = None if settings.tune is None else settings.tune.prompts
    kept = run.path / PROMPTS_FILE
    return str(kept.absolute()) if given and kept.exists() else given


def read_prompts(file: str) -> list[str]:
    """The prompts in a file, one a line; empty lines are left out, and `\\n` stands for a new line.

    Raises:
        TaskError: it cannot be read, or there is none in it.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"the prompts in {file} cannot be read ({error}); give a text file in UTF-8") from error
    found = [line.replace("\\n", "\n") for line in lines if line.strip()]
    if not found:
        raise TaskError(f"{file} has no prompt; write one a line")
    return found


@functools.cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise TaskError(MISSING) from error
    return SentimentIntensityAnalyzer()
