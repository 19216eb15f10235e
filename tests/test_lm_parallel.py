"""Several processes tune one model, on the CPU, as torchrun starts them."""

import json
import os
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from texts_runs import miniature, settings

pytest.importorskip("transformers")
TESTS = Path(__file__).parent


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    *("accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)


def launched(*command: str, spread: bool = False, by: tuple[str, ...] = TORCHRUN) -> subprocess.CompletedProcess[str]:
    """Two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment |= {"ACCELERATE_USE_FSDP": "true"} if spread and by is TORCHRUN else {}
    return subprocess.run(
        [sys.executable, "-m", *by, *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=TESTS,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "by"),
    [
        (False, TORCHRUN),
        (True, TORCHRUN),
        (False, (*ACCELERATE, "--multi_gpu")),
        (True, (*ACCELERATE, "--use_fsdp", "--fsdp_version", "2")),
    ],
)
def test_two_processes_learn_what_one_does_from_both_batches(tmp_path: Path, spread: bool, by: tuple[str, ...]) -> None:
    model = miniature(tmp_path / "mini")
    done = launched("shared_batches.py", str(model), str(tmp_path / "result.json"), spread=spread, by=by)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["spread"] == float(spread)
    assert found["from_each_other"] == 0
    assert found["moved"] > 1e-3
    assert found["from_alone"] < 1e-5
    assert found["completions"] == [36, 36]
    assert found["beta"][0] == pytest.approx(found["beta"][1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "rank"), [(False, 0), (True, 0), (True, 4)])
def test_a_run_is_shared_by_two_processes_and_goes_on(tmp_path: Path, spread: bool, rank: int) -> None:
    from backflip.api import start
    from backflip.rundir import RunDir

    made = settings(miniature(tmp_path / "mini"), lora_rank=rank)
    run = start(made, tmp_path / "run")
    done = launched("-m", "backflip.lm.parallel", str(run.path), spread=spread)
    assert done.returncode == 0, done.stderr
    assert run.told("run")["state"] == "finished"
    assert run.newest_number("act") == 2
    with closing(run.store()) as store:
        counts = store.counts()
    assert counts.segments == 96  # six batches of two processes, four prompts each, two completions a prompt
    steps = [line["step"] for line in run.metrics()[0] if line["name"] == "act/kl_exact"]
    assert steps[-1] == 96
    assert {later - earlier for earlier, later in pairwise(steps)} == {16}

    config = json.loads((run.path / "run.json").read_text())
    config["settings"]["steps"] = 144
    (run.path / "run.json").write_text(json.dumps(config))
    done = launched("-m", "backflip.lm.parallel", str(run.path), spread=spread)
    assert done.returncode == 0, done.stderr
    again = RunDir.open(run.path)
    assert again.newest_number("act") == 3
    assert again.told("act")["steps"] == 144


def test_without_a_launcher_it_says_how_to_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip.lm.parallel import Group, main
    from backflip.rundir import RunDir, RunError

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RunError, match="started by a launcher"):
        Group()
    with pytest.raises(RunError, match="give the run directory"):
        main([])
    robot = RunDir.create(tmp_path / "robot", {"task": "Pendulum-v1", "teacher": "oracle", "seed": 0})
    with pytest.raises(RunError, match="tunes no language model"):
        main([str(robot.path)])
