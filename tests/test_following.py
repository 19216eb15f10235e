"""Measurements for other programs' curves: everything arrives, nothing twice, and a run does not mind who fails."""

import importlib
import json
import os
import struct
import sys
import time
import types
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backflip import following, processes
from backflip.following import followers, send
from backflip.processes import Companions, Stop
from backflip.rundir import RunDir
from backflip.sinks import SINKS, SinkError, must_be_installed

Curves = dict[str, list[tuple[int, float]]]
PATIENCE = 30.0


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose database address is a secret, with two moments measured."""
    run = RunDir.create(tmp_path / "run", {"seed": 0, "task": "hopper", "store": "postgresql://me:hunter2@h/d"})
    run.record(10, {"act/kl": 0.25, "act/value": 1.0})
    run.record(20, {"act/kl": 0.5})
    return run


def in_tensorboard(run: RunDir) -> Curves:
    """All points in the event files, read by TensorBoard's own reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    curves: Curves = {}
    for file in sorted((run.path / "tensorboard").iterdir()):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


# ---- TensorBoard


def test_tensorboard_reads_every_point_with_its_step_and_time(run: RunDir) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    assert send(run, "tensorboard") == 2
    assert in_tensorboard(run) == {"act/kl": [(10, 0.25), (20, 0.5)], "act/value": [(10, 1.0)]}
    (file,) = (run.path / "tensorboard").iterdir()
    moments = [event.wall_time for event in LegacyEventFileLoader(str(file)).Load() if event.summary.value]
    assert moments == pytest.approx([run.config["created"] + line["seconds"] for line in run.metrics()[0][::2]])


def test_tensorboard_has_nothing_twice_and_nothing_that_a_run_took_back(run: RunDir) -> None:
    pytest.importorskip("tensorboard")
    position = run.metrics_position()
    run.record(30, {"act/kl": 3.0})
    for _ in range(2):
        send(run, "tensorboard")
        assert in_tensorboard(run)["act/kl"] == [(10, 0.25), (20, 0.5), (30, 3.0)]
    run.forget_metrics(position)
    run.record(30, {"act/kl": 4.0})
    send(run, "tensorboard")
    assert in_tensorboard(run)["act/kl"] == [(10, 0.25), (20, 0.5), (30, 4.0)]


def test_what_a_run_takes_back_while_it_is_followed_leaves_tensorboard_too(run: RunDir) -> None:
    pytest.importorskip("tensorboard")
    with following._passing(run, "tensorboard") as passing:
        passing.on()
        run.forget_metrics(0)
        run.record(5, {"act/kl": 9.0})
        run.record(15, {"act/kl": 8.0, "act/value": 7.0})
        passing.on()
        assert in_tensorboard(run) == {"act/kl": [(5, 9.0), (15, 8.0)], "act/value": [(15, 7.0)]}


# ---- Weights & Biases, without a network


def in_wandb(run: RunDir) -> list[dict[str, Any]]:
    """The history of all sittings: records in blocks of 32 kB, in the format of LevelDB's log, after 7 bytes."""
    protocol: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found = []
    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb")):
        content, place, record = file.read_bytes(), 7, b""
        while place + 7 <= len(content):
            left = 32768 - place % 32768
            if left < 7:
                place += left
                continue
            _, length, kind = struct.unpack("<IHB", content[place : place + 7])
            record += content[place + 7 : place + 7 + length]
            place += 7 + length
            if place > len(content):
                break
            if kind in (1, 4):  # whole, or its last part
                parsed, record = protocol.Record.FromString(record), b""
                if parsed.WhichOneof("record_type") == "history":
                    items = {item.key or "/".join(item.nested_key): item.value_json for item in parsed.history.item}
                    found.append({key: json.loads(value) for key, value in items.items()})
    return sorted(found, key=lambda line: int(line["step"]))


