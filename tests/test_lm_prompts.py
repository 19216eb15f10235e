"""What is read of a prompt is what people see of it, and what is cut off is said."""

import importlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backflip.texts import Text, unpack_text
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


@pytest.fixture
def spaced(miniature: Any) -> Any:
    """The miniature with a tokenizer of SentencePiece's kind: a word has its space before it, which is left out of the
    first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from backflip.lm.corpus import reviews
    from backflip.lm.models import Causal
    from backflip.lm.small import END

    transformers: Any = importlib.import_module("transformers")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.train_from_iterator(reviews(60), trainers.BpeTrainer(vocab_size=300, special_tokens=[END]))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)
    return Causal(miniature.model, tokenizer, "spaced")


def test_a_completion_keeps_the_space_that_it_begins_with(spaced: Any) -> None:
    before, after = spaced.tokens("This film"), spaced.tokens("was boring")
    assert spaced.text(after) == "was boring"
    assert spaced.text(after, before) == " was boring"
    assert spaced.text([*after, spaced.end, *after], before) == " was boring"
    assert spaced.text([], before) == ""


def test_prompt_and_completion_together_are_the_text_of_all_their_tokens(spaced: Any) -> None:
    from backflip.lm.tune import Tuner
    from backflip.tuning import TuneConfig

    tuner = Tuner(spaced, TuneConfig(prompt_tokens=6, response_tokens=6))
    for prompt in ("This film", "I watched this western twice this week and"):
        sampled = tuner.sample([prompt], 20, (0,))
        texts = {
            text.prompt + text.completion: row[: row.index(spaced.end)] if spaced.end in row else row
            for text, row in zip(sampled.texts, sampled.batch.responses.tolist(), strict=True)
        }
        read = spaced.tokens(prompt)[-6:]
        assert texts.keys() == {spaced.decoded([*read, *row]) for row in texts.values()}
        assert any(text.completion.startswith(" ") for text in sampled.texts)


def test_a_prompt_whose_text_another_token_would_change_leaves_the_completion_alone(miniature: Any) -> None:
    half = miniature.tokens("ü")[0]  # the first of its two bytes
    rest = miniature.tokens("ü")[1:]
    assert rest
    assert miniature.text(rest, [half]) == miniature.text(rest)


def test_a_text_is_read_as_the_tokens_that_it_was_drawn_as(spaced: Any) -> None:
    from backflip.lm.reward import Reader
    from backflip.tuning import TuneConfig

    batch = Reader(spaced, TuneConfig(response_tokens=8)).batch([Text("This film", " was boring")])
    expected = spaced.tokens("was boring")
    assert batch.responses[0, : len(expected)].tolist() == expected
    spaced.tokenizer.backend_tokenizer.pre_tokenizer = None  # as older ones: every text gets a space of its own
    from tokenizers import normalizers

    spaced.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    assert spaced.tokens(" was") != spaced.tokens("was")
    batch = Reader(spaced, TuneConfig(response_tokens=8)).batch([Text("This film", " was")])
    assert batch.responses[0, : len(spaced.tokens("was"))].tolist() == spaced.tokens("was")


def test_a_completion_whose_beginning_makes_one_token_with_the_prompts_end_is_read_alone(miniature: Any) -> None:
    begun = miniature.tokens("wa")
    assert miniature.tokens("was")[: len(begun)] != begun
    assert miniature.tokens_after("wa", "s long") == miniature.tokens("s long")


TURN = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}<me>"


def test_a_prompt_is_a_users_turn_where_that_is_wanted_and_people_see_it_bare(miniature: Any) -> None:
    from backflip.lm.prompts import read_of
    from backflip.lm.tune import Tuner
    from backflip.tuning import TuneConfig

    miniature.tokenizer.chat_template = TURN
    tuner = Tuner(miniature, TuneConfig(prompt_tokens=4, response_tokens=6, chat=True))
    sampled = tuner.sample(["This", LONG], 4, (0,))
    assert sampled.texts[0].prompt == "This"
    assert LONG.endswith(sampled.texts[4].prompt)
    assert len(miniature.tokens(sampled.texts[4].prompt)) == 4
    for text, row, mask in zip(
        sampled.texts, sampled.batch.prompts.tolist(), sampled.batch.prompt_mask.tolist(), strict=True
    ):
        read = [token for token, there in zip(row, mask, strict=True) if there]
        assert miniature.decoded(read) == f"<user> {text.prompt}\n<me>"
    again = tuner.reader.batch(sampled.texts)
    assert again.prompts.tolist() == sampled.batch.prompts.tolist()
    assert read_of(miniature, "", 4, chat=True) == miniature.tokens("<user> \n<me>")


def test_a_turn_takes_its_share_of_what_a_model_reads_and_needs_a_template(
    miniature: Any, miniature_folder: Path, tmp_path: Path
) -> None:
    import shutil

    from backflip.api import start
    from backflip.lm.models import ModelError
    from backflip.lm.tune import Tune

    with pytest.raises(ModelError, match="has no chat template; leave --chat out"):
        start(settings(miniature_folder, chat=True), tmp_path / "run")
    with pytest.raises(ModelError, match="has no chat template; leave --chat out"):
        start(settings(Path("tiny"), chat=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    shutil.copytree(miniature_folder, tmp_path / "chatty")
    miniature.tokenizer.chat_template = TURN
    miniature.tokenizer.save_pretrained(tmp_path / "chatty")
    made = settings(tmp_path / "chatty", chat=True, prompt_tokens=500)
    run = start(made, tmp_path / "run")
    with closing(run.store()) as store, pytest.raises(ModelError, match="reads 512 tokens at most"):
        Tune(run, store, made)


def test_a_repeated_run_goes_on_with_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip import cli
    from backflip.rundir import RunDir

    made: list[Any] = []
    monkeypatch.setattr(cli, "_train", lambda settings, run, port, browser: made.append(settings))
    cli.main(["train", "sentiment", "--chat"])
    cli.main(["train", "sentiment"])
    RunDir.create(tmp_path / "run", made[0].to_dict())
    cli.main(["train", "--like", str(tmp_path / "run")])
    assert [settings.tune.chat for settings in made] == [True, False, True]
