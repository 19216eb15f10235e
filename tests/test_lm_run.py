"""A language model in the loop: reproducible, blind to gold, asking within prompts, and refused in sentences."""

import hashlib
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.rundir import RunDir
from backflip.texts import Text, unpack_text

LITTLE: dict[str, Any] = {
    "teacher": "oracle",
    "labels": 12,
    "steps": 160,
    "checkpoint_steps": 64,
    "mode": "in_turn",
}
TUNE: dict[str, Any] = {
    "batch_prompts": 4,
    "completions": 4,
    "response_tokens": 8,
    "original_samples": 32,
    "learning_rate": 3e-3,
}


def _settings(folder: Path, task: str = "sentiment", tune: Any = None, **changes: Any) -> Any:
    from dataclasses import replace

    from backflip.experiments import TEXT, settings_for
    from backflip.tuning import TuneConfig

    config = TuneConfig(**{"model": str(folder), **TUNE, **(tune or {})})
    fit = replace(TEXT.fit, first_steps=20, steps=5)
    ask = replace(TEXT.ask, initial_fraction=0.5, session=2)
    return settings_for(task, **{"fit": fit, "ask": ask, "tune": config, **LITTLE, **changes})


def _finished(path: Path, settings: Any) -> Any:
    from backflip.api import go_on, start

    run = start(settings, path)
    go_on(run)
    return run


def _everything(run: Any) -> dict[str, Any]:
    """What a run has come to: its events and segments, r̂, policy and measurements without times."""
    found: dict[str, Any] = {}
    with closing(run.store()) as store:
        compared = store.comparisons()
        for side in (compared.left, compared.right):
            found[f"observations {len(found)}"] = hashlib.sha256(side.observations.tobytes()).hexdigest()
            found[f"ids {len(found)}"] = side.ids.tolist()
        found["mu"] = compared.mu.tolist()
        found["counts"] = store.counts()
        recent = store.recent(10_000, states=True)
        found["texts"] = hashlib.sha256(recent.states.tobytes()).hexdigest()
        found["gold"] = recent.true_rewards.tobytes()
    for part, file in (("act", "policy.safetensors"), ("act", "tuning.json"), ("fit", "reward.safetensors")):
        newest = run.newest(part)
        assert newest is not None
        found[file] = hashlib.sha256((newest.path / file).read_bytes()).hexdigest()
    lines, _ = run.metrics()
    timed = ("seconds", "per_second")
    found["metrics"] = [
        (line["step"], line["name"], line["value"]) for line in lines if not line["name"].endswith(timed)
    ]
    return found


@pytest.mark.parametrize(
    "tune",
    [
        pytest.param({}, id="rloo"),
        pytest.param(
            {"algorithm": "ppo", "reads": "tokens", "aggregate": "pessimistic"}, id="ppo-tokens", marks=pytest.mark.slow
        ),
        pytest.param({"lora_rank": 2, "aggregate": "minimum"}, id="lora", marks=pytest.mark.slow),
    ],
)
def test_one_seed_gives_the_same_run_and_one_that_died_ends_as_if_it_had_not(
    miniature_folder: Path, tmp_path: Path, tune: Any
) -> None:
    from backflip.api import go_on, start

    settings = _settings(miniature_folder, tune=tune)
    first = _everything(_finished(tmp_path / "first", settings))
    assert first["counts"].labels == 12
    names = {name for _, name, _ in first["metrics"]}
    assert {"act/kl_exact", "act/beta", "act/true_return", "fit/train_loss", "ask/labels"} <= names

    died = start(settings, tmp_path / "died")
    steps = 0

    def die() -> None:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on(died, die)
    go_on(died)
    assert _everything(died) == first


