"""Who tunes waits for answers only where something can be asked, and a run that can never ask says so."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from texts_runs import settings


def _people(folder: Path, **tune: Any) -> Any:
    return replace(settings(folder, **tune), teacher="people", mode="at_once")


@pytest.mark.parametrize("mode", ["at_once", "in_turn"])
def test_a_run_whose_completions_are_all_alike_ends_in_a_sentence(
    miniature_folder: Path, tmp_path: Path, mode: Any
) -> None:
    from backflip.api import start
    from backflip.lm.models import ModelError
    from backflip.lm.tune import Tune

    made = _people(miniature_folder, temperature=1e-6)
    if mode == "in_turn":
        made = replace(made, teacher="oracle", mode=mode)
    run = start(made, tmp_path / "run")
    with closing(run.store()) as store:
        tune = Tune(run, store, made)
        for _ in range(9):
            tune.step(wait=mode == "at_once")
        with pytest.raises(ModelError, match=r"10 batches .* brought no two different .*raise the temp") as said:
            tune.step(wait=mode == "at_once")
    assert "\n" not in str(said.value)


def test_who_tunes_waits_once_there_is_enough_to_ask_about(miniature_folder: Path, tmp_path: Path) -> None:
    from backflip.api import start
    from backflip.lm.tune import Tune

    made = _people(miniature_folder)
    run = start(made, tmp_path / "run")
    with closing(run.store()) as store:
        tune = Tune(run, store, made)
        assert [tune.step(wait=True) for _ in range(4)] == [True, True, False, False]


def test_who_tunes_goes_on_where_all_that_could_be_asked_was_answered(miniature_folder: Path, tmp_path: Path) -> None:
    """One prompt in a hundred may have two different completions: their pair is answered, and more have to be shown."""
    from backflip.api import start
    from backflip.lm.tune import Tune
    from backflip.preferences import Choice, Preference

    made = _people(miniature_folder)
    run = start(made, tmp_path / "run")
    with closing(run.store()) as store:
        tune = Tune(run, store, made)
        while tune.step(wait=True):
            pass
        recent = store.recent(2)
        assert recent is not None
        (query,) = store.ask(recent.ids.reshape(1, 2))
        assert not tune.step(wait=True)
        store.answer(Preference("one", query.id, Choice.LEFT, "ana"))
        assert tune.step(wait=True)
