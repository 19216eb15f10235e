"""The page under fire, for a short while: benchmarks/fuzz_page.py does it for longer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_hostile_visitors_find_no_defect_and_cost_nobody_an_answer() -> None:
    pytest.importorskip("schemathesis")
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz_page.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["requests"] > 200
    assert figures["answers"] > 5
