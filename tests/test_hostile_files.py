"""Files that somebody else made: whatever is wrong with them is said in a sentence, and nothing of the run changes."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backflip.exchange import ExchangeError
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.store import Store, StoreError, new_uuid

REFUSALS = (ExchangeError, StoreError)
LONGEST_SENTENCE = 500


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that nothing of what follows gets into."""
    from backflip.api import start
    from backflip.settings import Settings

    settings = Settings(task="toys:Follow-v0", teacher="oracle", mode="in_turn", segment_steps=4)
    return start(settings, tmp_path_factory.mktemp("hostile") / "run")


@pytest.fixture(scope="module")
def files(run: RunDir, tmp_path_factory: pytest.TempPathFactory, make_segments: Callable[..., Segments]) -> Path:
    """labels.jsonl, labels.segments.npz, labels.parquet, the Minari dataset `labels` and clips/a.npz, all sound."""
    from backflip.exchange.bundle import outgoing
    from backflip.exchange.episodes import write_episodes
    from backflip.exchange.events import write_events
    from backflip.exchange.table import write_preferences

    folder = tmp_path_factory.mktemp("files")
    other = RunDir(Path(shutil.copytree(run.path, folder / "other")), run.config)
    with closing(other.store()) as store:
        asked = store.ask(store.add(make_segments(6, observation=(2,))).reshape(3, 2))
        for query in asked:
            store.answer(Preference(new_uuid(), query.id, Choice.LEFT, "ana", 1.0))
        found = outgoing(other, store)
    write_events(folder / "labels.jsonl", found)
    write_preferences(folder / "labels.parquet", found)
    write_episodes(str(folder / "labels"), found)
    (folder / "clips").mkdir()
    np.savez(folder / "clips" / "a.npz", **clip())
    return folder


def clip(**changed: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {"observations": np.ones((5, 2)), "actions": np.ones((5, 2)), "true_rewards": np.ones(5)}
    return {name: array for name, array in {**arrays, **changed}.items() if array is not None}


@pytest.fixture
def copies(files: Path, tmp_path: Path) -> Path:
    """The same, for a test to spoil."""
    return Path(shutil.copytree(files, tmp_path / "files"))


@pytest.fixture(scope="module")
def inside(run: RunDir) -> Iterator[Store]:
    """What is in the run."""
    with closing(run.store()) as store:
        yield store


@pytest.fixture(scope="module")
def refused(run: RunDir, inside: Store) -> Callable[[Path], str]:
    """refused(path) sees that it is, that the run has nothing of it, and gives the sentence."""
    from backflip.exchange.incoming import import_all

    def refused(path: Path) -> str:
        with pytest.raises(REFUSALS) as error:
            import_all(run, inside, [path])
        counts = inside.counts()
        assert (counts.segments, counts.asked, counts.labels) == (0, 0, 0)
        said = str(error.value)
        assert len(said) < LONGEST_SENTENCE
        assert "\n" not in said
        return said

    return refused


Refused = Callable[[Path], str]


def test_a_sentence_and_status_2_is_all_that_the_command_says(
    run: RunDir, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from backflip.cli import main

    (copies / "labels.segments.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SystemExit) as ended:
        main(["import", str(run.path), str(copies / "labels.jsonl")])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("backflip: ")
    assert said.count("\n") == 1


# ---- lines of JSON


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "this is not a line of JSON"),
        (b"\xff\xfe{}", "this is not a line of JSON"),
        (b'{"seconds": NaN}', "NaN is no number"),
        (b'{"seconds": -Infinity}', "-Infinity is no number"),
        (b'{"seconds": ' + b"9" * 5000 + b"}", "this is not a line of JSON"),
        (b"[" * 50_000, "this is not a line of JSON"),
        (b"[]", "this is no event, but list"),
        (b"3", "this is no event, but int"),
        (b'"' + b"x" * 200_000 + b'"', "the most are 100,000 bytes a line"),
        (b"{}", "it has no query with an id"),
        (b'{"query": {"id": 1e400}}', "it has no query with an id"),
    ],
    ids=lambda value: value[:20].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_a_line_that_is_no_event_is_named(copies: Path, refused: Refused, line: bytes, why: str) -> None:
    file = copies / "labels.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")
    said = refused(file)
    assert f"{file}, line 4: " in said
    assert why in said


