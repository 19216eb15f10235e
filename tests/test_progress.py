"""What the terminal shows of a run."""

from pathlib import Path

import pytest


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (950, "950"), (12_345, "12.3k"), (1_200_000, "1.20M")])
def test_counts_are_short(number: float, text: str) -> None:
    from backflip.progress import short

    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (45, "45 s"), (89, "89 s"), (720, "12 min"), (5400, "1.5 h"), (12_600, "3.5 h")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    from backflip.progress import duration

    assert duration(seconds) == text


def line(path: Path, teacher: str) -> str:
    from rich.console import Console

    from backflip.progress import Progress
    from backflip.rundir import RunDir

    run = RunDir.create(path, {"seed": 0, "teacher": teacher, "labels": 700, "steps": 2_000_000})
    progress = Progress(run, Console())
    assert progress.line().startswith("starting · 0")
    run.tell("act", state="training", steps=500_000, steps_per_second=10_000.0)
    run.record(
        500_000, {"ask/labels": 212.0, "fit/train_loss": 0.31, "fit/validation_loss": 0.4, "act/true_return": 99}
    )
    return progress.line()


def test_a_line_says_how_far_a_run_is(tmp_path: Path) -> None:
    assert line(tmp_path, "oracle") == (
        "training · 500.0k of 2.00M steps · 10.0k steps/s · 2 min left · 212 of 700 labels · loss 0.310 / 0.400"
        " · true return 99"
    )


def test_people_are_not_told_how_long_a_run_takes_that_they_end_themselves(tmp_path: Path) -> None:
    assert line(tmp_path, "people").startswith("training · 500.0k steps · 10.0k steps/s · 212 of 700 labels")
