"""The README's commands run, its code runs, and its tree is the one there is."""

import http.cookiejar
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
SETUP = [line for line in SHELL if not line.startswith("backflip ")]
COMMANDS = [line for line in SHELL if line.startswith("backflip ")]
TRAINS = ("demo", "train")
WAITS = ("demo", "serve")
TINY = ["--steps", "4500", "--labels", "12"]  # a few more than the 4000 random ones of the fast preset
START_SECONDS = 60


def takes_long(line: str) -> bool:
    """Whether a command trains, or needs one that did; quick tests leave it out."""
    return line.split()[1] == "train" or "runs/" in line


def test_there_are_two_set_up_lines() -> None:
    assert SETUP == [
        "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt '.[mujoco]' && .venv/bin/backflip demo",
        ".venv/bin/pip install -q -c constraints.txt -e '.[dev]' && "
        ".venv/bin/python -m pytest -q -n 2 --dist loadfile -m 'not slow'",
    ]


def test_ci_takes_its_set_up_from_the_readme_and_runs_nothing_like_it_beside() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '([^']+)' README\.md", script)
    assert pattern
    assert [line for line in README.splitlines() if re.match(pattern[1], line)] == SETUP
    assert 'bash -c "${setup[0]}"' in script
    assert 'bash -c "${setup[1]}"' in script
    assert "pip install" not in script.replace(pattern[1], "").replace(r".venv/bin/pip install", "")


def test_ci_runs_every_check_that_make_knows() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    made = re.search(r"^make (.*)$", script, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert made
    assert phony
    assert {*made[1].split(), "test", "bench"} == {*phony[1].split()}


def test_the_page_is_short() -> None:
    assert len(README.splitlines()) <= 160


def test_the_tree_has_every_module_and_nothing_else() -> None:
    drawn, folder = set(), ""
    tree = (ROOT / "docs" / "tree.md").read_text()
    for line in tree.split("    src/backflip/\n")[1].strip("\n").splitlines():
        entry = re.fullmatch(r"      (  )?(\S+)  .*", line)
        assert entry, line
        inside, name = entry.groups()
        folder = folder if inside else ""
        if name.endswith("/"):
            folder = name
            drawn.add(f"{name}__init__.py")
        else:
            drawn.add(folder + name)
    package = ROOT / "src" / "backflip"
    whole = {"exchange"}  # its own first lines say what is in it
    found = [path.relative_to(package) for path in package.rglob("*.py")]
    assert drawn == {path.as_posix() for path in found if path.name == "__init__.py" or path.parts[0] not in whole}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the commands run one after the other, as they stand on the page."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("readme")
    os.chdir(folder)
    os.environ["BACKFLIP_MODELS"] = str(folder / "models")
    yield folder
    os.chdir(before)
    del os.environ["BACKFLIP_MODELS"]


def _first_run(here: Path) -> None:
    """What the page's first command leaves behind, for those after it."""
    from backflip.cli import main

    if not (here / "runs" / "cheetah").exists():
        main([*shlex.split(COMMANDS[0], comments=True)[1:], *TINY])


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.slow] if takes_long(line) else [])
        for line in COMMANDS
        if line.split()[1] not in WAITS
    ],
)
@pytest.mark.slow
def test_a_command_of_the_page_runs(line: str, here: Path, request: pytest.FixtureRequest) -> None:
    from backflip.cli import main

    words = shlex.split(line, comments=True)[1:]
    if "--like" in words:
        _first_run(here)
    if "postgresql" in line:
        words = [word if "://" not in word else request.getfixturevalue("postgres") for word in words]
    main([*words, *(TINY if words[0] in TRAINS else [])])
    for path in re.findall(r"runs/\S+", line):
        assert (here / path).exists()


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
@pytest.mark.slow
def test_the_python_of_the_page_runs(code: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = re.sub(r"steps=[\d_]+", "steps=5_000", re.sub(r"labels=\d+", "labels=20", code))
    exec(compile(tiny, "README.md", "exec"), {})
    numbers = capsys.readouterr().out.strip().strip("[]").split()
    assert len(numbers) == 8


def visit(link: str) -> str:
    """The page behind a link, with the cookie that it gives."""
    visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    with visitor.open(link, timeout=10) as page:
        content: str = page.read().decode()
    return content


@pytest.fixture
def serving(here: Path) -> Iterator[Callable[[list[str]], tuple[subprocess.Popen[str], str]]]:
    """serving(arguments) starts backflip and gives the process and the first link it prints."""
    processes = []

    def serving(arguments: list[str]) -> tuple[subprocess.Popen[str], str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "backflip", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=here,
            start_new_session=True,  # as a terminal does: a signal from its keys reaches all processes of a command
            env={**environment, "PYTHONPATH": str(ROOT / "src")},
        )
        processes.append(process)
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            found = re.search(r"http://127\.0\.0\.1:\S+", line)
            if found:
                return process, found[0]
        pytest.fail(f"it ended without a link:\n{said}")

    yield serving
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def answered(link: str) -> str:
    """The page behind a link that may not be served yet."""
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            return visit(link)
        except OSError:
            assert time.monotonic() < give_up, "the page did not answer"
            time.sleep(0.1)


@pytest.mark.parametrize(
    "waits",
    [
        pytest.param(True, id="when the page has answered"),
        pytest.param(False, id="while everything starts"),
    ],
)
@pytest.mark.slow  # .ci/run does the same with the whole line before the quick tests
def test_the_demo_of_the_set_up_line_shows_its_page_and_ends_with_ctrl_c(
    waits: bool, serving: Callable[[list[str]], tuple[subprocess.Popen[str], str]]
) -> None:
    command = SETUP[0].split(" && ")[-1]
    assert command == ".venv/bin/backflip demo"
    process, link = serving(["demo", "--steps", "3000", "--no-browser"])
    if waits:
        assert "left-clip" in answered(link)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopped; go on with: backflip resume runs/hopper-backflip-" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.split()[1] == "serve"])
def test_a_command_of_the_page_that_serves_does_so_until_it_is_terminated(
    line: str, here: Path, serving: Callable[[list[str]], tuple[subprocess.Popen[str], str]]
) -> None:
    _first_run(here)
    process, link = serving(shlex.split(line, comments=True)[1:])
    assert "left-time" in answered(link)  # the run page's: the run is finished, and asks nothing
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Traceback" not in said
