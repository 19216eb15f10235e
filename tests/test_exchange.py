"""Answers out of a run and into another: what comes back is what went, and nothing twice."""

import json
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.exchange import ExchangeError
from backflip.preferences import Choice, Preference
from backflip.records import Record, events
from backflip.rundir import RunDir
from backflip.schema import REPEAT
from backflip.segments import Segments
from backflip.showings import Showing
from backflip.store import Store, new_uuid
from backflip.stored_segments import numbers

MakeSegments = Callable[..., Segments]
Imported = tuple[int, int, int, int]


def a_run(path: Path, **settings: Any) -> RunDir:
    """A run that has not begun, of an environment that is quick to make."""
    from backflip.api import start
    from backflip.settings import Settings

    given = {"task": "toys:Follow-v0", "teacher": "oracle", "mode": "in_turn", "segment_steps": 4, **settings}
    return start(Settings(**given), path)


def with_answers(run: RunDir, segments: Segments, names: tuple[str, str] = ("ana", "bea")) -> RunDir:
    """Some of everything that people do on the page, about pairs of which one is never answered."""
    first, second = names
    with closing(run.store()) as store:
        ids = store.add(segments)
        pairs = ids[: len(ids) // 2 * 2].reshape(-1, 2)
        store.ask(pairs[:1])
        p_left = np.linspace(0.1, 0.9, 3 * (len(pairs) - 1), dtype=np.float32).reshape(3, -1)
        asked = [query.id for query in store.ask(pairs[1:], p_left, policy_steps=500)]
        store.skip(new_uuid(), asked[0], second)
        for i, query in enumerate(asked):
            choice = list(Choice)[i % 4]
            store.answer(
                Preference(new_uuid(), query, choice, first, 0.1 + i / 3), {"loops": i / 7, "prefetched": i > 2}
            )
        store.answer(Preference(new_uuid(), asked[0], Choice.RIGHT, first))  # a change of mind
        store.answer(Preference(new_uuid(), asked[1], Choice.LEFT, second, 2.5))
        (undone, _), *_ = store.preferences()
        store.undo(new_uuid(), first, undone.uuid)
        told = store.instruct("Judge only what you see.")
        again = Showing(1, asked[-2], first, REPEAT, flipped=True, instruction=told.id)
        store.answer(Preference(new_uuid(), asked[-2], Choice.LEFT, first, 1.0), showing=again)
        store.set_gold(asked[0], Choice.RIGHT, "it fell")
        newest = next(given for given, query in store.preferences() if query.id == asked[-1])
        store.exclude(new_uuid(), "boss", newest.uuid)
    return run


def all_of(run: RunDir) -> tuple[list[Record], dict[str, bytes], list[Preference]]:
    """Every event with its pair by content, D as bytes, and the preferences: all that should come back."""
    from backflip.exchange.bundle import outgoing

    with closing(run.store()) as store:
        events = outgoing(run, store).events
        data = store.comparisons()
        assert data is not None
        sides = {
            f"{side} {name}": array for side in ("left", "right") for name, array in vars(getattr(data, side)).items()
        }
        arrays = {**sides, "mu": data.mu, "weight": data.weight}
        content = {name: array.tobytes() for name, array in arrays.items() if not name.endswith("ids")}
        given = [(p.uuid, p.choice, p.teacher, p.seconds, q.p_left, q.policy_steps) for p, q in store.preferences()]
    without_numbers = [{**event, "query": {**event["query"], "id": 0}} for event in events]
    return without_numbers, content, given  # type: ignore[return-value]  # only ever compared


def numbers_in(store: Store) -> list[int]:
    with store.reading() as c:
        return numbers(c)


def snapshot(run: RunDir) -> Any:
    with closing(run.store()) as store, store.reading() as c:
        return events(c), numbers(c), store.counts()


def export(run: RunDir, path: Path, without_names: bool = False) -> Path:
    """Into the format that the path's name says."""
    from backflip.exchange.bundle import outgoing
    from backflip.exchange.episodes import write_episodes
    from backflip.exchange.events import write_events
    from backflip.exchange.table import write_preferences

    with closing(run.store()) as store:
        found = outgoing(run, store, without_names)
        if path.suffix == ".jsonl":
            write_events(path, found)
        elif path.suffix == ".parquet":
            write_preferences(path, found)
        else:
            write_episodes(str(path), found)
    return path


def bring(run: RunDir, *paths: Path, ask: int = 0) -> Imported:
    """New segments, queries and events, and events that were known."""
    from backflip.exchange.incoming import import_all

    with closing(run.store()) as store:
        found = import_all(run, store, list(paths), ask)
    return len(found.segments), found.brought.queries, found.brought.events, found.brought.known


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_segments: MakeSegments) -> RunDir:
    """A run with answers; tests must not change it."""
    segments = make_segments(16, observation=(2,), lengths=[4, 3, 4, 1] * 4)
    held = np.minimum(
        np.arange(4), segments.lengths[:, None] - 1
    )  # what follows an episode's end repeats its last step
    rows = np.arange(16)[:, None]
    arrays = {name: getattr(segments, name)[rows, held] for name in ("observations", "actions", "true_rewards")}
    return with_answers(a_run(tmp_path_factory.mktemp("source") / "run"), Segments(**{**vars(segments), **arrays}))


