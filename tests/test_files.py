"""Files that are whole or not there."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from backflip.files import DamagedFile, load_arrays, save_arrays, whole_file, write_whole


@pytest.mark.parametrize("durable", [True, False])
def test_a_written_file_has_its_content_and_leaves_nothing_beside_it(tmp_path: Path, durable: bool) -> None:
    write_whole(tmp_path / "a", b"old", durable)
    write_whole(tmp_path / "a", b"new", durable)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match="a"):
        write_whole(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_written_bit_by_bit_appears_when_all_is_written_or_never(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"old")
    with whole_file(tmp_path / "a") as file:
        file.write(b"ne")
        assert (tmp_path / "a").read_bytes() == b"old"
        file.write(b"w")
    assert (tmp_path / "a").read_bytes() == b"new"

    def gave_up() -> None:
        with whole_file(tmp_path / "a") as file:
            file.write(b"newer")
            raise KeyError

    with pytest.raises(KeyError):
        gave_up()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_threads_that_write_one_file_never_mix(tmp_path: Path) -> None:
    contents = [bytes([65 + i]) * 200_000 for i in range(4)]

    def write(content: bytes) -> None:
        for _ in range(10):
            write_whole(tmp_path / "a", content, durable=False)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a").exists():
            assert (tmp_path / "a").read_bytes() in contents
    assert os.listdir(tmp_path) == ["a"]


def rewrite_for_ever(path: Path) -> None:
    for number in range(1_000_000):
        save_arrays(path, {"a": np.full(20_000, number)}, {"number": number})


def test_a_reader_beside_a_writer_that_is_killed_always_finds_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    context = multiprocessing.get_context("forkserver")
    for _ in range(3):
        writer = context.Process(target=rewrite_for_ever, args=(path,))
        writer.start()
        while not path.exists():
            time.sleep(0.001)
        for _ in range(20):
            arrays, meta = load_arrays(path)
            assert (arrays["a"] == meta["number"]).all()
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        arrays, meta = load_arrays(path)
        assert (arrays["a"] == meta["number"]).all()


def test_arrays_come_back_with_their_types_shapes_and_record(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 3), np.float64),
        "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "image": np.arange(12, dtype=np.uint8).reshape(1, 3, 4),
        "flags": np.array([True, False]),
    }
    meta = {"step": 3, "name": "r̂ \0 🙂", "list": [1, None, {"x": 0.1}]}
    save_arrays(tmp_path / "a", arrays, meta)
    loaded, record = load_arrays(tmp_path / "a")
    assert record == meta
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded[name], array)


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save_arrays(tmp_path / name, {"y": np.arange(3), "x": np.ones(2)}, {"b": 1, "a": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="nowhere is missing"):
        load_arrays(tmp_path / "nowhere")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"a": np.arange(10)}, {"step": 1})
    whole = (tmp_path / "a").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="cannot be read"):
            load_arrays(tmp_path / "a")


def test_garbage_a_folder_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder").mkdir()
    (tmp_path / "foreign").write_bytes(save({"a": np.ones(2)}))
    (tmp_path / "odd").write_bytes(save({"a": np.ones(2)}, metadata={"meta": "{"}))
    for name in ("garbage", "folder", "foreign", "odd"):
        with pytest.raises(DamagedFile, match=name):
            load_arrays(tmp_path / name)