def test_text_that_no_database_keeps_is_refused(copies: Path, refused: Refused) -> None:
    file = copies / "labels.jsonl"
    for text in ('"ana\\u0000"', '"\\ud800"'):
        file.write_text(file.read_text().replace('"ana"', text))
        assert "characters that cannot be stored" in refused(file)


def test_a_folder_or_nothing_is_no_file(tmp_path: Path, copies: Path, refused: Refused) -> None:
    (copies / "labels.segments.npz").unlink()
    assert "labels.segments.npz is missing; it has the segments that labels.jsonl speaks of" in refused(
        copies / "labels.jsonl"
    )
    assert "is missing" in refused(tmp_path / "none.parquet")
    (tmp_path / "folder.jsonl").mkdir()
    assert "is nothing that can be imported" in refused(tmp_path / "folder.jsonl")


# ---- arrays


def segments_of(copies: Path) -> dict[str, Any]:
    with np.load(copies / "labels.segments.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name != "about.json"}


def rewrite(copies: Path, arrays: dict[str, Any], about: Any = None) -> Path:
    """labels.jsonl, after its companion has been written anew."""
    path = copies / "labels.segments.npz"
    with zipfile.ZipFile(path) as old:
        said = old.read("about.json")
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("about.json", said if about is None else json.dumps(about))
    return copies / "labels.jsonl"


SPOILT: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    ("missing", lambda a: {n: v for n, v in a.items() if n != "lengths"}, "has no array 'lengths'"),
    ("a nan", lambda a: {**a, "observations": a["observations"] * np.nan}, "the observations of a segment are not all"),
    ("infinite", lambda a: {**a, "actions": a["actions"] + np.inf}, "the actions of a segment are not all finite"),
    ("no reward", lambda a: {**a, "true_rewards": a["true_rewards"] * np.nan}, "the run's teacher reads them"),
    ("other type", lambda a: {**a, "true_rewards": a["true_rewards"].astype("f8")}, "holds float64, not float32"),
    (
        "fewer",
        lambda a: {**a, "actions": a["actions"][:-1]},
        "actions has the shape (5, 4, 2); it should begin with (6",
    ),
    ("shorter", lambda a: {**a, "actions": a["actions"][:, :3]}, "it should begin with (6, 4)"),
    ("an axis less", lambda a: {**a, "lengths": a["lengths"][0]}, "it lacks an axis, or has one too many"),
    ("an axis more", lambda a: {**a, "true_rewards": a["observations"]}, "it lacks an axis, or has one too many"),
    ("flat", lambda a: {**a, "states": np.zeros(6, "f4")}, "it lacks an axis, or has one too many"),
    ("wider", lambda a: {**a, "observations": np.ones((6, 4, 7), "f4")}, "differ from those of the run"),
    ("text", lambda a: {**a, "observations": np.full((6, 4, 2), "x")}, "numbers belong there"),
    ("dates", lambda a: {**a, "observations": np.zeros((6, 4, 2), "M8[s]")}, "numbers belong there"),
    ("complex", lambda a: {**a, "actions": a["actions"] * 1j}, "numbers belong there"),
    ("fields", lambda a: {**a, "actions": np.zeros((6, 4, 2), [("x", "f4")])}, "numbers belong there"),
    ("pickled", lambda a: {**a, "actions": np.array([{}] * 6, object)}, "nothing pickled"),
    ("fortran", lambda a: {**a, "actions": np.asfortranarray(a["actions"])}, "Fortran's order"),
    ("other bytes", lambda a: {**a, "actions": a["actions"].astype(">f4")}, "differ from those of the run"),
    ("no length", lambda a: {**a, "lengths": a["lengths"] * 0}, "has a length outside 1-4"),
    ("long", lambda a: {**a, "lengths": a["lengths"] + 1}, "has a length outside 1-4"),
    ("time back", lambda a: {**a, "policy_steps": a["policy_steps"] - 9999}, "a negative number of policy steps"),
    ("changed", lambda a: {**a, "actions": a["actions"] + 1}, "is not among the segments that came along"),
    ("none", lambda a: {n: v[:0] for n, v in a.items()}, "is not among the segments that came along"),
]


