"""The command line: what it says and how it ends, most of all when something is wrong."""

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
TINY = ["--teacher", "oracle", "--labels", "12", "--steps", "3000"]
Refused = Callable[..., str]
SmallFiles = Callable[[int], AbstractContextManager[None]]


def call(*arguments: object) -> None:
    from backflip.cli import main

    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    path = tmp_path_factory.mktemp("cli") / "run"
    call("train", "Pendulum-v1", *TINY, "--preset", "paper", "--run", path)
    return path


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """A run that was made and has not begun."""
    from backflip.api import start
    from backflip.settings import Settings

    return start(Settings(task="Pendulum-v1", teacher="oracle", mode="in_turn"), tmp_path / "untrained").path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """refused(arguments...) sees that it ends with status 2 and without a new run, and gives the one sentence."""
    monkeypatch.chdir(tmp_path)

    def refused(*arguments: object) -> str:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SystemExit) as ended:
            call(*arguments)
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert "Traceback" not in said
        assert sorted(tmp_path.iterdir()) == before
        return said

    return refused


def sentence(said: str) -> str:
    assert said.startswith("backflip: ")
    assert said.count("\n") == 1
    return said.removeprefix("backflip: ").rstrip()


# ---- what people can mend


def test_ctrl_c_while_a_command_is_loaded_ends_it_quietly() -> None:
    program = """
import sys
from importlib.abc import MetaPathFinder

class CtrlC(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "backflip.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
from backflip.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_task_must_be_named(refused: Refused) -> None:
    assert sentence(refused("train")).startswith("which task? Say one of `backflip tasks`")


def test_a_wrong_task_is_answered_with_what_is_near(refused: Refused) -> None:
    said = sentence(refused("train", "chetah", *TINY))
    assert "no task or Gymnasium environment is called 'chetah'; did you mean cheetah" in said


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--labels", "0", "labels is 0 and steps is"),
        ("--steps", "-5", "steps is -5; both must be at least 1"),
        ("--seed", "-1", "seed is -1; it must not be negative"),
        ("--segment-steps", "0", "segment_steps is 0; a segment has at least one step"),
    ],
)
def test_a_number_that_cannot_be_is_named(refused: Refused, option: str, value: str, why: str) -> None:
    assert why in sentence(refused("train", "Pendulum-v1", option, value))


@pytest.mark.parametrize(
    ("task", "teacher", "steps", "episode"),
    [("Pendulum-v1", "oracle", 201, 200), ("hopper-backflip", "scripted", 151, 150)],  # 150: while training
)
def test_a_clip_longer_than_an_episode_is_refused(
    refused: Refused, task: str, teacher: str, steps: int, episode: int
) -> None:
    said = sentence(refused("train", task, "--teacher", teacher, "--segment-steps", steps))
    assert said == (
        f"segment_steps is {steps}, but episodes of {task} last {episode} steps; say at most that, better a third of it"
    )


def test_the_demo_needs_a_step_too(refused: Refused) -> None:
    assert "steps is 0" in sentence(refused("demo", "--steps", "0"))


def test_what_is_no_number_is_refused(refused: Refused) -> None:
    said = " ".join(refused("train", "Pendulum-v1", "--labels", "many").replace("│", "").split())
    assert "--labels: 'many' is no whole number; write it as 300000, 300_000 or 3e5" in said
    assert "None" not in said


@pytest.mark.parametrize("given", ["2000", "2_000", "2e3", "2.0e+3"])
def test_a_whole_number_may_be_written_as_people_do(refused: Refused, given: str) -> None:
    assert "steps is 2000; both must be" in sentence(refused("train", "Pendulum-v1", "--steps", given, "--labels", "0"))


def test_a_text_task_is_among_what_is_near(refused: Refused) -> None:
    assert sentence(refused("train", "sentimnt")) == "no task is called 'sentimnt'; did you mean sentiment?"


def test_a_wrong_teacher_is_answered_with_the_right_ones(refused: Refused) -> None:
    said = refused("train", "Pendulum-v1", "--teacher", "parrot")
    assert "'parrot' is none of people, judge, scripted, oracle" in " ".join(said.replace("│", "").split())
    assert "None" not in said


@pytest.mark.slow
def test_an_environment_of_ones_own_is_found_in_the_current_folder(tmp_path: Path) -> None:
    lines = ["import gymnasium, toys", 'gymnasium.register("Mine-v0", toys.DictPoint, max_episode_steps=40)']
    (tmp_path / "mine.py").write_text("\n".join(lines))
    # What is installed beside Python starts without the current folder on its path, as -P does.
    program = [sys.executable, "-P", "-m", "backflip"]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}

    def said(*arguments: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run([*program, *arguments], cwd=cwd, env=path, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    assert "finished" in said("train", "mine:Mine-v0", *TINY[:-1], "1", "--preset", "paper", "--run", "run")
    assert "true return" in said("evaluate", "run", "--episodes", "1")
    (tmp_path / "other").mkdir()
    elsewhere = sentence(said("evaluate", "../run", cwd=tmp_path / "other"))
    assert "'mine:Mine-v0'; Go to the folder that has mine.py" in elsewhere


def test_a_run_whose_environment_a_program_registered_says_how_to_name_it(refused: Refused, copy: Path) -> None:
    config = json.loads((copy / "run.json").read_text())
    config["settings"]["task"] = "Mine-v3"
    (copy / "run.json").write_text(json.dumps(config))
    said = sentence(refused("evaluate", copy))
    assert "one of your own is named with the module that registers it, as in my_module:Mine-v3" in said
    assert "as `task` in a run's run.json, too" in said


def test_an_oracle_cannot_teach_what_has_no_reward(refused: Refused) -> None:
    said = sentence(refused("train", "hopper-backflip", *TINY))
    assert said == (
        "hopper-backflip has no reward that an oracle could read; it is taught by people: --teacher people, "
        "or by a script in their place: --teacher scripted"
    )


def test_a_script_cannot_teach_what_it_has_no_words_for(refused: Refused) -> None:
    said = sentence(refused("train", "walker", "--teacher", "scripted"))
    assert said == "walker has no script that could judge its clips in a person's place; use --teacher oracle"


def test_an_algorithm_that_cannot_act_in_a_task_is_refused_before_anything_begins(refused: Refused) -> None:
    said = sentence(refused("train", "CartPole-v1", "--preset", "fast", *TINY))
    assert said.startswith("CartPole-v1 has actions that are not numbers with bounds, as SAC needs them; use PPO")


def test_a_wrong_preset_is_answered_with_the_right_ones(refused: Refused) -> None:
    said = refused("train", "Pendulum-v1", "--preset", "quick")
    assert "fast" in said
    assert "paper" in said


def test_a_repeated_run_has_its_settings_and_no_preset(refused: Refused, trained: Path) -> None:
    said = sentence(refused("train", "--like", trained, "--preset", "fast"))
    assert said == f"--like repeats the settings of {trained}; leave --preset out"


def test_people_cannot_teach_in_turn(refused: Refused) -> None:
    assert "people cannot answer in turn" in sentence(refused("train", "Pendulum-v1", "--mode", "in_turn"))


def test_a_run_in_turn_has_no_page_and_no_port(refused: Refused) -> None:
    said = sentence(refused("train", "Pendulum-v1", *TINY, "--port", "9000"))
    assert said == "--port is for runs with a page; this one goes in turn and has none: add --mode at_once"


def test_a_missing_extra_is_named_with_the_command_that_brings_it(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    said = sentence(refused("train", "hopper", *TINY))
    assert said == "hopper needs a package that is not installed; to get it: pip install 'backflip[mujoco]'"


@pytest.mark.parametrize(
    "how", [["train", "Pendulum-v1", *TINY, "--log", "wandb"], ["resume", "RUN", "--log", "wandb"]]
)
def test_a_package_missing_for_measurements_is_named_before_anything_begins(
    refused: Refused, trained: Path, how: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = sentence(refused(*(trained if word == "RUN" else word for word in how)))
    assert said == (
        "the package wandb is not installed, so no measurements can go there; to get it: pip install 'backflip[wandb]'"
    )


def test_a_package_missing_for_drawing_is_named_before_anything_begins(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    said = sentence(refused("train", "Pendulum-v1"))
    assert said.startswith("Pendulum-v1 cannot be drawn: pygame is not installed")
    assert "pip install" in said


def test_a_busy_port_is_named_and_leaves_no_run_behind(refused: Refused) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = sentence(refused("train", "Pendulum-v1", "--port", port, "--run", "mine"))
    assert f"port {port} of 127.0.0.1 is taken" in said
    assert "choose another --port" in said


def test_a_run_directory_is_not_written_over(refused: Refused, trained: Path) -> None:
    said = sentence(refused("train", "Pendulum-v1", *TINY, "--run", trained))
    assert "exists and is not empty" in said
    assert f"backflip resume {trained}" in said


@pytest.mark.parametrize("command", ["resume", "serve", "evaluate", "show", "send-metrics", "backup"])
def test_no_run_directory_is_said(refused: Refused, command: str) -> None:
    assert sentence(refused(command, "nowhere")) == "nowhere is not a run directory (it has no run.json)"


@pytest.mark.parametrize("command", ["resume", "serve", "evaluate", "show"])
def test_a_damaged_configuration_is_said(refused: Refused, copy: Path, command: str) -> None:
    (copy / "run.json").write_text('{"format": 1, "settings"')
    said = sentence(refused(command, copy))
    assert f"{copy / 'run.json'} is damaged" in said
    assert "restore it from a copy" in said


@pytest.mark.parametrize(("name", "value"), [("task", None), ("labels", "many"), ("ppo", 3), ("teacher", "parrot")])
@pytest.mark.parametrize("command", [("resume",), ("evaluate",), ("score",)])
def test_settings_that_cannot_be_are_said(
    refused: Refused, copy: Path, command: tuple[str, ...], name: str, value: object
) -> None:
    config = json.loads((copy / "run.json").read_text())
    config["settings"][name] = value
    if value is None:
        del config["settings"][name]
    (copy / "run.json").write_text(json.dumps(config))
    assert f"the settings in {copy / 'run.json'} are damaged" in sentence(refused(*command, copy))


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize(("name", "value"), [("policy", "sac"), ("ppo", {"width": 24})])
def test_a_policy_that_does_not_fit_the_settings_is_said(
    refused: Refused, copy: Path, command: str, name: str, value: object
) -> None:
    config = json.loads((copy / "run.json").read_text())
    config["settings"][name] = value
    (copy / "run.json").write_text(json.dumps(config))
    said = sentence(refused(command, copy))
    assert f"{copy / 'act'}" in said
    assert f"does not fit the settings in {copy / 'run.json'}" in said


def damage_a_page(file: Path) -> None:
    """Half a page of an index: whoever only opens the database does not see it."""
    content = bytearray(file.read_bytes())
    content[-2048:] = b"\xff" * 2048
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "something else": (lambda file: file.write_bytes(b"this is no database" * 1000), "restore a copy"),
    "a page": (damage_a_page, "restore a copy"),
    "truncated": (lambda file: os.truncate(file, file.stat().st_size // 2), "restore a copy"),
    "empty": (lambda file: os.truncate(file, 0), "run.db is empty, but the run has checkpoints"),
    "missing": (lambda file: file.unlink(), "run.db is missing, but the run has checkpoints"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["resume", "serve"])
def test_a_damaged_database_is_said_and_all_else_stays_as_it_is(
    refused: Refused, copy: Path, command: str, damage: str
) -> None:
    for file in copy.glob("run.db-*"):
        file.unlink()
    do, sentence_ = DAMAGES[damage]
    do(copy / "run.db")
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file() and "run.db-" not in file.name}
    assert sentence_ in sentence(refused(command, copy))
    assert {file: file.read_bytes() for file in before} == before
    assert set(copy.glob("run.db")) == {file for file in before if file.name == "run.db"}


def test_a_run_that_cannot_be_written_is_said(
    trained: Path,
    public_folder: Path,
    nobody: Callable[[], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in ("api", "show", "web.server"):  # nobody may not be allowed to read them
        importlib.import_module(f"backflip.{module}")
    path = Path(shutil.copytree(trained, public_folder / "run"))
    path.chmod(0o555)
    for command, writable, said in (
        ("resume", False, f"{path / 'run.db'} cannot be written by this user"),
        ("serve", True, f"{path} cannot be written by this user"),
        ("show", True, f"{path / 'plots'} cannot be written (Permission denied)"),
    ):
        (path / "run.db").chmod(0o666 if writable else 0o444)
        with nobody(), pytest.raises(SystemExit) as ended:
            call(command, path)
        assert ended.value.code == 2
        assert said in sentence(capsys.readouterr().err)


def test_a_damaged_checkpoint_is_said(refused: Refused, copy: Path) -> None:
    for file in (copy / "act").glob("*/policy.safetensors"):
        file.write_bytes(b"?")
    assert "restore that folder from a copy" in sentence(refused("evaluate", copy))


def test_there_is_nothing_to_evaluate_before_a_checkpoint(refused: Refused, untrained: Path) -> None:
    said = sentence(refused("evaluate", untrained))
    assert said == f"{untrained} has no checkpoint of a policy yet; let it train a little longer"


def test_there_is_nothing_to_show_before_a_measurement(refused: Refused, untrained: Path) -> None:
    assert "has no measurements yet" in sentence(refused("show", untrained))


def test_at_least_one_episode_is_evaluated(refused: Refused, trained: Path) -> None:
    assert "--episodes is 0; it must be at least 1" in sentence(refused("evaluate", trained, "--episodes", "0"))


def test_a_film_must_be_a_moving_picture(refused: Refused, trained: Path) -> None:
    said = sentence(refused("evaluate", trained, "--video", "film.mp4"))
    assert said == "film.mp4 cannot be written; moving pictures are .webp, .gif, .png"


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_database_holds_one_run(
    refused: Refused, store: Any, store_url: str, make_segments: Callable[..., Any]
) -> None:
    store.add(make_segments(1))
    said = sentence(refused("train", "Pendulum-v1", *TINY, "--store", store_url))
    assert said == "the database given with --store holds another run already; give each run a database of its own"


@pytest.mark.parametrize("place", ["word", "answers.db", "sqlite:///answers.db", "localhost/cheetah"])
def test_answers_outside_the_run_directory_lie_in_postgresql_only(refused: Refused, place: str) -> None:
    said = sentence(refused("train", "Pendulum-v1", *TINY, "--store", place))
    assert said.startswith(f"store is {place!r}; it is the address of a PostgreSQL database")


def test_a_database_that_is_not_there_is_said(refused: Refused) -> None:
    said = sentence(refused("train", "Pendulum-v1", *TINY, "--store", "postgresql://me@localhost:1/none"))
    assert "see that the server runs and the URL is right" in said


def test_a_repeated_run_does_not_share_the_database(refused: Refused, copy: Path) -> None:
    config = json.loads((copy / "run.json").read_text())
    config["settings"]["store"] = "postgresql://me@localhost/one"
    (copy / "run.json").write_text(json.dumps(config))
    assert "give the new run a database of its own: --store URL" in sentence(refused("train", "--like", copy))


def test_other_machines_are_let_in_only_if_that_is_said(refused: Refused, trained: Path) -> None:
    assert "--allow-remote" in sentence(refused("serve", trained, "--host", "0.0.0.0"))


def test_an_unknown_command_is_refused(refused: Refused) -> None:
    assert "juggle" in refused("juggle")


def test_ctrl_c_before_anything_began_ends_as_shells_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip import cli

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "tasks", interrupted)
    with pytest.raises(SystemExit) as ended:
        call("tasks")
    assert ended.value.code == 130


def test_a_defect_of_ours_is_not_dressed_up_as_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    from backflip import cli

    def defective() -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setitem(cli.COMMANDS, "tasks", defective)
    with pytest.raises(ValueError, match="broadcast"):
        call("tasks")


# ---- what it does


def test_teachers_modes_and_sinks_are_those_that_settings_know() -> None:
    from backflip import cli, settings
    from backflip.sinks import SINKS
    from backflip.teachers.oracle import FALLIBLE

    assert set(get_args(cli.Teacher)) == {settings.PEOPLE, settings.SCRIPTED, settings.JUDGE, *FALLIBLE}
    assert get_args(cli.Mode) == get_args(settings.Mode)
    assert get_args(cli.Log) == get_args(settings.Log) == tuple(SINKS)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from backflip import __version__

    call("--version")
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["demo", "train", "resume", "serve", "evaluate", "show", "export", "import", "send-metrics", "backup", "tasks"],
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call(command, "--help")
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "None" not in said


def test_every_task_is_listed_with_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    from backflip.envs import TASKS

    call("tasks")
    said = capsys.readouterr().out
    for task in TASKS.values():
        assert f"{task.name} ({task.environment}" in said
        assert task.question in said
    assert "any Gymnasium id works too" in said.lower().replace("gymnasium", "Gymnasium")


def test_a_list_of_tasks_does_not_wait_for_pytorch() -> None:
    program = "import sys; from backflip.cli import main; main(['tasks']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL).returncode == 0


def test_the_doctor_finds_renderers_and_databases(capsys: pytest.CaptureFixture[str]) -> None:
    call("doctor")
    said = capsys.readouterr().out
    for what in ("backflip", "torch", "mujoco", "renderer multiray", "renderer egl", "SQLite"):
        assert what in said
    assert "ms a frame" in said
    assert "✗" not in said


def test_the_doctor_finds_a_database(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, postgres: str
) -> None:
    from backflip import doctor

    monkeypatch.setattr(doctor, "renderers", lambda: [("multiray", 14.0, "")])
    call("doctor", "--database", postgres)
    assert "✓ PostgreSQL         reachable" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["postgresql://me@localhost:1/none", "nonsense"])
def test_the_doctor_ends_with_1_where_a_database_cannot_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    from backflip import doctor

    monkeypatch.setattr(doctor, "renderers", lambda: [("multiray", 14.0, "")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        call("doctor", "--database", url)
    assert ended.value.code == 1
    assert "✗ PostgreSQL" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def test_the_doctor_is_content_without_the_robots(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip import doctor

    monkeypatch.setattr(doctor, "versions", lambda: {"mujoco": "missing"})
    monkeypatch.setattr(doctor, "renderers", lambda: [("multiray", None, "mujoco is not installed")])
    call("doctor")
    assert "– mujoco             not installed; the paper's robots need it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "preset", "policy", "labels"),
    [
        ("Pendulum-v1", None, "sac", 200),
        ("Pendulum-v1", "fast", "sac", 200),
        ("Pendulum-v1", "paper", "ppo", 700),
        ("CartPole-v1", None, "ppo", 700),
    ],
)
def test_a_preset_is_where_settings_come_from_and_by_default_what_can_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, preset: str | None, policy: str, labels: int
) -> None:
    from backflip.acting import Act
    from backflip.rundir import RunDir

    def interrupt(_: Act) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Act, "step", interrupt)
    named = ["--preset", preset] if preset else []
    with pytest.raises(SystemExit):
        call("train", task, *named, "--teacher", "oracle", "--steps", 1, "--seed", 5, "--run", tmp_path / "run")
    settings = RunDir.open(tmp_path / "run").settings
    assert (settings["policy"], settings["labels"]) == (policy, labels)
    assert (settings["teacher"], settings["steps"], settings["seed"]) == ("oracle", 1, 5)


def test_presets_are_those_of_the_experiments() -> None:
    from backflip import cli
    from backflip.experiments import PRESETS

    assert set(get_args(cli.Preset)) == set(PRESETS)


def test_a_run_says_where_it_is_and_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("train", "Pendulum-v1", *TINY[:-1], "1", "--run", tmp_path / "run")
    said = capsys.readouterr().out
    assert f"run: {tmp_path / 'run'}\n" in said
    assert "12 of 12 labels" in said or "of 12 labels" in said
    assert f"backflip show {tmp_path / 'run'}" in said


def test_a_repeated_run_has_the_same_settings_but_for_those_given(trained: Path, tmp_path: Path) -> None:
    from backflip.rundir import RunDir

    call("train", "--like", trained, "--seed", 3, "--steps", 1, "--run", tmp_path / "again")
    before, after = RunDir.open(trained).settings, RunDir.open(tmp_path / "again").settings
    assert after == {**before, "seed": 3, "steps": 1}


def test_the_same_seed_gives_the_same_policy_to_the_byte(trained: Path, tmp_path: Path) -> None:
    call("train", "--like", trained, "--run", tmp_path / "again")
    first, second = (next(path.glob("act/*/policy.safetensors")) for path in (trained, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_people_are_asked_what_the_command_line_says(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backflip import cli
    from backflip.rundir import RunDir

    monkeypatch.setattr(cli, "_go_on", lambda *_: None)

    def asked(name: str, *arguments: object) -> str:
        call("train", *arguments, "--run", tmp_path / name)
        question: str = RunDir.open(tmp_path / name).settings["question"]
        return question

    assert asked("mine", "Pendulum-v1", *TINY, "--question", "Which one swings?") == "Which one swings?"
    assert asked("again", "--like", tmp_path / "mine", "--seed", 1) == "Which one swings?"
    assert asked("new", "--like", tmp_path / "mine", "--question", "Which stands?") == "Which stands?"
    assert asked("other", "--like", tmp_path / "mine", "MountainCarContinuous-v0").startswith("Which clip shows")
    text = asked("text", "sentiment", *TINY, "--model", "tiny", "--question", "Which is kinder?")
    assert text == RunDir.open(tmp_path / "text").settings["tune"]["question"] == "Which is kinder?"
    assert asked("like", "--like", tmp_path / "text", "descriptive").startswith("Which continuation describes")


def test_a_finished_run_can_be_given_more_steps_and_labels(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backflip.rundir import RunDir

    before = RunDir.open(copy)
    measured, end = before.metrics()
    call("resume", copy, "--steps", 6000, "--labels", 20)
    said = capsys.readouterr().out
    assert "20 of 20 labels" in said
    assert "of 6.0k steps" in said
    run = RunDir.open(copy)
    assert run.settings == {**before.settings, "steps": 6000, "labels": 20}
    (grown,) = run.config["extended"]
    assert (grown["steps"], grown["labels"]) == (3000, 12)
    assert run.told("act")["steps"] >= 6000
    assert run.metrics()[0][: len(measured)] == measured, "it went on, and did not begin anew"
    assert run.metrics(end)[0]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--steps", 3000), "steps is 3000 and RUN has 3000; a run can only be given more than it has"),
        (("--labels", 4), "labels is 4 and RUN has 12; a run can only be given more than it has"),
        (("--steps", 9000, "--labels", 12), "labels is 12 and RUN has 12; a run can only be given more than it has"),
        (("--labels", 20), "RUN has taken all its 3000 steps; give it more of them, too: --steps N"),
    ],
)
def test_a_run_cannot_be_given_less_than_it_has(
    refused: Refused, copy: Path, given: tuple[object, ...], why: str
) -> None:
    before = (copy / "run.json").read_bytes()
    assert sentence(refused("resume", copy, *given)) == why.replace("RUN", str(copy))
    assert (copy / "run.json").read_bytes() == before


def test_a_run_that_is_being_trained_is_not_given_more(refused: Refused, copy: Path) -> None:
    from backflip.rundir import RunDir

    before = (copy / "run.json").read_bytes()
    with RunDir.open(copy).owned():
        said = sentence(refused("resume", copy, "--steps", 9000))
    assert "is being trained by process" in said
    assert (copy / "run.json").read_bytes() == before


def test_a_run_that_is_being_trained_is_refused_before_a_link_is_printed(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from backflip.rundir import RunDir

    config = json.loads((copy / "run.json").read_text())
    config["settings"]["mode"] = "at_once"
    (copy / "run.json").write_text(json.dumps(config))
    with RunDir.open(copy).owned(), pytest.raises(SystemExit):
        call("resume", copy)
    said = capsys.readouterr()
    assert "is being trained by process" in said.err
    assert said.out == ""


def test_scores_of_what_is_no_text_are_refused_before_a_link_is_printed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call("score", trained)
    said = capsys.readouterr()
    assert "tunes no language model" in said.err
    assert said.out == ""


def test_show_writes_pictures(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("show", copy)
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert copy / "plots" / "run.png" in paths
    assert len(paths) >= 5
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.width > 500


def test_measurements_can_be_sent_on_later(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("send-metrics", copy, "tensorboard")
    points = int(capsys.readouterr().out.removeprefix("tensorboard: ").removesuffix(" points\n"))
    assert points > 3
    assert (copy / "tensorboard").is_dir()


def test_a_backup_is_a_run_that_can_be_served_and_resumed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from backflip.rundir import RunDir
    from backflip.web.app import create_app
    from backflip.web.security import run_token

    call("backup", trained, tmp_path / "copy")
    assert f"backup: {tmp_path / 'copy'} (" in capsys.readouterr().out
    call("resume", tmp_path / "copy")
    assert "12 of 12 labels" in capsys.readouterr().out
    run = RunDir.open(tmp_path / "copy")
    app = create_app(run, run_token(run))
    assert app.state.context.store.counts().labels == 12
    app.state.context.store.close()


def test_a_backup_is_not_written_over(refused: Refused, trained: Path, copy: Path) -> None:
    said = sentence(refused("backup", trained, copy))
    assert said == f"{copy} exists; a backup does not write over anything, choose another place"


def test_evaluate_as_json_can_be_read(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("evaluate", trained, "--episodes", 3, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["task"] == "Pendulum-v1"
    assert found["policy_steps"] >= 3000
    assert found["episode_steps"] == [200, 200, 200]
    assert len(found["true_returns"]) == len(found["predicted_returns"]) == 3
    assert all(-2000 < value < 0 for value in found["true_returns"])


@pytest.mark.slow
def test_evaluate_counts_what_a_task_without_a_true_reward_is_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    call("train", "hopper-backflip", "--teacher", "scripted", "--preset", "paper", "--run", run, *TINY[2:])
    capsys.readouterr()
    call("evaluate", run, "--episodes", 2, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["behaviour_name"] == "backflips"
    assert found["behaviour"] == [0, 0]
    assert found["true_returns"] is None
    call("evaluate", run, "--episodes", 1)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "backflips" in line]
    assert line.count("0.00") == 4


def test_evaluate_films_the_policy(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.webp"
    call("evaluate", trained, "--episodes", 1, "--video", film)
    said = capsys.readouterr().out
    assert "true return" in said
    assert f"filmed: {film}\n" in said
    with Image.open(film) as picture:
        assert picture.format == "WEBP"
        # An episode of Pendulum, which is over before ten seconds are; WebP joins frames that are the same.
        assert 150 < getattr(picture, "n_frames", 1) <= 200


@pytest.mark.parametrize(
    ("at", "said"), [(1, "nothing is kept: there was no checkpoint yet"), (6_000, "kept up to step 4,096, its last")]
)
def test_a_run_in_turn_that_is_interrupted_says_how_far_it_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, at: int, said: str
) -> None:
    from backflip.api import start
    from backflip.fit import FitConfig
    from backflip.progress import Progress
    from backflip.settings import Settings

    settings = Settings("Pendulum-v1", "oracle", labels=12, steps=20_000, mode="in_turn", checkpoint_steps=4_000)
    run = start(replace(settings, fit=FitConfig(first_steps=10, steps=10)), tmp_path / "run")

    def interrupt(_: Progress) -> None:
        if run.told("act").get("steps", 0) >= at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", interrupt)
    with pytest.raises(SystemExit) as ended:
        call("resume", run.path)
    assert ended.value.code == 130
    assert said in (out := capsys.readouterr().out)
    assert f"stopped; go on with: backflip resume {run.path}" in out
    assert run.told("run")["state"] == "stopped"


def test_an_environment_that_draws_nothing_is_not_filmed(
    refused: Refused, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gymnasium as gym
    from gymnasium.envs.classic_control import PendulumEnv

    def bare() -> PendulumEnv:
        return PendulumEnv()

    made: Any = bare
    spec = gym.envs.registration.EnvSpec("Bare-v0", made, max_episode_steps=200)
    monkeypatch.setitem(gym.registry, "Bare-v0", spec)
    told = json.loads((copy / "run.json").read_text())
    told["settings"]["task"] = "Bare-v0"
    (copy / "run.json").write_text(json.dumps(told))
    assert "Bare-v0 takes no render_mode" in sentence(refused("evaluate", copy, "--video", "film.gif"))


@pytest.mark.parametrize(
    "name", ["film.gif", *(pytest.param(name, marks=pytest.mark.slow) for name in ("film.webp", "film.png"))]
)
def test_a_film_that_does_not_fit_on_the_disk_is_said_and_leaves_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_files: SmallFiles, name: str
) -> None:
    with pytest.raises(SystemExit) as ended, small_files(4_000):
        call("evaluate", trained, "--video", tmp_path / name)
    assert ended.value.code == 2
    assert f"{tmp_path / name} cannot be written (File too large)" in sentence(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_pictures_that_do_not_fit_on_the_disk_leave_those_before(
    copy: Path, capsys: pytest.CaptureFixture[str], small_files: SmallFiles
) -> None:
    call("show", copy)
    before = {file: file.read_bytes() for file in (copy / "plots").iterdir()}
    with pytest.raises(SystemExit) as ended, small_files(4_000):
        call("show", copy)
    assert ended.value.code == 2
    assert "returns.png cannot be written (File too large)" in sentence(capsys.readouterr().err)
    assert {file: file.read_bytes() for file in (copy / "plots").iterdir()} == before


def test_a_film_needs_a_folder_before_anything_is_played(refused: Refused, trained: Path) -> None:
    said = sentence(refused("evaluate", trained, "--video", "nowhere/film.webp"))
    assert said == "the folder nowhere of --video nowhere/film.webp does not exist; make it, or choose another"


@pytest.mark.slow
def test_a_run_in_turn_ends_cleanly_when_terminated(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "backflip",
        "train",
        "Pendulum-v1",
        *TINY[:-1],
        "100000000",
        "--run",
        tmp_path / "r",
    ]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    act = tmp_path / "r" / "now" / "act.json"
    give_up = time.monotonic() + 60
    while not (act.exists() and json.loads(act.read_text())["steps"] > 0):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert f"stopped; go on with: backflip resume {tmp_path / 'r'}" in said
    assert "Traceback" not in said
