"""The run directory: published whole or not at all, whoever is killed; and one trainer at a time."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from backflip.rundir import RunDir, RunError, new_path

CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {"seed": 0})


def test_runs_of_one_second_do_not_get_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [new_path("my_envs:Reach/v0") for _ in range(3)]
    assert len({*paths}) == 3
    for path in paths:
        assert path.parent == Path("runs")
        assert path.name.startswith("my_envs-Reach-v0-")
        assert RunDir.create(path, {"seed": 0}).path == path


def _publish(run: RunDir, kind: str, number: int, content: str | None = None, durable: bool = False) -> None:
    with run.publishing(kind, number, durable) as directory:
        (directory / "a").write_text(content or str(number))
        (directory / "b").write_bytes(bytes(1000))


def _newest(run: RunDir, kind: str = "act") -> int | None:
    newest = run.newest(kind)
    assert newest is None or (newest.path / "a").read_text() == str(newest.number)
    return None if newest is None else newest.number


def _numbers(run: RunDir, kind: str) -> list[str]:
    return sorted(entry.name for entry in (run.path / kind).iterdir())


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[BaseProcess, Connection]]]:
    """start(function, *arguments): a process that gets a connection to talk back as its last argument."""
    processes: list[BaseProcess] = []

    def started(function: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
        hears, says = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=function, args=(*arguments, says))
        process.start()
        says.close()
        processes.append(process)
        return process, hears

    yield started
    for process in processes:
        process.kill()
        process.join()


Start = Callable[..., tuple[BaseProcess, Connection]]


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


# ---- making and opening


def test_a_run_records_everything_about_itself_and_opens_again(tmp_path: Path) -> None:
    settings = {"seed": 3, "task": "hopper"}
    run = RunDir.create(tmp_path / "a" / "b", settings, command="backflip train hopper")
    again = RunDir.open(run.path)
    assert again.settings == settings
    assert again.config == run.config
    assert again.config["command"] == "backflip train hopper"
    assert {"format", "created", "machine", "versions", "commit"} <= set(again.config)
    assert again.config["versions"]["numpy"] == np.__version__


def test_what_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty; choose another --run, or go on with: backflip resume"):
        RunDir.create(tmp_path, {"seed": 0})
    with pytest.raises(RunError, match="exists and is not empty"):
        RunDir.create(tmp_path / "notes.txt", {"seed": 0})
    (tmp_path / "empty").mkdir()
    RunDir.create(tmp_path / "empty", {"seed": 0})
    with pytest.raises(RunError, match="exists and is not empty"):
        RunDir.create(tmp_path / "empty", {"seed": 0})


def test_a_run_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        RunDir.create(tmp_path / "file" / "run", {"seed": 0})


def test_what_is_not_a_run_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(RunError, match=r"is not a run directory \(it has no run.json\)"):
            RunDir.open(path)


def test_a_run_that_this_user_may_not_read_is_not_called_damaged(
    public_folder: Path, nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    made = RunDir.create(public_folder / "run", {"seed": 0})
    (made.path / "run.json").chmod(0)
    with nobody(), pytest.raises(RunError, match=r"run\.json cannot be read \(Permission denied\); see that you may"):
        RunDir.open(made.path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 1, "settings": {}}',
        '{"format": 1, "settings": 3}',
        '{"format": "one", "settings": {"seed": 0}}',
        "\udcff",
    ],
)
def test_a_damaged_run_is_refused_in_words(run: RunDir, content: str) -> None:
    (run.path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"run.json is damaged .*; restore it from a copy"):
        RunDir.open(run.path)


def test_a_run_of_a_newer_backflip_is_refused_in_words(run: RunDir) -> None:
    (run.path / "run.json").write_text(json.dumps({**run.config, "format": 99}))
    with pytest.raises(RunError, match=r"made by a newer backflip \(format 99, this one knows 1\); upgrade"):
        RunDir.open(run.path)


def test_a_store_that_cannot_be_used_is_refused_as_part_of_the_run(run: RunDir) -> None:
    run.store().close()
    (run.path / "run.db").write_bytes(b"no database" * 100)
    with pytest.raises(RunError):
        run.store()


# ---- publishing


def test_what_is_published_is_there_whole_and_before_that_nothing_is(run: RunDir) -> None:
    assert run.newest("act") is None
    assert run.newest_number("act") is None
    with run.publishing("act", 1) as directory:
        (directory / "a").write_text("1")
        assert run.newest("act") is None
        assert run.newest_number("act") is None
    assert _newest(run) == run.newest_number("act") == 1
    assert _numbers(run, "act") == ["000001"]


def test_a_publication_that_fails_leaves_nothing(run: RunDir) -> None:
    _publish(run, "act", 1)

    def fail() -> None:
        with run.publishing("act", 2) as directory:
            (directory / "a").write_text("2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _newest(run) == 1
    assert _numbers(run, "act") == ["000001"]


def test_the_newest_two_are_kept_and_five_of_r_hat(run: RunDir) -> None:
    for number in range(1, 13):
        _publish(run, "act", number)
        _publish(run, "reward", number)
    assert _numbers(run, "act") == ["000011", "000012"]
    assert _numbers(run, "reward") == [f"0000{number:02d}" for number in range(8, 13)]


def test_the_same_number_again_replaces_the_old_one(run: RunDir) -> None:
    for content in ("old", "new"):
        _publish(run, "act", 1, content)
    newest = run.newest("act")
    assert newest is not None
    assert (newest.path / "a").read_text() == "new"


@pytest.mark.parametrize("file", ["a", "b", "checksums.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "changed", "other json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run: RunDir, file: str, damage: str) -> None:
    _publish(run, "act", 1)
    _publish(run, "act", 2)
    victim = run.path / "act" / "000002" / file
    content = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    elif damage == "other json":
        victim.write_bytes(b"[3]")
    else:
        victim.write_bytes(content[:-1] if damage == "short" else content[:-2] + b"\xff" + content[-1:])
    assert _newest(run) == 1
    assert run.newest("act", exactly=1) is not None
    with pytest.raises(RunError, match=r"checkpoint 2 in .*act is not whole"):
        run.newest("act", exactly=2)


def test_where_all_are_damaged_it_says_so(run: RunDir) -> None:
    for number in (1, 2):
        _publish(run, "act", number)
        (run.path / "act" / f"00000{number}" / "a").unlink()
    with pytest.raises(RunError, match=r"no checkpoint in .*act is whole; restore that folder from a copy"):
        run.newest("act")


def test_a_checkpoint_that_has_to_be_there_is_not_taken_for_a_fresh_start(run: RunDir) -> None:
    with pytest.raises(RunError, match=r"checkpoint 4 in .*act is not whole"):
        run.newest("act", exactly=4)


def test_all_of_a_kind_can_be_forgotten(run: RunDir) -> None:
    for number in (1, 2):
        _publish(run, "reward", number)
    run.forget("reward")
    assert run.newest("reward") is None
    run.forget("reward")


def publish_half(path: Path, says: Connection) -> None:
    run = RunDir.open(path)
    with run.publishing("act", 2) as directory:
        (directory / "a").write_text("2")
        says.send("half")
        time.sleep(60)


def test_a_writer_killed_half_way_leaves_the_old_one_and_its_leavings_go(run: RunDir, start: Start) -> None:
    _publish(run, "act", 1)
    process, hears = start(publish_half, run.path)
    hears.recv()
    _kill(process)
    assert _newest(run) == 1
    assert len(_numbers(run, "act")) == 2
    _publish(run, "act", 2)
    assert _numbers(run, "act") == ["000001", "000002"]


def publish_for_ever(path: Path, says: Connection) -> None:
    run = RunDir.open(path)
    number = run.newest_number("act") or 0
    while True:
        number += 1
        _publish(run, "act", number, durable=True)
        says.send(number)


def test_a_writer_killed_at_any_moment_leaves_the_last_one_that_it_finished(run: RunDir, start: Start) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        process, hears = start(publish_for_ever, run.path)
        said = hears.recv()
        time.sleep(rng.uniform(0, 0.04))
        _kill(process)
        while hears.poll():
            try:
                said = hears.recv()
            except EOFError:
                break
        found = _newest(run)
        assert found is not None
        assert said <= found <= said + 1


def test_a_reader_always_finds_a_whole_one_while_others_are_published_fast(run: RunDir) -> None:
    _publish(run, "reward", 1)
    failures: list[BaseException] = []

    def publish() -> None:
        for number in range(2, 250):
            _publish(run, "reward", number)

    publisher = threading.Thread(target=publish)
    publisher.start()
    seen = [1]
    try:
        while publisher.is_alive():
            newest = run.newest("reward")
            assert newest is not None
            seen.append(newest.number)
    except RunError as error:
        failures.append(error)
    publisher.join()
    assert failures == []
    assert seen == sorted(seen)
    assert len(set(seen)) > 5, "everything was published before the reader looked; this tested nothing"
    assert _newest(run, "reward") == 249


# ---- what parts tell


def test_what_a_part_told_last_is_what_others_read(run: RunDir) -> None:
    assert run.told("act") == {}
    before = time.time()
    run.tell("act", state="training", steps=3)
    run.tell("act", state="stopped", pace=None)
    told = run.told("act")
    assert before <= told.pop("time") <= time.time()
    assert told == {"state": "stopped", "pace": None}


def test_what_is_told_is_read_whole_while_it_is_rewritten(run: RunDir) -> None:
    run.tell("act", first=-1, text="x" * 5000, last=-1)

    def rewrite() -> None:
        for i in range(600):
            run.tell("act", first=i, text="x" * 5000, last=i)

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = set()
    while writer.is_alive():
        told = run.told("act")
        assert told["first"] == told["last"]
        seen.add(told["first"])
    writer.join()
    assert len(seen) > 5
    assert [entry.name for entry in (run.path / "now").iterdir()] == ["act.json"]


@pytest.mark.parametrize("content", ["", "\0\0\0\0", '{"steps": 1'])
def test_what_a_power_cut_left_of_the_last_words_is_nothing(run: RunDir, content: str) -> None:
    (run.path / "now" / "act.json").write_text(content)
    assert run.told("act") == {}


# ---- measurements


def test_measurements_are_read_from_where_the_last_reader_stopped(run: RunDir) -> None:
    assert run.metrics() == ([], 0)
    run.record(10, {"act/true_return": 1.5, "act/kl": 0.25})
    lines, position = run.metrics()
    assert [(line["step"], line["name"], line["value"]) for line in lines] == [
        (10, "act/true_return", 1.5),
        (10, "act/kl", 0.25),
    ]
    assert all(line["seconds"] >= 0 for line in lines)
    assert run.metrics(position) == ([], position)
    run.record(20, {"act/kl": 0.5})
    lines, end = run.metrics(position)
    assert [line["step"] for line in lines] == [20]
    assert end == run.metrics_position()


def test_a_line_that_is_not_whole_yet_is_left_for_the_next_time(run: RunDir) -> None:
    run.record(10, {"act/kl": 1.0})
    run.record(20, {"act/kl": 2.0})
    file = run.path / "metrics.jsonl"
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        first, position = run.metrics()
        file.write_bytes(whole)
        rest, end = run.metrics(position)
        assert [line["step"] for line in first + rest] == [10, 20]
        assert end == len(whole)


def test_a_line_that_a_killed_writer_left_torn_is_passed_over_and_takes_no_other_with_it(run: RunDir) -> None:
    run.record(10, {"act/kl": 1.0})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 15, "sec')
    run.record(20, {"act/kl": 2.0})
    run.record(30, {"act/kl": 3.0})
    lines, position = run.metrics()
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert position == run.metrics_position()


def test_lines_of_several_writers_do_not_mix(run: RunDir) -> None:
    def write(step: int) -> None:
        for _ in range(50):
            run.record(step, {f"act/{name}": 1.0 for name in "abcdefgh"})

    writers = [threading.Thread(target=write, args=(step,)) for step in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    steps = [line["step"] for line in run.metrics()[0]]
    assert sorted(steps) == [step for step in range(4) for _ in range(400)]
    assert all(len(set(steps[i : i + 8])) == 1 for i in range(0, 1600, 8))


def test_measurements_after_a_position_can_be_forgotten(run: RunDir) -> None:
    run.forget_metrics(0)
    assert run.metrics_position() == 0
    run.record(10, {"act/kl": 1.0})
    position = run.metrics_position()
    run.record(20, {"act/kl": 2.0})
    run.forget_metrics(position)
    run.forget_metrics(position + 1000)
    run.record(30, {"act/kl": 3.0})
    assert [line["step"] for line in run.metrics()[0]] == [10, 30]


# ---- one trainer at a time


def own(path: Path, says: Connection) -> None:
    with RunDir.open(path).owned():
        says.send("mine")
        time.sleep(60)


def test_only_one_process_trains_a_run_and_its_death_frees_it(run: RunDir, start: Start) -> None:
    process, hears = start(own, run.path)
    hears.recv()
    with pytest.raises(RunError, match=rf"is being trained by process {process.pid}; stop that first"), run.owned():
        pass
    _kill(process)
    with run.owned():
        assert (run.path / "owner").read_text() == str(os.getpid())


def test_a_run_is_free_again_after_an_error(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError), run.owned():
        raise ZeroDivisionError
    with run.owned(), pytest.raises(RunError, match="is being trained by process"), RunDir.open(run.path).owned():
        pass
