"""The file of measurements: what is read back, whole or thinned."""

from itertools import pairwise
from pathlib import Path

import pytest

from backflip.measurements import append, forget_after, mark, read, read_thinned


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for step in range(100):
        append(
            tmp_path / "m.jsonl",
            step,
            step / 2,
            {"act/pace": float(step)} | ({"fit/l2": 0.5} if step % 30 == 7 else {}),
        )
    return tmp_path / "m.jsonl"


def steps(lines: list[dict[str, object]], name: str) -> list[object]:
    return [line["step"] for line in lines if line["name"] == name]


def test_few_measurements_are_read_whole(file: Path) -> None:
    lines, position = read(file)
    thinned, same = read_thinned(file)
    assert sorted(map(str, thinned)) == sorted(map(str, lines))
    assert same == position == file.stat().st_size


@pytest.mark.parametrize("most", [1, 2, 3, 10, 40, 99, 100])
def test_of_many_some_at_equal_distances_and_the_newest_are_kept(file: Path, most: int) -> None:
    lines, position = read_thinned(file, most)
    found = [int(str(step)) for step in steps(lines, "act/pace")]
    assert position == file.stat().st_size
    assert found[-1] == 99
    assert max(1, min(100, most) // 2) <= len(found) <= most + 1
    assert len({after - before for before, after in pairwise(found[:-1])}) <= 1
    if most >= 10:
        assert steps(lines, "fit/l2") == [7, 37, 67, 97], "what has few is kept"


def test_a_line_that_is_not_whole_is_left_for_the_next_time_and_a_torn_one_passed_over(file: Path) -> None:
    content = file.read_bytes()
    with file.open("ab") as opened:
        opened.write(b'{"step": 100, "sec')
    for found, position in (read(file), read_thinned(file)):
        assert len(found) == 104
        assert position == len(content)
    append(file, 101, 51.0, {"act/pace": 101.0})
    for found, position in (read(file), read_thinned(file)):
        assert len(found) == 105
        assert position == file.stat().st_size


def test_no_file_is_no_measurements(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == read_thinned(tmp_path / "none") == ([], 0)


def test_what_was_cut_back_and_written_anew_has_another_mark(file: Path) -> None:
    _, position = read(file)
    before, content = mark(file, position), file.read_bytes()
    append(file, 100, 50.0, {"act/pace": 100.0})
    assert mark(file, position) == before
    file.write_bytes(content[: position // 2])
    for step in range(50, 200):
        append(file, step, step / 3, {"act/pace": 0.0})
    assert file.stat().st_size > position
    assert mark(file, position) != before


def test_what_was_measured_after_a_step_can_be_taken_out(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b'{"step": 100, "sec')
    append(file, 37, 60.0, {"fit/l2": 0.25})
    found = read(file)[0]
    forget_after(file, 37)
    assert read(file)[0] == [line for line in found if line["step"] <= 37]
    content, inode = file.read_bytes(), file.stat().st_ino
    forget_after(file, 37)
    assert (file.read_bytes(), file.stat().st_ino) == (content, inode), "nothing to do, nothing written"
    forget_after(file.with_name("none"), 0)
    assert not file.with_name("none").exists()
