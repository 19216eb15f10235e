"""A language model learns from an oracle's answers; the bounds are such that a broken learner misses them."""

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two minutes of processor time, on however busy a machine
def test_100_answers_of_an_oracle_make_reviews_kinder_within_the_budget_of_nats(tmp_path: Path) -> None:
    """The original's reviews have a gold of about 0.05; one run came to 0.61 in its second half, at 8 nats."""
    from backflip.api import go_on, start
    from backflip.experiments import settings_for
    from backflip.lm.corpus import reviews
    from backflip.lm.small import SMALL, save, train
    from backflip.tuning import TuneConfig

    save(train(SMALL["tiny"], reviews(4_000), steps=300), tmp_path / "model")
    tune = TuneConfig(model=str(tmp_path / "model"))
    settings = settings_for("sentiment", teacher="oracle", labels=100, steps=4_800, mode="in_turn", tune=tune)
    run = start(settings, tmp_path / "run")
    go_on(run)
    lines, _ = run.metrics()
    gold, kl = ([line["value"] for line in lines if line["name"] == f"act/{n}"] for n in ("true_return", "kl_exact"))
    half = len(gold) // 2
    assert np.mean(gold[:5]) < 0.25
    assert np.mean(gold[half:]) > np.mean(gold[:5]) + 0.25
    assert 3 < np.mean(kl[half:]) < 11
    labels = [line["value"] for line in lines if line["name"] == "ask/labels"]
    assert labels[-1] == 100
