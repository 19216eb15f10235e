"""A run that a script started in the background ends cleanly too, although Ctrl-C is ignored there by default."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("request_to_end", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_started_with_signals_ignored_ends_cleanly_when_its_group_is_told_to(
    tmp_path: Path, request_to_end: signal.Signals
) -> None:
    command = [sys.executable, "-m", "backflip", "demo", "--run", str(tmp_path / "run"), "--no-browser"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", 'trap "" INT; exec "$@"', "bash", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while not re.search(r"http://\S+token=\S+", log.read_text()):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        time.sleep(0.1)  # the parts are still starting
        os.killpg(process.pid, request_to_end)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "backflip resume" in log.read_text()