def test_only_completions_of_a_prompt_are_compared_and_no_prompt_twice_in_a_group(
    miniature_folder: Path, tmp_path: Path
) -> None:
    from backflip.texts import unpack_text

    run = _finished(tmp_path / "run", _settings(miniature_folder, labels=10, steps=160))
    with closing(run.store()) as store:
        queries = store.queries(range(1, 100))
        asked: dict[int, list[tuple[int, str]]] = {}
        for query in queries:
            sides = store.segments([query.left, query.right], states=True)
            left, right = (unpack_text(states).prompt for states in sides.states)
            assert left == right
            assert len(set(sides.policy_steps.tolist())) == 1
            asked.setdefault(query.policy_steps, []).append((int(sides.policy_steps[0]), left))
    assert sum(map(len, asked.values())) == 10
    assert max(map(len, asked.values())) >= 2
    for together in asked.values():
        assert len(set(together)) == len(together)


def test_the_policy_never_learns_from_gold(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all labels are given, gold that turns into no number at all changes nothing but the record."""
    from dataclasses import replace

    from backflip.experiments import TEXT
    from backflip.lm.tasks import TEXT_TASKS

    honest = TEXT_TASKS["sentiment"]
    blind_from = 10**9
    seen = 0

    def gold(texts: Any) -> Any:
        nonlocal seen
        seen += len(texts)
        assert honest.gold is not None
        found = honest.gold(texts)
        return np.full_like(found, np.nan) if seen > blind_from else found

    monkeypatch.setitem(TEXT_TASKS, "sentiment", replace(honest, gold=gold))
    settings = _settings(miniature_folder, labels=6, ask=replace(TEXT.ask, initial_fraction=1.0))
    first = _everything(_finished(tmp_path / "first", settings))
    seen, blind_from = 0, 48
    second = _everything(_finished(tmp_path / "second", settings))
    assert first["gold"] != second["gold"]
    assert first["mu"] == second["mu"]
    assert [first[name] for name in ("policy.safetensors", "reward.safetensors", "texts")] == [
        second[name] for name in ("policy.safetensors", "reward.safetensors", "texts")
    ]


def test_what_cannot_be_is_refused_in_a_sentence_with_nothing_written(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip.api import start
    from backflip.lm.models import ModelError
    from backflip.lm.tasks import TaskError, _vader, text_task

    empty, broken = tmp_path / "empty.txt", tmp_path / "broken.txt"
    empty.write_text("\n \n")
    broken.write_bytes(b"\xff\xfe\xfa")
    place = tmp_path / "run"
    bare = tmp_path / "bare"
    shutil.copytree(miniature_folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    cases: list[tuple[type[Exception], str, Any]] = [
        (ModelError, "no config.json", _settings(tmp_path)),
        (ModelError, "does not exist", _settings(tmp_path / "none")),
        (ModelError, "no tokenizer that can be loaded", _settings(bare)),
        (TaskError, "has no prompt; write one a line", _settings(miniature_folder, tune={"prompts": str(empty)})),
        (TaskError, "cannot be read", _settings(miniature_folder, tune={"prompts": str(broken)})),
        (TaskError, "cannot be read", _settings(miniature_folder, tune={"prompts": str(tmp_path / "none")})),
        (TaskError, "give a file with one a line, --prompts FILE", _settings(miniature_folder, "own")),
        (TaskError, "no scripted teacher", _settings(miniature_folder, teacher="scripted")),
    ]
    cases += [
        (ModelError, r"reads 512 tokens at most, and .* may have 513; lower --prompt-tokens or --resp", long)
        for long in (
            _settings(miniature_folder, tune={"prompt_tokens": 505, "response_tokens": 8}),
            _settings(Path("tiny"), tune={"prompt_tokens": 489, "response_tokens": 24}),
        )
    ]
    own = tmp_path / "own.txt"
    own.write_text("\ufeffOnce\\nupon\n\nAnd\n", encoding="utf-8")  # as Windows' editors begin a file
    assert text_task("own", str(own)).prompts() == ["Once\nupon", "And"]
    given = _settings(miniature_folder, "own", tune={"prompts": str(own)})
    cases.append((TaskError, "nothing stands in for people's taste", given))
    for kind, message, settings in cases:
        with pytest.raises(kind, match=message) as caught:
            start(settings, place)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    _vader.cache_clear()
    with pytest.raises(TaskError, match=r"VADER.* is not installed: pip install 'backflip\[lm\]'"):
        start(_settings(miniature_folder), place)
    assert not place.exists()
    with pytest.raises(TaskError, match="no text task is called 'poems'; there are: sentiment, descriptive, own"):
        text_task("poems")


def test_a_model_that_is_known_once_it_is_loaded_is_refused_then(miniature_folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from backflip.api import start
    from backflip.lm.models import ModelError
    from backflip.lm.tune import Tune

    settings = _settings(miniature_folder)
    run = start(settings, tmp_path / "run")
    assert settings.tune is not None
    longer = replace(settings, tune=replace(settings.tune, prompt_tokens=505))
    with closing(run.store()) as store:
        with pytest.raises(ModelError, match="reads 512 tokens at most"):
            Tune(run, store, longer)
        Tune(run, store, settings)
        Tune(run, store, longer)  # a run that has begun goes on


def test_a_run_keeps_its_prompts(miniature_folder: Path, tmp_path: Path) -> None:
    from backflip.api import start
    from backflip.lm.tasks import task_of

    own = tmp_path / "own.txt"
    own.write_text("Once\\nupon\n\nAnd\n")
    run = start(_settings(miniature_folder, tune={"prompts": str(own)}), tmp_path / "run")
    own.write_text("something else\n")
    moved = run.path.rename(tmp_path / "moved")
    assert task_of(RunDir.open(moved)).prompts() == ["Once\nupon", "And"]
    own.unlink()
    assert task_of(RunDir.open(moved)).prompts() == ["Once\nupon", "And"]


def test_a_run_finds_its_model_from_every_folder(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip.api import start
    from backflip.settings import settings_of

    monkeypatch.chdir(miniature_folder.parent)
    (tmp_path / "tiny").mkdir()
    near = miniature_folder.name
    first = start(_settings(Path(near), tune={"encoder": near}), tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    second = start(_settings(Path("tiny")), tmp_path / "second")
    third = start(_settings(Path("owner/name")), tmp_path / "third")
    found = [settings_of(run).tune for run in (first, second, third)]
    assert [tune and tune.model for tune in found] == [str(miniature_folder), "tiny", "owner/name"]
    assert [tune and tune.encoder for tune in found] == [str(miniature_folder), None, None]


def test_a_repeated_run_has_the_prompts_that_the_first_one_began_with(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip import cli
    from backflip.api import start
    from backflip.lm.tasks import task_of

    own, other = tmp_path / "own.txt", tmp_path / "other.txt"
    own.write_text("Once\n")
    other.write_text("Twice\n")
    start(_settings(miniature_folder, tune={"prompts": str(own)}), tmp_path / "run")
    own.unlink()
    monkeypatch.setattr(cli, "_train", lambda settings, run, port, browser: start(settings, run))
    cli.main(["train", "--like", str(tmp_path / "run"), "--run", str(tmp_path / "again")])
    assert task_of(RunDir.open(tmp_path / "again")).prompts() == ["Once"]
    cli.main(["train", "--like", str(tmp_path / "run"), "--prompts", str(other), "--run", str(tmp_path / "third")])
    assert task_of(RunDir.open(tmp_path / "third")).prompts() == ["Twice"]


def test_equal_texts_are_never_compared(miniature_folder: Path, tmp_path: Path) -> None:
    from backflip.api import start
    from backflip.lm.reward import Read, as_segments
    from backflip.lm.run import AskText
    from backflip.settings import Settings

    run = start(_settings(miniature_folder), tmp_path / "run")
    settings = Settings.from_dict(run.settings)
    assert settings.tune is not None
    texts = [Text("one", " a"), Text("one", " a"), Text("one", " b"), Text("two", " a"), Text("two", " a")]
    read = Read(np.zeros((5, 1, 4), np.float32), np.ones(5, np.int64))
    with closing(run.store()) as store:
        for moment in (16, 32):
            store.add(as_segments(texts, read, None, settings.tune, moment))
        found = AskText(run, store, settings)._candidates(np.random.default_rng(0), 20)
        assert found is not None
        candidates, groups = found
        shown = [unpack_text(s) for s in store.segments(candidates.ids, states=True).states]
    assert groups is not None
    assert shown == [texts[0], texts[2], texts[3]] * 2
    assert [groups.tolist().count(group) for group in groups.tolist()] == [2, 2, 1] * 2


@pytest.mark.slow
def test_a_model_that_fails_while_it_tunes_at_once_is_said_in_a_sentence(
    miniature_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from backflip.cli import main

    torn = tmp_path / "torn"
    shutil.copytree(miniature_folder, torn)
    (torn / "model.safetensors").write_bytes(b"nothing")
    begun = time.monotonic()
    command = ["train", "sentiment", "--teacher", "oracle", "--mode", "at_once", "--model", str(torn)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--run", str(tmp_path / "run")])
    assert ended.value.code == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith(f"backflip: {torn} cannot be loaded as a causal language model")
    assert "\n" not in said
    assert time.monotonic() - begun < 90  # whoever waits for the model hears that it will not come


def test_people_teach_without_vader(miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for people is not needed where people are, and is then not in the record."""
    from backflip.api import start
    from backflip.lm.tasks import _vader
    from backflip.lm.tune import Tune
    from backflip.settings import Settings

    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    _vader.cache_clear()
    run = start(_settings(miniature_folder, teacher="people", mode="at_once"), tmp_path / "run")
    with closing(run.store()) as store:
        Tune(run, store, Settings.from_dict(run.settings)).step()
        recent = store.recent(100)
        assert recent is not None
        assert len(recent) == 16
        assert np.isnan(recent.true_rewards).all()
    _vader.cache_clear()


def test_a_reward_that_comes_while_completions_are_drawn_pays_them(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip.lm.tune import Tune
    from texts_runs import publish, with_reward

    settings = _settings(miniature_folder, mode="at_once")
    run = with_reward(settings, tmp_path / "run")
    with closing(run.store()) as store:
        tune = Tune(run, store, settings)
        draw, learn = tune.tuner.sample, tune.tuner.learn
        told: list[int] = []

        def sample(*given: Any) -> Any:
            assert tune.reward.version == 1
            assert tune.reward.ensemble is not None
            publish(run, tune.reward.ensemble, 2)
            return draw(*given)

        def watched(*given: Any) -> Any:
            told.append(run.told("act")["reward_version"])  # whoever waits for it hears before the policy has learned
            return learn(*given)

        monkeypatch.setattr(tune.tuner, "sample", sample)
        monkeypatch.setattr(tune.tuner, "learn", watched)
        assert tune.step()
    assert told == [2]
    assert [line["value"] for line in run.metrics()[0] if line["name"] == "act/reward_version"] == [2.0]


def test_an_answer_reaches_the_policy_once_whatever_is_saved_meanwhile(miniature_folder: Path, tmp_path: Path) -> None:
    from backflip.lm.tune import Tune
    from texts_runs import with_reward

    settings = _settings(miniature_folder, mode="at_once")
    run = with_reward(settings, tmp_path / "run")
    with closing(run.store()) as store:
        run.tell("fit", arrived=store.clock())
        Tune(run, store, settings).step()  # that one arrived while nobody tuned
        tune = Tune(run, store, settings)
        run.tell("fit", arrived=store.clock())
        for number in (2, 3):
            assert tune.step()
            tune.save(number)
    names = [line["name"] for line in run.metrics()[0]]
    assert names.count("act/reward_version") == 3
    assert names.count("act/answer_to_policy") == 1


def test_a_setting_that_cannot_be_is_refused() -> None:
    from backflip.tuning import TuneConfig

    for wrong, message in (
        ({"completions": 1}, "comparing takes at least 2"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"kl_target": float("nan")}, "kl_target is nan; it must be a number"),
        ({"micro_batch": 0}, "must be at least 1"),
        ({"lora_rank": -1}, "0 .all weights. or more"),
    ):
        with pytest.raises(ValueError, match=message):
            TuneConfig(**wrong)
