"""A language model's run: the same loop, with completions for segments. §2.2"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from backflip.asking import Ask
from backflip.files import write_whole
from backflip.fitting import Fit
from backflip.lm.tasks import PROMPTS_FILE, TaskError, text_task
from backflip.lm.tune import ORIGINAL, Tune
from backflip.loop import Parts
from backflip.reward import Inputs
from backflip.rundir import RunDir, new_path
from backflip.segments import Segments
from backflip.settings import JUDGE, PEOPLE, SCRIPTED, Settings
from backflip.teachers import Teacher
from backflip.teachers.endpoint import Endpoint
from backflip.teachers.judge import Judge
from backflip.teachers.oracle import FALLIBLE, Oracle
from backflip.teachers.people import People
from backflip.texts import save_text, unpack_text


class AskText(Ask):
    """Puts two completions of one prompt to the teacher, never two pairs of one prompt together. §2.2.2, §2.2.4"""

    def _candidates(self, rng: np.random.Generator, missing: int) -> tuple[Segments, Int64[np.ndarray, " n"]] | None:
        """Completions of the newest prompts, and which prompt each belongs to."""
        del rng  # the newest are a random choice of prompts already
        config = self.settings.tune
        assert config is not None
        prompts = 2 * missing * self.settings.ask.oversample
        found = self.store.recent(min(self.settings.ask.recent, prompts * config.completions), states=True)
        if found is None:
            return None
        texts = [unpack_text(states) for states in found.states]
        moments = found.policy_steps.tolist()
        # Nobody can say which of two equal texts is better.
        first = {(moment, text): i for i, (moment, text) in reversed([*enumerate(zip(moments, texts, strict=True))])}
        kept = np.array(sorted(first.values()), np.int64)
        _, groups = np.unique([f"{moments[i]} {texts[i].prompt}" for i in kept], return_inverse=True)
        return found[kept].without_states(), groups.astype(np.int64)

    def _make_teacher(self) -> Teacher:
        settings = self.settings
        if settings.asks_people:
            return People(lambda states, _: save_text(self.run.clips, unpack_text(states)), settings.people)
        if settings.teacher == JUDGE:
            return Judge(Endpoint.from_environment(), self.run.settings["question"])
        return Oracle(FALLIBLE[settings.teacher], settings.seed, settings.teacher)


class FitText(Fit):
    """Fits r̂ to comparisons of completions; who is paid by it normalises it on the original's. §2.2.3"""

    @classmethod
    def can_begin(cls, run: RunDir) -> bool:
        """Whether the original's completions are there: a large model takes minutes to load and to write them."""
        return (run.path / ORIGINAL).exists()

    def _inputs(self) -> Inputs:
        """What r̂ reads: the features of the original's completions say it."""
        from backflip.lm.reward import load_read

        return Inputs((load_read(self.run.path / ORIGINAL).observations.shape[2],), 0, discrete=False)


PARTS = Parts(act=Tune, ask=AskText, fit=FitText)


def start(settings: Settings, path: Path | None = None, command: str = "") -> RunDir:
    """Make the run directory for tuning a language model.

    Raises:
        TaskError: the task cannot be taught so.
        ModelError: the model cannot be used.
        RunError: the directory cannot be made.
    """
    from backflip.lm.small import from_everywhere, must_be_there
    from backflip.lm.vllm import must_answer

    config = settings.tune
    assert config is not None
    task = text_task(settings.task, config.prompts, config.question)
    prompts = task.prompts()
    if settings.teacher == SCRIPTED:
        raise TaskError("text has no scripted teacher; use --teacher people, or oracle")
    if settings.teacher in FALLIBLE:
        if task.gold is None:
            raise TaskError(f"nothing stands in for people's taste in the task {task.name}; use --teacher {PEOPLE}")
        task.gold([])
    must_be_there(config.model, config.tokens, config.chat)
    encoder = config.encoder and from_everywhere(config.encoder)
    settings = replace(settings, tune=replace(config, model=from_everywhere(config.model), encoder=encoder))
    must_answer(config)
    run = RunDir.create(path or new_path(settings.task), {**settings.to_dict(), "question": task.question}, command)
    if config.prompts:  # kept: the file may be moved or changed while the run goes on
        lines = [prompt.replace("\n", "\\n") for prompt in prompts]
        write_whole(run.path / PROMPTS_FILE, "".join(f"{line}\n" for line in lines).encode())
    return run
