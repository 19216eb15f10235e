"""What is read of a prompt is what people see of it, and what is cut off is said."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backflip.texts import unpack_text
from texts_runs import settings

LONG = "This long sentence comes before what matters, and nobody reads it. " * 3 + "This film"


def test_people_see_of_a_long_prompt_what_the_model_reads(miniature: Any) -> None:
    from backflip.lm.tune import Tuner
    from backflip.tuning import TuneConfig

    tuner = Tuner(miniature, TuneConfig(prompt_tokens=5, response_tokens=4))
    sampled = tuner.sample([LONG, "It", ""], 2, (0,))
    assert sampled.texts[0].prompt == miniature.text(miniature.tokens(LONG)[-5:])
    assert LONG.endswith(sampled.texts[1].prompt)
    assert [text.prompt for text in sampled.texts[2:]] == ["It", "It", "", ""]


def test_an_end_inside_of_a_prompt_is_seen_where_it_is_read(miniature: Any) -> None:
    from backflip.lm.prompts import seen

    end = miniature.tokenizer.eos_token
    assert seen(miniature, f"so it was{end}This", 3) == miniature.tokenizer.decode(
        miniature.tokens(f"so it was{end}This")[-3:]
    )
    assert end in seen(miniature, f"so it was{end}I", 2)


def test_a_run_says_once_how_many_prompts_are_cut(
    miniature_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from backflip.api import start
    from backflip.lm.models import load
    from backflip.lm.tune import Tune

    own = tmp_path / "own.txt"
    own.write_text(f"{LONG}\nIt\nThis\n")
    run = start(settings(miniature_folder, prompts=str(own), prompt_tokens=5), tmp_path / "run")
    longest = len(load(str(miniature_folder)).tokens(LONG))
    with closing(run.store()) as store:
        made = settings(miniature_folder, prompts=str(own), prompt_tokens=5)
        Tune(run, store, made).step()
        Tune(run, store, made)
        recent = store.recent(100, states=True)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"1 of 3 prompts have more than 5 tokens, the longest {longest}: the last 5 are read, and people see no "
        "others; --prompt-tokens says how many"
    ]
    assert recent is not None
    assert LONG not in {unpack_text(states).prompt for states in recent.states}


def test_nothing_is_said_of_prompts_that_are_read_whole(miniature: Any) -> None:
    from backflip.lm.prompts import cut

    assert cut(miniature, ["It", "This"], 5) is None
