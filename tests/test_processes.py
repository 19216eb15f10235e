"""Parts in processes of their own: one that dies ends all, loudly; stopping is clean; none outlives its run."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backflip import processes
from backflip.errors import Mendable
from backflip.processes import PartDied, PartRefused, Stop, run_together

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 30.0


# ---- parts, as processes import them


def returns(file: Path, stop: Stop) -> None:
    file.write_text("done")


def leads(others: Path, stop: Stop) -> None:
    """Work until the others are there."""
    _wait_for(others)


def waits(file: Path, stop: Stop) -> None:
    file.with_suffix(".begun").write_text(str(os.getpid()))
    while not stop.is_set():
        stop.wait(0.02)
    file.write_text("saved")


def raises(size: int, stop: Stop) -> None:
    raise ValueError("broken on purpose" + "x" * size)


def refuses(stop: Stop) -> None:
    raise Mendable("the file x is missing; give another")


def raises_when_stopped(file: Path, stop: Stop) -> None:
    waits(file, stop)
    raise ValueError("cannot save")


def is_killed(stop: Stop) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_deaf(file: Path, stop: Stop) -> None:
    file.with_suffix(".begun").write_text("")
    while True:
        time.sleep(0.1)


def is_interrupted(file: Path, stop: Stop) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    file.write_text("still here")


def tells_threads(file: Path, stop: Stop) -> None:
    file.write_text(" ".join(os.environ.get(name, "?") for name in THREADS))


def runs(file: Path) -> None:
    """A whole run of one part, to be killed from outside."""
    run_together({"one": (waits, (file,))}, leader="one")


# ---- and what becomes of them


def _wait_for(file: Path) -> None:
    give_up = time.monotonic() + PATIENCE
    while not file.exists():
        assert time.monotonic() < give_up, f"{file} never came"
        time.sleep(0.01)


def _running(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_leaders_return_stops_the_others_and_they_save(tmp_path: Path) -> None:
    looked: list[int] = []
    other = tmp_path / "other"
    parts = {"act": (leads, (tmp_path / "other.begun",)), "ask": (waits, (other,))}
    assert run_together(parts, leader="act", watch=lambda: looked.append(1))
    assert other.read_text() == "saved"
    assert looked


def test_an_interrupted_run_is_not_finished_and_its_parts_save(tmp_path: Path) -> None:
    file = tmp_path / "part"
    assert not run_together({"act": (waits, (file,))}, "act", interrupted=file.with_suffix(".begun").exists)
    assert file.read_text() == "saved"


def test_control_c_is_an_interruption(tmp_path: Path) -> None:
    file = tmp_path / "part"

    def watch() -> None:
        if file.with_suffix(".begun").exists():
            raise KeyboardInterrupt

    assert not run_together({"act": (waits, (file,))}, "act", watch=watch)
    assert file.read_text() == "saved"


def test_an_error_of_who_watches_is_passed_on_after_all_have_saved(tmp_path: Path) -> None:
    file = tmp_path / "part"

    def watch() -> None:
        if file.with_suffix(".begun").exists():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_together({"act": (waits, (file,))}, "act", watch=watch)
    assert file.read_text() == "saved"


@pytest.mark.parametrize("leader", ["act", "fit"])
def test_a_part_that_raises_ends_the_run_with_its_traceback(tmp_path: Path, leader: str) -> None:
    other = tmp_path / "other"
    with pytest.raises(PartDied, match="the part 'fit' failed") as died:
        run_together({"fit": (raises, (0,)), "act": (waits, (other,))}, leader=leader)
    assert "ValueError: broken on purpose" in str(died.value)
    assert 'test_processes.py", line' in str(died.value)
    assert other.read_text() == "saved"


def test_what_a_person_can_mend_ends_the_run_with_its_sentence_alone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(PartRefused) as refused:
        run_together({"fit": (refuses, ()), "act": (waits, (other,))}, leader="act")
    assert str(refused.value) == "the file x is missing; give another"
    assert isinstance(refused.value, Mendable)
    assert other.read_text() == "saved"


def test_a_traceback_longer_than_a_pipe_holds_is_no_reason_to_wait_for_ever(tmp_path: Path) -> None:
    with pytest.raises(PartDied, match="the part 'fit' failed") as died:
        run_together({"fit": (raises, (1_000_000,))}, leader="fit")
    assert len(str(died.value)) < 20_000


def test_a_part_that_is_killed_ends_the_run_and_the_signal_is_named(tmp_path: Path) -> None:
    with pytest.raises(PartDied, match=r"'ask' was killed by SIGKILL \(the system does so when memory"):
        run_together({"act": (waits, (tmp_path / "act",)), "ask": (is_killed, ())}, leader="act")


def test_a_part_that_returns_too_early_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PartDied, match=r"the part 'ask' ended too early \(exit status 0\)"):
        run_together({"act": (waits, (tmp_path / "act",)), "ask": (returns, (tmp_path / "ask",))}, leader="act")
    assert (tmp_path / "act").read_text() == "saved"


def test_an_error_while_saving_is_an_error_of_the_run(tmp_path: Path) -> None:
    other = tmp_path / "other"
    parts = {"act": (leads, (other.with_suffix(".begun"),)), "fit": (raises_when_stopped, (other,))}
    with pytest.raises(PartDied, match=r"(?s)the part 'fit' failed.*cannot save"):
        run_together(parts, leader="act")


def test_a_part_that_does_not_stop_is_killed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    file = tmp_path / "deaf"
    begun = file.with_suffix(".begun")
    said = "the part 'ask' had not come to an end 0.3 s after it was asked to, and was killed"
    with pytest.raises(PartDied, match=f"{said}; the run goes on from its last checkpoint"):
        run_together(
            {"act": (waits, (tmp_path / "act",)), "ask": (is_deaf, (file,))}, leader="act", interrupted=begun.exists
        )
    assert not caplog.text
    assert run_together({"act": (leads, (begun,)), "ask": (is_deaf, (file,))}, leader="act")
    assert f"{said}; the run has finished" in caplog.text


def test_signals_to_the_whole_group_are_left_to_the_parent(tmp_path: Path) -> None:
    assert run_together({"act": (is_interrupted, (tmp_path / "act",))}, leader="act")
    assert (tmp_path / "act").read_text() == "still here"


def test_parts_compute_with_one_thread_and_the_parent_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS[0], "7")
    monkeypatch.delenv(THREADS[1], raising=False)
    assert run_together({"act": (tells_threads, (tmp_path / "act",))}, leader="act")
    assert (tmp_path / "act").read_text() == "1 1 1"
    assert os.environ[THREADS[0]] == "7"
    assert THREADS[1] not in os.environ


def test_a_part_that_is_killed_while_it_waits_does_not_keep_the_others_from_stopping(tmp_path: Path) -> None:
    victim, other = tmp_path / "victim", tmp_path / "other"
    killed: list[int] = []

    def watch() -> None:
        if not killed and _begun(victim) and _begun(other):
            killed.append(_begun(victim))
            os.kill(killed[0], signal.SIGKILL)

    started = time.monotonic()
    with pytest.raises(PartDied, match="the part 'ask' was killed by SIGKILL"):
        run_together({"act": (waits, (other,)), "ask": (waits, (victim,))}, leader="act", watch=watch)
    assert other.read_text() == "saved"
    assert time.monotonic() - started < processes.GRACE_SECONDS


def test_parts_end_by_themselves_and_write_no_more_when_their_parent_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "part"
    parent = multiprocessing.get_context("spawn").Process(target=runs, args=(file,))
    parent.start()
    _until(lambda: _begun(file) > 0)
    assert _running(_begun(file))
    parent.kill()
    parent.join()
    _until(lambda: not _running(_begun(file)))
    assert not file.exists()  # the run may be another's by now


def _begun(file: Path) -> int:
    """The process that `waits` runs in, once it does; else 0."""
    begun = file.with_suffix(".begun")
    return int(begun.read_text() or 0) if begun.exists() else 0


def _until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)