@pytest.mark.parametrize(("spoil", "why"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_arrays_that_cannot_be_are_refused(
    copies: Path, refused: Refused, spoil: Callable[[dict[str, Any]], dict[str, Any]], why: str
) -> None:
    assert why in refused(rewrite(copies, spoil(segments_of(copies))))


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ([], "does not say what it is about"),
        ({}, "does not say what it is about"),
        ({"format": "1", "task": "x"}, "does not say what it is about"),
        ({"format": 1, "task": 3}, "does not say what it is about"),
        ({"format": 9, "task": "toys:Follow-v0"}, "has format 9, and this backflip knows 1; upgrade"),
        ({"format": 1, "task": "x" * 10_000}, "and the run about 'toys:Follow-v0'"),
    ],
)
def test_what_a_file_is_about_has_to_be_said_and_known(copies: Path, refused: Refused, about: Any, why: str) -> None:
    assert why in refused(rewrite(copies, segments_of(copies), about))


def forged(shape: str, content: bytes = b"", descr: str = "<f4") -> bytes:
    """A file of NumPy's whose header says whatever it likes."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (forged(f"({2**40}, 4, 2)"), "bytes by its shape"),
        (forged(f"({2**62}, {2**62}, 2)"), "bytes by its shape"),
        (forged("(-6, -4, 2)", bytes(192)), "which no array can have"),
        (forged("(6, 4, 2)", bytes(191)), "should have 192 bytes by its shape (6, 4, 2), and has 191"),
        (forged("(6, 4, 2)", bytes(193)), "and has 193"),
        (forged("__import__('os').getcwd()", bytes(192)), "damaged, or no .npz"),
        (forged("(6, 4, 2)", bytes(192), "|O"), "nothing pickled"),
        (forged("((6, 4, 2)", bytes(192)), "damaged, or no .npz"),
        (forged("(" * 9000 + ")" * 9000), "damaged, or no .npz"),
        (b"\x93NUMPY\x09\x00", "damaged, or no .npz"),
        (b"", "damaged, or no .npz"),
        (b"\x80\x04cposix\nsystem\n", "damaged, or no .npz"),
    ],
    ids=[
        "huge",
        "too huge",
        "negative",
        "less",
        "more",
        "code",
        "object",
        "open",
        "deep",
        "version",
        "empty",
        "pickle",
    ],
)
def test_a_header_is_not_believed(copies: Path, refused: Refused, array: bytes, why: str) -> None:
    arrays = segments_of(copies)
    del arrays["actions"]
    file = rewrite(copies, arrays)
    with zipfile.ZipFile(copies / "labels.segments.npz", "a") as archive:
        archive.writestr("actions.npy", array)
    assert why in refused(file)


def test_a_bomb_does_not_go_off(copies: Path, refused: Refused) -> None:
    """Much of nothing in a small file is refused when the first segment of it has been seen."""
    arrays = segments_of(copies)
    del arrays["actions"]
    file = rewrite(copies, arrays)
    with (
        zipfile.ZipFile(copies / "labels.segments.npz", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("actions.npy", "w", force_zip64=True) as member,
    ):
        member.write(forged(f"(6, 4, {2**21})"))
        for _ in range(3):
            member.write(bytes(2**26))
    assert "differ from those of the run" in refused(file)


def test_a_name_in_a_zip_leads_nowhere(copies: Path, run: RunDir, tmp_path: Path) -> None:
    from backflip.exchange.npz import opened

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("../../escaped.npy", "/tmp/escaped.npy", "C:\\escaped.npy"):
            archive.writestr(name, forged("()"))
    with opened(tmp_path / "a.npz") as npz, pytest.raises(ExchangeError, match="has no array 'actions'"):
        npz.whole("actions")
    assert [path.name for path in tmp_path.iterdir() if path.name != "files"] == ["a.npz"]


@pytest.mark.parametrize("name", ["labels.segments.npz", "labels.jsonl", "labels.parquet"])
def test_a_file_with_any_byte_wrong_is_refused_or_harmless(copies: Path, run: RunDir, inside: Store, name: str) -> None:
    from backflip.exchange.incoming import import_all

    rng = np.random.default_rng(0)
    sound = (copies / name).read_bytes()
    path = copies / ("labels.parquet" if name.endswith("parquet") else "labels.jsonl")
    refusals = 0
    for attempt in range(30):
        spoilt = bytearray(sound)
        for place in rng.integers(len(sound), size=1 + attempt % 3):
            spoilt[place] = rng.integers(256)
        (copies / name).write_bytes(spoilt[: rng.integers(len(sound))] if attempt % 5 == 0 else spoilt)
        try:
            with inside.transaction():
                import_all(run, inside, [path])
                raise KeyboardInterrupt
        except REFUSALS:
            refusals += 1
        except KeyboardInterrupt:
            pass  # it was harmless; the next one shall find the run empty again
    assert refusals > 10


# ---- tables


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.drop_columns(["uuid"]), "has no column 'uuid'"),
        (lambda t: t.set_column(t.column_names.index("seconds"), "seconds", [["a", "b", "c"]]), "its seconds is 'a'"),
        (lambda t: t.set_column(t.column_names.index("choice"), "choice", [["left", "left", None]]), "row 3: its kind"),
        (lambda t: t.set_column(t.column_names.index("query"), "query", [[1, 2, None]]), "it has no query with an id"),
        (
            lambda t: t.set_column(t.column_names.index("left"), "left", [["x", "y", "z"]]),
            "row 1: its left segment 'x'",
        ),
        (lambda t: t.set_column(t.column_names.index("p_left"), "p_left", [[[2.0], [], []]]), "its p_left is [2.0]"),
    ],
    ids=["column", "type", "null", "number", "segment", "probability"],
)
def test_a_table_that_cannot_be_is_refused(
    copies: Path, refused: Refused, change: Callable[[Any], Any], why: str
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(copies / "labels.parquet")
    parquet.write_table(change(table), copies / "labels.parquet")
    assert why in refused(copies / "labels.parquet")


def test_what_is_no_table_is_refused(copies: Path, refused: Refused) -> None:
    for content in (b"", b"PAR1", b"PAR1" * 100, b"query,left\n1,2\n"):
        (copies / "labels.parquet").write_bytes(content)
        assert "damaged, or no Parquet table" in refused(copies / "labels.parquet")


# ---- Minari datasets


def spoil_minari(copies: Path, change: Callable[[Any], None]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(copies / "labels" / "data" / "main_data.hdf5", "a") as file:
        change(file)
    return copies / "labels"


def replaced(name: str, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        old = file[name][()]
        del file[name]
        made = make(old)
        if made is not None:
            file[name] = made

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (replaced("episode_2/actions", lambda a: None), "has no episode_2/actions of its own"),
        (replaced("episode_2/actions", lambda a: a[:2]), "actions of episode_2 are (2, 2)"),
        (replaced("episode_2/actions", lambda a: a.astype("f8")), "actions of episode_2 are (4, 2) float64"),
        (replaced("episode_2/rewards", lambda a: a[0]), "with 1 to 4 steps"),
        (replaced("episode_2/rewards", lambda a: np.ones(9, "f4")), "with 1 to 4 steps"),
        (replaced("episode_2/rewards", lambda a: a * np.nan), "the true_rewards of a segment are not all finite"),
        (replaced("episode_2/infos/policy_steps", lambda a: a.astype("f4")), "policy_steps of episode_2 are"),
        (replaced("episode_2/infos/policy_steps", lambda a: a - 9999), "a negative number of policy steps"),
        (replaced("episode_2/observations", lambda a: a + 1), "is not among the segments that came along"),
    ],
)
def test_episodes_that_cannot_be_are_refused(
    copies: Path, refused: Refused, change: Callable[[Any], None], why: str
) -> None:
    assert why in refused(spoil_minari(copies, change))


def test_a_dataset_that_points_at_other_files_is_refused(copies: Path, refused: Refused, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(32)))
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["x"] = np.ones((4, 2), "f4")

    def elsewhere(file: Any) -> None:
        del file["episode_1/actions"]
        file["episode_1/actions"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "x")

    def outside(file: Any) -> None:
        del file["episode_1/actions"]
        file.create_dataset("episode_1/actions", (4, 2), "f4", external=[(str(secret), 0, 32)])

    def made_up(file: Any) -> None:
        layout = h5py.VirtualLayout((4, 2), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "x", (4, 2))
        del file["episode_1/actions"]
        file.create_virtual_dataset("episode_1/actions", layout)

    assert "has no episode_1/actions of its own" in refused(spoil_minari(copies, elsewhere))
    assert "is not data of this file" in refused(spoil_minari(copies, outside))
    assert "is not data of this file" in refused(spoil_minari(copies, made_up))


def test_a_dataset_that_names_a_program_as_its_environment_starts_none(
    copies: Path, run: RunDir, refused: Refused, tmp_path: Path
) -> None:
    metadata = copies / "labels" / "data" / "metadata.json"
    found = json.loads(metadata.read_text())
    started = tmp_path / "started"
    spec = {
        "id": "x-v0",
        "entry_point": "pathlib:Path.touch",
        "kwargs": {"self": str(started)},
        "additional_wrappers": [],
    }
    for name in ("observation_space", "action_space"):
        del found[name]
    metadata.write_text(
        json.dumps({**found, "env_spec": json.dumps(spec), "backflip": {**found["backflip"], "format": 9}})
    )
    assert "has format 9" in refused(copies / "labels")
    assert not started.exists()


def test_metadata_that_cannot_be_are_refused(copies: Path, refused: Refused) -> None:
    metadata = copies / "labels" / "data" / "metadata.json"
    found = json.loads(metadata.read_text())
    ours = found["backflip"]
    for content, why in (
        (b"{", "is missing or damaged"),
        (b"\xff", "is missing or damaged"),
        (b"[]", "does not say what it is about"),
        (json.dumps({**found, "backflip": None}).encode(), "does not say what it is about"),
        (json.dumps({**found, "backflip": {**ours, "task": "walker"}}).encode(), "is about 'walker'"),
        (json.dumps({**found, "backflip": {**ours, "layout": "none"}}).encode(), "differ from those of the run"),
    ):
        metadata.write_bytes(content)
        assert why in refused(copies / "labels")
    metadata.write_text(json.dumps(found))
    (copies / "labels" / "data" / "main_data.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "is missing, damaged or not ours" in refused(copies / "labels")
    (copies / "labels" / "preferences.jsonl").unlink()
    assert "preferences.jsonl cannot be read" in refused(copies / "labels")


# ---- somebody's own clips


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"observations": None}, "has no array 'observations'; it has actions, true_rewards"),
        ({"actions": None}, "has no array 'actions'"),
        ({"observations": np.ones((5, 3))}, "observations have the shape (5, 3); it should be (5, 2), one row a step"),
        ({"observations": np.ones((4, 2))}, "observations have the shape (4, 2)"),
        ({"observations": np.ones((5, 2), complex)}, "numbers belong there"),
        ({"observations": np.array([["a", "b"]] * 5)}, "numbers belong there"),
        ({"observations": np.array([[{}, {}]] * 5, object)}, "nothing pickled"),
        ({"observations": np.full((5, 2), 1e300)}, "the observations of a segment are not all finite numbers"),
        ({"observations": np.full((5, 2), np.nan)}, "the observations of a segment are not all finite numbers"),
        ({"actions": np.ones((0, 2)), "observations": np.ones((0, 2))}, "has no steps"),
        ({"actions": np.float64(3)}, "has no steps"),
        ({"true_rewards": np.ones((5, 1))}, "true_rewards have the shape (5, 1)"),
        (
            {"true_rewards": None},
            "the true_rewards of a segment are not all finite numbers; the run's teacher reads them",
        ),
        ({"fps": 12}, "has fps 12; toys:Follow-v0 makes 30 steps a second"),
        ({"fps": np.nan}, "has fps nan"),
        ({"fps": np.array([30, 30])}, "has fps [30, 30]"),
        ({"fps": np.array([])}, "has fps []"),
        ({"speed": 3}, "has an array 'speed'; a clip has only observations, actions, true_rewards, states, fps"),
        ({"policy_steps": 3, "lengths": 4}, "is the companion of a.jsonl or a.parquet; import that instead"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_clip_that_cannot_be_is_refused_by_name(
    copies: Path, refused: Refused, changed: dict[str, Any], why: str
) -> None:
    np.savez(copies / "clips" / "b.npz", **clip())
    np.savez(copies / "clips" / "a.npz", **clip(**changed))
    assert why in refused(copies / "clips")


def test_an_action_has_to_be_a_choice_of_the_task(tmp_path: Path) -> None:
    from backflip.api import start
    from backflip.exchange.incoming import import_all
    from backflip.settings import Settings

    run = start(Settings(task="CartPole-v1", teacher="oracle", mode="in_turn", segment_steps=4), tmp_path / "run")
    for action in (-1, 2, 2**40):
        np.savez(tmp_path / "a.npz", observations=np.ones((5, 4)), actions=np.full(5, action), true_rewards=np.ones(5))
        with (
            closing(run.store()) as store,
            pytest.raises(ExchangeError, match="no choice of the task; its choices are 0-1"),
        ):
            import_all(run, store, [tmp_path / "a.npz"])


def test_a_clip_that_is_too_large_is_refused_before_it_is_unpacked(
    copies: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip.exchange import npz

    monkeypatch.setattr(npz, "MOST_BYTES", 79)
    assert "observations has 80 bytes; the most are 79: cut it up" in refused(copies / "clips")


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_what_unpacks_in_unusual_ways_is_refused(copies: Path, refused: Refused, kind: int) -> None:
    with zipfile.ZipFile(copies / "clips" / "a.npz", "w", kind) as archive:
        for name in ("observations", "actions"):
            archive.writestr(f"{name}.npy", forged("(5, 2)", bytes(40)))
    assert "is compressed in an unusual way" in refused(copies / "clips")


# ---- runs, and cards


def test_a_damaged_run_is_said_to_be(copies: Path, refused: Refused) -> None:
    with closing(RunDir.open(copies / "other").store()) as store, store.transaction() as c:
        c.exec_driver_sql("UPDATE segment SET observations = x'00'")
    assert "is damaged" in refused(copies / "other")
    with closing(RunDir.open(copies / "other").store()) as store, store.transaction() as c:
        c.exec_driver_sql("UPDATE event SET details = '{'")
    assert "is damaged" in refused(copies / "other")


def test_a_card_from_anywhere_loads_or_says_why_not(tmp_path: Path) -> None:
    from backflip.api import load_reward
    from backflip.files import DamagedFile, load_arrays, save_arrays
    from backflip.reward import Inputs, RewardEnsemble

    file = tmp_path / "reward.safetensors"
    RewardEnsemble(Inputs((2,), 2, discrete=False)).save(file)
    arrays, meta = load_arrays(file)
    for changed_arrays, changed_meta in (
        ({n: a for n, a in arrays.items() if n != "parameter_0"}, meta),
        ({**arrays, "parameter_0": arrays["parameter_0"][:1]}, meta),
        ({**arrays, "output_mean": arrays["output_mean"].astype("f8")}, meta),
        (arrays, {**meta, "baseline": "low"}),
        (arrays, {**meta, "config": {"members": 0}}),
        (arrays, {**meta, "config": {"size": 3}}),
        (arrays, {**meta, "inputs": {"observation_shape": 3}}),
    ):
        save_arrays(file, changed_arrays, changed_meta)
        with pytest.raises(DamagedFile, match="holds no reward ensemble"):
            load_reward(tmp_path)