@pytest.mark.slow
def test_wandb_gets_every_point_once_over_two_sittings(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert send(run, "wandb") == 2
        run.record(30, {"act/kl": 0.75})
        assert send(run, "wandb") == 1
        assert send(run, "wandb") == 0
    give_up = time.monotonic() + PATIENCE
    while len(found := in_wandb(run)) < 3 and time.monotonic() < give_up:
        time.sleep(0.02)  # wandb's own process closes its file a moment after `finish` has returned
    told = [{key: value for key, value in line.items() if not key.startswith("_")} for line in found]
    assert [line.pop("seconds") >= 0 for line in told] == [True] * 3
    assert told == [
        {"step": 10, "act/kl": 0.25, "act/value": 1.0},
        {"step": 20, "act/kl": 0.5},
        {"step": 30, "act/kl": 0.75},
    ]
    for file in run.path.glob("wandb/**/*.wandb"):
        assert b"hopper" in file.read_bytes()
        assert b"hunter2" not in file.read_bytes()


# ---- Trackio, whose Pillow is not ours: a small fake of what we call of it


class FakeTrackio(types.ModuleType):
    """`init`, `log` and `finish` as in trackio 0.43; keeps what it was told under the run's name."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = types.SimpleNamespace(origin="a fake")  # type: ignore[assignment]
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.config: dict[str, Any] = {}
        self.fails_at: int | None = None

    def init(self, project: str, name: str, config: dict[str, Any], resume: str, embed: bool) -> None:
        assert (project, resume, embed) == ("backflip", "allow", False)
        self.current = self.runs.setdefault(name, [])
        self.config = config

    def log(self, metrics: dict[str, float], step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("no route\nto host")
        self.current.append((step, {name: value for name, value in metrics.items() if name != "seconds"}))

    def finish(self) -> None:
        del self.current


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeTrackio:
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    return fake


def test_trackio_gets_every_point_once_under_one_name_and_no_secret(run: RunDir, trackio: FakeTrackio) -> None:
    assert send(run, "trackio") == 2
    run.record(30, {"act/kl": 0.75})
    assert [send(run, "trackio"), send(run, "trackio")] == [1, 0]
    ((name, points),) = trackio.runs.items()
    assert name.startswith("run-")
    assert points == [(10, {"act/kl": 0.25, "act/value": 1.0}), (20, {"act/kl": 0.5}), (30, {"act/kl": 0.75})]
    assert trackio.config == {"seed": 0, "task": "hopper"}


def test_steps_that_a_resumed_run_goes_over_again_are_not_sent_again(run: RunDir, trackio: FakeTrackio) -> None:
    position = run.metrics_position()
    run.record(30, {"act/kl": 3.0})
    send(run, "trackio")
    run.forget_metrics(position)
    for step in (30, 40, 50, 60):
        run.record(step, {"act/kl": step / 10, "act/value": 2.0})
    send(run, "trackio")
    (points,) = trackio.runs.values()
    assert [step for step, values in points if "act/kl" in values] == [10, 20, 30, 40, 50, 60]
    assert [step for step, values in points if "act/value" in values] == [10, 30, 40, 50, 60]
    run.record(35, {"act/kl": 1.0})  # a run whose parts go on at once goes back too, but keeps what it had measured
    assert send(run, "trackio") == 1


def test_a_sink_that_fails_half_way_gets_the_rest_the_next_time(run: RunDir, trackio: FakeTrackio) -> None:
    run.record(30, {"act/kl": 0.75})
    trackio.fails_at = 20
    with pytest.raises(SinkError, match=r"^ConnectionError: no route to host$"):
        send(run, "trackio")
    trackio.fails_at = None
    assert send(run, "trackio") == 2
    assert [step for step, _ in next(iter(trackio.runs.values()))] == [10, 20, 30]


def test_one_process_at_a_time_passes_a_runs_measurements_on(
    run: RunDir, trackio: FakeTrackio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BUSY_SECONDS", 0.05)
    with (
        following._passing(run, "trackio"),
        pytest.raises(SinkError, match="another process passes those of"),
    ):
        send(run, "trackio")


# ---- what is missing, and who fails


@pytest.mark.parametrize("name", list(SINKS))
def test_a_package_that_is_missing_is_named_with_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SinkError, match=rf"the package {name} is not installed.*pip install 'backflip\[{name}\]'"):
        must_be_installed(name)


def test_a_folder_of_wandbs_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SinkError, match="the package trackio is not installed"):
        must_be_installed("trackio")


def raises(stop: Stop) -> None:
    raise SinkError("they are closed")


def hangs(stop: Stop) -> None:
    time.sleep(600)


def is_killed(stop: Stop) -> None:
    os.kill(os.getpid(), 9)


def ends_in_order(file: Path, stop: Stop) -> None:
    file.write_text("begun")
    while not stop.is_set():
        stop.wait(0.01)
    file.write_text("done")


@pytest.mark.slow
def test_a_companion_that_fails_is_mourned_once_and_one_that_hangs_keeps_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FAREWELL_SECONDS", 2.0)
    said: list[tuple[str, str]] = []
    parts: dict[str, Any] = {"one": (raises, ()), "two": (hangs, ()), "three": (is_killed, ())}
    with Companions(
        {**parts, "four": (ends_in_order, (tmp_path / "four",))}, lambda *words: said.append(words)
    ) as all_:
        give_up = time.monotonic() + PATIENCE
        while len(said) < 2 or not (tmp_path / "four").exists():
            assert time.monotonic() < give_up
            all_.look()
            time.sleep(0.02)
        assert dict(said) == {
            "one": "they are closed",
            "three": "the part 'three' was killed by SIGKILL (the system does so when memory runs out)",
        }
        left = time.monotonic()
    assert time.monotonic() - left < 10
    assert Counter(name for name, _ in said) == {"one": 1, "two": 1, "three": 1}
    assert dict(said)["two"].startswith("it had not come to an end 2 s after the run")
    assert (tmp_path / "four").read_text() == "done"


def test_a_sink_that_fails_says_what_to_do_and_the_run_goes_on(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    said: list[str] = []
    (run.path / "tensorboard").write_text("a file where a folder should be")
    with followers(run, ["tensorboard"], said.append) as companions:
        give_up = time.monotonic() + PATIENCE
        while not said:
            assert time.monotonic() < give_up
            companions.look()
            time.sleep(0.02)
    (sentence,) = said
    assert sentence.startswith("measurements no longer go to tensorboard: ")
    assert "Error: " in sentence
    assert sentence.endswith(f"to send the rest later: backflip send-metrics {run.path} tensorboard")