@pytest.fixture(scope="module")
def files(source: RunDir, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run in every format; tests must not change them."""
    folder = tmp_path_factory.mktemp("files")
    exported = {kind: export(source, folder / name) for kind, name in FORMATS.items()}
    return {**exported, "run": source.path}


FORMATS = {"events": "labels.jsonl", "preferences": "labels.parquet", "minari": "labels"}


# ---- there and back


@pytest.mark.parametrize("kind", ["events", "minari", "run"])
def test_what_goes_out_comes_back_the_same(files: dict[str, Path], source: RunDir, tmp_path: Path, kind: str) -> None:
    empty = a_run(tmp_path / "run")
    assert bring(empty, files[kind]) == (14, 7, 13, 0)
    assert all_of(empty) == all_of(source)


def test_a_table_brings_back_the_preferences(files: dict[str, Path], source: RunDir, tmp_path: Path) -> None:
    empty = a_run(tmp_path / "run")
    assert bring(empty, files["preferences"]) == (14, 6, 6, 0)
    assert all_of(empty)[1:] == all_of(source)[1:]
    assert bring(empty, files["events"]) == (0, 1, 7, 6)  # what the table did not have finds its place
    assert all_of(empty)[1:] == all_of(source)[1:]


@pytest.mark.parametrize("kind", [*FORMATS, "run"])
def test_importing_twice_changes_nothing(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    empty = a_run(tmp_path / "run")
    bring(empty, files[kind])
    before = snapshot(empty)
    segments, queries, events, known = bring(empty, files[kind])
    assert (segments, queries, events) == (0, 0, 0)
    assert known > 0
    bring(empty, files[kind], files[kind])
    assert snapshot(empty) == before


def test_importing_into_where_it_came_from_changes_nothing(files: dict[str, Path], source: RunDir) -> None:
    before = snapshot(source)
    assert bring(source, files["events"], files["preferences"], files["minari"]) == (0, 0, 0, 32)
    assert snapshot(source) == before


@pytest.mark.parametrize("kind", ["events", "minari"])
@pytest.mark.parametrize(
    ("shapes", "task"),
    [
        ({"observation": (4,), "action": ()}, {"task": "CartPole-v1"}),
        ({"observation": (40, 40, 3), "images": True}, {"task": "toys:Pictures-v0"}),
        ({"observation": (18,), "action": (3,), "state": 12}, {"task": "hopper-backflip", "teacher": "scripted"}),
    ],
    ids=["choices", "pictures", "states"],
)
def test_other_shapes_come_back_the_same(
    tmp_path: Path, make_segments: MakeSegments, kind: str, shapes: dict[str, Any], task: dict[str, Any]
) -> None:
    segments = make_segments(6, **shapes)
    if shapes.get("action") == ():
        segments = Segments(**{**vars(segments), "actions": segments.actions % 2})
    run = with_answers(a_run(tmp_path / "from", **task), segments)
    empty = a_run(tmp_path / "to", **task)
    assert bring(empty, export(run, tmp_path / FORMATS[kind]))[0] == 4
    assert all_of(empty) == all_of(run)
    with closing(run.store()) as one, closing(empty.store()) as other:
        states = [store.segments(numbers_in(store)[-4:], states=True).states.tobytes() for store in (one, other)]
    assert states[0] == states[1]


@pytest.mark.slow
def test_a_run_goes_on_from_what_was_imported(files: dict[str, Path], tmp_path: Path) -> None:
    from backflip.api import go_on, load_reward
    from backflip.fit import FitConfig
    from backflip.policies.ppo import PPOConfig

    ppo = PPOConfig(environments=2, rollout_steps=32, minibatch=32, epochs=1)
    fit = FitConfig(first_steps=5, steps=5)
    run = a_run(tmp_path / "run", steps=100, labels=5, ppo=ppo, fit=fit)
    bring(run, files["events"])
    go_on(run)
    with closing(run.store()) as store:
        assert store.counts().labels == 6
        assert {given.teacher for given, _ in store.preferences()} == {"ana", "bea"}  # nothing was left to ask
    assert load_reward(run.path)(np.zeros((5, 2), np.float32), np.zeros((5, 2), np.float32)).shape == (5,)


# ---- several runs


def test_answers_of_several_people_on_copies_of_a_run_become_one(tmp_path: Path, make_segments: MakeSegments) -> None:
    base = a_run(tmp_path / "base")
    with closing(base.store()) as store:
        ids = store.add(make_segments(6, observation=(2,)))
        asked = [query.id for query in store.ask(ids.reshape(3, 2))]
    copies = [RunDir.open(Path(shutil.copytree(base.path, tmp_path / name))) for name in ("ana", "bea")]
    for copy, choice in zip(copies, (Choice.LEFT, Choice.RIGHT), strict=True):
        with closing(copy.store()) as store:
            for query in asked[:2]:
                store.answer(Preference(new_uuid(), query, choice, copy.path.name))
    assert bring(base, *(copy.path for copy in copies)) == (0, 0, 4, 0)
    with closing(base.store()) as store:
        given = [(p.query, p.teacher, p.choice.value) for p, _ in store.preferences()]
        assert sorted(given) == sorted((q, *who) for q in asked[:2] for who in (("ana", "left"), ("bea", "right")))
        assert (store.counts().open, store.counts().segments) == (1, 6)


def test_runs_without_anything_in_common_are_put_together(
    files: dict[str, Path], source: RunDir, tmp_path: Path, make_segments: MakeSegments
) -> None:
    second = with_answers(a_run(tmp_path / "second"), make_segments(8, observation=(2,), seed=1), ("cas", "dia"))
    both = a_run(tmp_path / "both")
    bring(both, files["events"], second.path)
    events, content, given = all_of(both)
    for run in (source, second):
        theirs = all_of(run)
        assert all(event in events for event in theirs[0])
        assert all(preference in given for preference in theirs[2])
    assert content["mu"] == all_of(source)[1]["mu"] + all_of(second)[1]["mu"]


def test_two_runs_that_an_oracle_taught_from_one_seed_are_put_together(
    tmp_path: Path, make_segments: MakeSegments
) -> None:
    from backflip.teachers.oracle import Oracle

    runs = [a_run(tmp_path / name) for name in ("one", "two", "one again")]
    for run, seed in zip(runs, (1, 2, 1), strict=True):
        with closing(run.store()) as store:
            store.ask(store.add(make_segments(20, observation=(2,), seed=seed)).reshape(-1, 2))
            Oracle().teach(store)
    one, two, again = runs
    assert bring(one, export(again, tmp_path / "again.jsonl")) == (0, 0, 0, 10), "the same run is the same answers"
    assert bring(one, export(two, tmp_path / "two.jsonl")) == (20, 10, 10, 0)
    with closing(one.store()) as store:
        assert store.counts().labels == 20


def test_of_several_things_all_come_or_none(files: dict[str, Path], tmp_path: Path) -> None:
    empty = a_run(tmp_path / "run")
    before = snapshot(empty)
    with pytest.raises(ExchangeError, match="nowhere does not exist"):
        bring(empty, files["events"], tmp_path / "nowhere")
    (tmp_path / "bad.jsonl").write_text(files["events"].read_text() + "{}\n")
    shutil.copy(files["events"].with_suffix(".segments.npz"), tmp_path / "bad.segments.npz")
    with pytest.raises(Exception, match="line 14: it has no query"):
        bring(empty, files["events"], tmp_path / "bad.jsonl")
    assert snapshot(empty) == before


def test_a_run_is_not_brought_into_itself_or_into_one_of_another_task(
    files: dict[str, Path], source: RunDir, tmp_path: Path
) -> None:
    with pytest.raises(ExchangeError, match="is the run itself"):
        bring(source, source.path)
    other = a_run(tmp_path / "other", task="Pendulum-v1")
    with pytest.raises(ExchangeError, match=r"is about 'toys:Follow-v0', and the run about 'Pendulum-v1'"):
        bring(other, files["events"])
    longer = a_run(tmp_path / "longer", segment_steps=5)
    for kind in files:
        with pytest.raises(ExchangeError, match="differ from those of the run"):
            bring(longer, files[kind])
    with pytest.raises(ExchangeError, match="has no answers yet"):
        bring(source, longer.path)


# ---- what others make of the files


def test_every_event_is_a_line_with_its_pair_and_the_prediction(files: dict[str, Path], source: RunDir) -> None:
    lines = [json.loads(line) for line in files["events"].read_text().splitlines()]
    assert [line["kind"] for line in lines] == [
        *("skip", "left", "equal", "right", "incomparable", "left", "equal", "right"),
        *("right", "left", "undo", "left", "exclude"),
    ]
    segments = np.load(files["events"].with_suffix(".segments.npz"))
    assert segments["observations"].shape == (14, 4, 2)
    assert segments["lengths"].tolist()[:4] == [4, 1, 4, 3]
    with closing(source.store()) as store:
        assert tuple(lines[0]["query"]["p_left"]) == store.queries([2])[0].p_left
    repeat = lines[11]
    assert (repeat["purpose"], repeat["flipped"], repeat["instruction"]) == ("repeat", True, "Judge only what you see.")
    assert (lines[0]["query"]["gold"], lines[0]["query"]["gold_why"]) == ("right", "it fell")
    assert lines[1]["details"] == {"loops": 0.0, "prefetched": False}
    assert len({line["query"]["left"] for line in lines}) == 7


def test_datasets_loads_the_table(files: dict[str, Path], source: RunDir, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("parquet", data_files=str(files["preferences"]), cache_dir=str(tmp_path))["train"]
    given = all_of(source)[2]
    assert len(rows) == len(given) == 6
    assert [row["choice"] for row in rows] == [preference[1].value for preference in given]  # type: ignore[index]
    assert [row["mu"] for row in rows] == [Choice(row["choice"]).mu for row in rows]
    assert [row["seconds"] for row in rows] == [preference[3] for preference in given]  # type: ignore[index]
    assert all(len(row["p_left"]) == 3 and len(row["left"]) == 64 and row["policy_steps"] == 500 for row in rows)


def test_minari_loads_the_episodes_and_the_events_point_into_them(files: dict[str, Path], source: RunDir) -> None:
    minari = pytest.importorskip("minari")
    with quiet_minari():
        dataset = minari.MinariDataset(files["minari"] / "data")
        episodes = list(dataset)
    assert (dataset.total_episodes, dataset.spec.dataset_id) == (14, "labels-v0")
    assert dataset.observation_space.shape == (2,)
    lines = [json.loads(line) for line in (files["minari"] / "preferences.jsonl").read_text().splitlines()]
    with closing(source.store()) as store:
        for record in lines:
            asked = store.queries([record["query"]["id"]])[0]
            for side, number in (("left", asked.left), ("right", asked.right)):
                place = record["query"][f"{side}_episode"]
                stored = store.segments([number])
                episode = episodes[place["episode_id"]]
                assert (place["t0"], place["t1"]) == (0, stored.lengths[0])
                assert np.array_equal(episode.observations[: place["t1"]], stored.observations[0, : place["t1"]])
                assert np.array_equal(episode.rewards, stored.true_rewards[0, : place["t1"]])
                assert len(episode.observations) == place["t1"] + 1
                assert episode.truncations[-1]


def test_a_minari_dataset_may_have_a_name(source: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "all"))
    export(source, Path("follow/labels-v3"))
    with quiet_minari():
        assert minari.load_dataset("follow/labels-v3").total_episodes == 14
    empty = a_run(tmp_path / "run")
    assert bring(empty, Path("follow/labels-v3")) == (14, 7, 13, 0)


@contextmanager
def quiet_minari() -> Iterator[None]:
    """Minari leaves closing its metadata to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


@pytest.mark.parametrize("kind", FORMATS)
def test_names_can_be_left_out(tmp_path: Path, make_segments: MakeSegments, kind: str) -> None:
    run = with_answers(a_run(tmp_path / "run"), make_segments(8, observation=(2,)), ("Zuzanna Q", "oracle"))
    path = export(run, tmp_path / FORMATS[kind], without_names=True)
    written = [file for file in tmp_path.rglob("labels*/**/*") if file.is_file()] + [
        file for file in tmp_path.glob("labels*") if file.is_file()
    ]
    assert written
    assert not any(b"Zuzanna" in file.read_bytes() for file in written)
    empty = a_run(tmp_path / "empty")
    bring(empty, path)
    with closing(empty.store()) as store:
        assert {given.teacher for given, _ in store.preferences()} == {"annotator-1", "oracle"}


# ---- somebody's own clips


def save_clip(path: Path, steps: int = 9, **changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(steps)
    arrays: dict[str, Any] = {
        "observations": rng.normal(size=(steps, 2)),
        "actions": rng.normal(size=(steps, 2)).astype("f4"),
        "true_rewards": rng.normal(size=steps),
    }
    arrays = {name: array for name, array in {**arrays, **changed}.items() if array is not None}
    np.savez(path, **arrays)
    return arrays


def test_clips_of_ones_own_become_segments(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    long, short = save_clip(folder / "a.npz", 9, fps=30.0), save_clip(folder / "b.npz", 3)
    run = a_run(tmp_path / "run")
    assert bring(run, folder) == (3, 0, 0, 0)
    with closing(run.store()) as store:
        stored = store.segments(numbers_in(store))
    assert stored.lengths.tolist() == [4, 4, 3]
    assert stored.observations.dtype == np.float32
    assert np.array_equal(stored.observations[1], long["observations"][4:8].astype("f4"))
    assert np.array_equal(stored.actions[2], short["actions"][[0, 1, 2, 2]])
    assert stored.true_returns()[2] == pytest.approx(short["true_rewards"].sum(), rel=1e-5)
    assert bring(run, folder) == (0, 0, 0, 0)


def test_pairs_of_ones_own_clips_can_be_asked_about_at_once(tmp_path: Path) -> None:
    save_clip(tmp_path / "a.npz", 40)
    run = a_run(tmp_path / "run")
    assert bring(run, tmp_path / "a.npz", ask=100) == (10, 45, 0, 0)  # all pairs that there are
    assert bring(run, tmp_path / "a.npz", ask=100) == (0, 0, 0, 0)
    with closing(run.store()) as store:
        asked = store.open_queries()
        assert len({frozenset((query.left, query.right)) for query in asked}) == 45


def test_ones_own_clips_with_states_can_be_drawn(tmp_path: Path) -> None:
    from backflip.exchange.film import film_segment

    av = pytest.importorskip("av")
    run = a_run(tmp_path / "run", task="hopper-backflip", teacher="people", mode="at_once")
    states = np.zeros((4, 12))
    states[:, 1] = 1.25
    given = {"observations": np.zeros((4, 18)), "actions": np.zeros((4, 3)), "true_rewards": None}
    save_clip(tmp_path / "a.npz", 4, **given, states=states, fps=50)
    assert bring(run, tmp_path / "a.npz") == (1, 0, 0, 0)
    with closing(run.store()) as store:
        assert np.isnan(store.segments([1]).true_rewards).all()
        film_segment(run, store, 1, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as film:
        assert [frame.height for frame in film.decode(video=0)] == [256, 256]
    save_clip(tmp_path / "b.npz", 4, **given)
    with pytest.raises(
        ExchangeError, match="has no states, and cannot be drawn without; hopper-backflip has 12 a step"
    ):
        bring(run, tmp_path / "b.npz")


# ---- films


def test_a_film_shows_what_was_drawn(tmp_path: Path) -> None:
    from backflip.envs.clips import Clip
    from backflip.exchange.film import write_film

    av = pytest.importorskip("av")
    frames = np.zeros((12, 31, 45, 3), np.uint8)
    for i in range(12):
        frames[i, :, : 3 * i + 4] = (200, 40, 90)
    write_film(tmp_path / "clip.mp4", Clip(frames, 31.25))
    with av.open(str(tmp_path / "clip.mp4")) as film:
        stream = film.streams.video[0]
        assert (float(stream.average_rate), stream.codec_context.name, stream.frames) == (31.25, "h264", 12)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(stream)])
    assert shown.shape == (12, 32, 46, 3)
    error = np.abs(shown[:, :31, :45].astype(int) - frames)
    assert error.mean() < 6
    content = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")  # a browser can begin before it has all
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


# ---- reward cards


@pytest.fixture(scope="module")
def taught(source: RunDir, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run with an r̂, and with an address of a database that is nobody's business."""
    from backflip.reward import Inputs, RewardEnsemble

    path = Path(shutil.copytree(source.path, tmp_path_factory.mktemp("taught") / "run"))
    run = RunDir.open(path)
    with run.publishing("reward", 3) as directory:
        RewardEnsemble(Inputs((2,), 2, discrete=False), seed=5).save(directory / "reward.safetensors")
    run.record(100, {"fit/accuracy": 0.75})
    return run


def test_a_card_says_what_is_known_and_loads(taught: RunDir, source: RunDir, tmp_path: Path) -> None:
    from backflip.api import load_reward
    from backflip.exchange.card import write_card

    with closing(source.store()) as store:
        secret = RunDir(
            taught.path, {**taught.config, "settings": {**taught.settings, "store": "postgresql://me:pw@h/d"}}
        )
        files = write_card(tmp_path / "card", secret, store, "cc-by-4.0")
    assert {path.name for path in files} == {path.name for path in (tmp_path / "card").iterdir()}
    page = (tmp_path / "card" / "README.md").read_text()
    assert "| left | 2 |\n| equal | 1 |\n| right | 2 |\n| incomparable | 1 |" in page
    assert "75.0 %" in page
    assert "Follow-v0" in page
    assert not any(b"pw@h" in path.read_bytes() for path in files)
    seen, done = np.ones((3, 7, 2), np.float32), np.zeros((3, 7, 2), np.float32)
    assert np.array_equal(load_reward(tmp_path / "card")(seen, done), load_reward(taught.path)(seen, done))
    config = json.loads((tmp_path / "card" / "config.json").read_text())
    assert (config["task"], config["reward_version"], config["settings"]["segment_steps"]) == ("toys:Follow-v0", 3, 4)


def test_a_hub_reads_the_front_matter_of_a_card(taught: RunDir, tmp_path: Path) -> None:
    from backflip.exchange.card import write_card

    hub = pytest.importorskip("huggingface_hub")
    with closing(taught.store()) as store:
        page, *_ = write_card(tmp_path / "card", taught, store, "mit")
    data = hub.ModelCard.load(page).data
    assert (data.license, data.library_name) == ("mit", "backflip")
    held_out, before = data.eval_results
    assert (held_out.metric_name, held_out.metric_value) == ("held-out accuracy", 0.75)
    assert before.metric_name == "agreement before the answer"


def test_agreement_is_that_of_decided_answers(taught: RunDir) -> None:
    from backflip.exchange.card import findings

    with closing(taught.store()) as store:
        found = findings(taught, store)
        predicted = [
            float((np.mean(q.p_left) > 0.5) == (p.choice is Choice.LEFT))
            for p, q in store.preferences()
            if p.choice in (Choice.LEFT, Choice.RIGHT)
        ]
    assert (found.predicted.part, found.predicted.of) == (sum(predicted), 4)
    assert (found.between.of, found.teachers) == (0, 2)  # of the one pair that both answered, one answer was taken back


def test_a_card_needs_a_reward_and_room(source: RunDir, taught: RunDir, tmp_path: Path) -> None:
    from backflip.exchange.card import write_card

    with closing(source.store()) as store:
        with pytest.raises(ExchangeError, match="has no r̂ yet"):
            write_card(tmp_path / "card", source, store, "mit")
        with pytest.raises(ExchangeError, match="names no licence"):
            write_card(tmp_path / "card", taught, store, "mit\n---\nevil: true")
        with pytest.raises(ExchangeError, match="is not empty"):
            write_card(source.path, taught, store, "mit")
    assert not (tmp_path / "card").exists()


# ---- the commands


def call(*arguments: object) -> None:
    from backflip.cli import main

    main([str(argument) for argument in arguments])


def test_the_commands_say_what_they_did(
    taught: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("export", taught.path, "--events", "a.jsonl", "--preferences", "a.parquet", "--minari", "m", "--card", "c")
    assert capsys.readouterr().out.split() == [
        *("a.jsonl", "a.segments.npz", "a.parquet", "m", "m/preferences.jsonl"),
        *("c/README.md", "c/reward.safetensors", "c/config.json"),
    ]
    a_run(tmp_path / "run")
    call("import", "run", "a.jsonl", "m")
    assert capsys.readouterr().out == "new: 14 segments, 7 queries, 13 events; 13 events were here already\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["export", "RUN"], "nothing to export; give --events"),
        (["export", "RUN", "--clip", "1"], "give both"),
        (["export", "RUN", "--clip", "1", "--video", "a.gif"], "a clip becomes an .mp4"),
        (["export", "RUN", "--clip", "1", "--video", "a.mp4"], "was recorded without states"),
        (["export", "RUN", "--events", "a.json"], "a.json should end in .jsonl"),
        (["export", "RUN", "--minari", "RUN"], "exists and is not empty"),
        (["export", "RUN", "--events", "nowhere/a.jsonl"], "cannot be written (No such file or directory)"),
        (["import", "RUN"], "nothing to import"),
        (["import", "RUN", "nowhere.jsonl"], "nowhere.jsonl is missing"),
        (["import", "RUN", "."], "is nothing that can be imported"),
        (["import", "RUN", "a.npz", "--ask", "-1"], "--ask is -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_be_mended_is_said_in_one_sentence(
    source: RunDir,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        call(*(source.path if word == "RUN" else word for word in arguments))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("backflip: ")
    assert said.count("\n") == 1
    assert why in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "option", "extra"),
    [
        ("pyarrow", ["--preferences", "a.parquet"], "data"),
        ("minari", ["--minari", "folder"], "data"),
        ("minari", ["--minari", "name-v0"], "data"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    source: RunDir,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    option: list[str],
    extra: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as ended:
        call("export", source.path, *option)
    assert ended.value.code == 2
    assert f"pip install 'backflip[{extra}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_events_need_no_optional_package(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optional = ("pyarrow", "minari", "h5py", "av", "datasets")
    for name in [*optional, *(name for name in sys.modules if name.split(".")[0] in optional)]:
        monkeypatch.setitem(sys.modules, name, None)
    run = a_run(tmp_path / "run")
    assert bring(run, files["events"])[0] == 14
    export(run, tmp_path / "again.jsonl")
    again = (tmp_path / "again.segments.npz").read_bytes()
    assert again == files["events"].with_suffix(".segments.npz").read_bytes()


def test_the_page_about_data_does_what_it_says(
    taught: RunDir,
    tmp_path: Path,
    make_segments: MakeSegments,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its lines run one after the other, as they stand there."""
    from backflip.reward import Inputs, RewardEnsemble

    for package in ("minari", "av", "datasets"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    task = {"task": "hopper-backflip", "teacher": "scripted"}
    flips = with_answers(a_run(Path("runs/flips"), **task), make_segments(8, observation=(18,), action=(3,), state=12))
    with flips.publishing("reward", 1) as directory:
        RewardEnsemble(Inputs((18,), 3, discrete=False)).save(directory / "reward.safetensors")
    a_run(Path("runs/more"), **task)
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 9
    names: dict[str, Any] = {}
    for language, block in blocks:
        if language == "bash":
            for line in block.splitlines():
                call(*shlex.split(line)[1:])
        else:
            with quiet_minari():
                exec(compile(block, "data.md", "exec"), names)
    said = capsys.readouterr().out
    assert "new: 6 segments, 3 queries" in said
    assert "(6, 4, 18)" in said
    env = names["env"]
    before, _ = env.reset(seed=0)
    action = env.action_space.sample()
    _, paid, *_ = env.step(action)
    assert paid == float(env.reward(before, action))
