"""What other programs call."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TINY: dict[str, Any] = {"teacher": "oracle", "preset": "paper", "labels": 12, "steps": 5_000}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import backflip

    path = tmp_path_factory.mktemp("api") / "run"
    return backflip.train("Pendulum-v1", **TINY, run=path, log=("tensorboard",))


def test_training_gives_the_run_directory_with_a_policy_a_reward_and_measurements(run: Path) -> None:
    from backflip.rundir import RunDir

    directory = RunDir.open(run)
    assert directory.newest("act")
    assert directory.newest("fit")
    assert directory.newest("reward")
    assert directory.told("run")["state"] == "finished"
    assert directory.told("act")["steps"] >= TINY["steps"]
    names = {line["name"] for line in directory.metrics()[0]}
    assert {"act/true_return", "ask/labels", "fit/train_loss"} <= names


def test_measurements_went_where_they_should_beside_the_run_directory(run: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    from backflip.rundir import RunDir

    (file,) = (run / "tensorboard").iterdir()
    found = [
        (value.tag, event.step) for event in LegacyEventFileLoader(str(file)).Load() for value in event.summary.value
    ]
    assert len(found) > 10
    assert found == [(line["name"], line["step"]) for line in RunDir.open(run).metrics()[0]]


def test_the_budget_of_labels_is_spent_and_not_exceeded(run: Path) -> None:
    from backflip.rundir import RunDir

    store = RunDir.open(run).store()
    assert store.counts().labels == TINY["labels"]
    store.close()


@pytest.mark.parametrize("lead", [(), (1,), (7,), (4, 3), (2, 1, 5)], ids=str)
def test_a_loaded_reward_takes_any_leading_shape(run: Path, lead: tuple[int, ...]) -> None:
    import backflip

    reward = backflip.load_reward(run)
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(size=(*lead, 3)).astype("f4"), rng.normal(size=(*lead, 1)).astype("f4")
    found = reward(observations, actions)
    assert found.shape == lead
    assert found.dtype == np.float32
    flat = reward(observations.reshape(-1, 3), actions.reshape(-1, 1))
    np.testing.assert_allclose(np.ravel(found), flat, rtol=1e-5, atol=1e-6)


def test_a_loaded_reward_takes_double_precision(run: Path) -> None:
    import backflip

    assert np.isfinite(backflip.load_reward(run)(np.zeros((2, 3)), np.zeros((2, 1)))).all()


def test_a_loaded_reward_takes_lists(run: Path) -> None:
    import backflip

    reward = backflip.load_reward(run)
    assert reward([[1, 0, 0], [0, 1, 0]], [[0], [1]]).tolist() == reward(np.eye(3)[:2], np.eye(2)[:, 1:]).tolist()


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (np.zeros((5, 4)), np.zeros((5, 1))),
        (np.zeros((3, 2)), np.zeros((2, 1))),
        (np.zeros((2, 3)), np.zeros(2)),
        (np.zeros((2, 3)), np.zeros((1, 1))),
        (0.0, np.zeros(1)),
        ({"angle": np.zeros(3)}, np.zeros(1)),
    ],
    ids=str,
)
def test_a_loaded_reward_says_which_shapes_it_reads(run: Path, observations: Any, actions: Any) -> None:
    import backflip

    with pytest.raises(ValueError, match=r"observations have the shape .*; this r̂ reads \(3,\) and \(1,\)"):
        backflip.load_reward(run)(observations, actions)


def test_a_loaded_reward_of_choices_takes_them_as_numbers_or_in_a_column(tmp_path: Path) -> None:
    import backflip
    from backflip.reward import Inputs, RewardEnsemble

    RewardEnsemble(Inputs((4,), 3, discrete=True, first_action=2)).save(tmp_path / "reward.safetensors")
    reward = backflip.load_reward(tmp_path)
    column = reward(np.zeros((3, 4)), [[2], [3], [4]])
    assert [float(reward(np.zeros(4), choice)) for choice in (2, 3, 4)] == pytest.approx(column.tolist())
    with pytest.raises(ValueError, match=r"actions \(2,\); this r̂ reads \(4,\) and \(\) with"):
        reward(np.zeros((3, 4)), [2, 3])


def test_a_loaded_reward_is_the_newest_one_and_may_be_named_by_a_string(run: Path) -> None:
    import backflip
    from backflip.reward import RewardEnsemble
    from backflip.rundir import RunDir

    newest = RunDir.open(run).newest("reward")
    assert newest
    saved = RewardEnsemble.load(newest.path / "reward.safetensors")
    observations, actions = np.ones((4, 3), np.float32), np.zeros((4, 1), np.float32)
    np.testing.assert_array_equal(
        backflip.load_reward(str(run))(observations, actions), saved.reward(observations, actions)
    )


def test_whoever_watches_is_called_with_the_run(tmp_path: Path) -> None:
    import backflip

    seen: list[Any] = []
    path = backflip.train("Pendulum-v1", **{**TINY, "steps": 1}, run=tmp_path / "run", watch=seen.append)
    assert seen
    assert {watched.path for watched in seen} == {path}


def test_any_setting_can_be_given(tmp_path: Path) -> None:
    import backflip
    from backflip.fit import FitConfig
    from backflip.rundir import RunDir

    fit = FitConfig(first_steps=3, steps=2)
    path = backflip.train("Pendulum-v1", **{**TINY, "steps": 1}, run=tmp_path / "run", fit=fit, segment_steps=7)
    settings = RunDir.open(path).settings
    assert settings["fit"]["first_steps"] == 3
    assert settings["segment_steps"] == 7


@pytest.mark.parametrize(
    ("task", "policy"), [("Pendulum-v1", "sac"), pytest.param("CartPole-v1", "ppo", marks=pytest.mark.slow)]
)
def test_without_a_preset_a_task_has_the_fast_one_where_it_can_act(tmp_path: Path, task: str, policy: str) -> None:
    import backflip
    from backflip.experiments import PRESETS
    from backflip.rundir import RunDir

    path = backflip.train(task, teacher="oracle", steps=1, run=tmp_path / "run")
    settings = RunDir.open(path).settings
    preset = PRESETS["fast" if policy == "sac" else "paper"]
    assert settings["policy"] == policy
    assert (settings["labels"], settings["segment_steps"]) == (preset.labels, preset.segment_steps)


def test_a_policy_learns_by_sac_where_that_is_wanted(tmp_path: Path) -> None:
    import backflip
    from backflip.fit import FitConfig
    from backflip.policies.sac import SACConfig

    small: dict[str, Any] = {
        "sac": SACConfig(environments=4, batch=32, width=32, random_steps=800),
        "fit": FitConfig(first_steps=20),
    }
    path = backflip.train("Pendulum-v1", **{**TINY, "preset": "fast", "steps": 2_000}, **small, run=tmp_path / "run")
    assert np.isfinite(backflip.load_reward(path)(np.zeros((2, 3)), np.zeros((2, 1)))).all()


def test_a_policy_that_cannot_act_in_a_task_is_refused(tmp_path: Path) -> None:
    import backflip

    with pytest.raises(ValueError, match="CartPole-v1 has actions that are not numbers with bounds, as SAC needs them"):
        backflip.train("CartPole-v1", **{**TINY, "preset": "fast"}, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    import gymnasium as gym

    import backflip

    class Pictures(gym.Env[np.ndarray, np.ndarray]):
        observation_space = gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
        action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    gym.register("OnlyPixels-v0", lambda **_: Pictures())
    try:
        with pytest.raises(ValueError, match=r"the shape \(210, 160, 3\), 100,800 numbers; .*no images"):
            backflip.train("OnlyPixels-v0", **TINY, run=tmp_path / "run")
    finally:
        del gym.registry["OnlyPixels-v0"]
    assert not (tmp_path / "run").exists()


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    import backflip

    with pytest.raises(ValueError, match="no preset is called 'quick'; there are: fast, paper"):
        backflip.train("Pendulum-v1", **{**TINY, "preset": "quick"}, run=tmp_path / "run")


def test_an_oracle_is_refused_where_there_is_no_true_reward(tmp_path: Path) -> None:
    import backflip

    with pytest.raises(ValueError, match=r"hopper-backflip has no reward .*; it is taught by people: --teacher people"):
        backflip.train("hopper-backflip", **TINY, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_where_there_is_a_script_an_oracle_is_referred_to_it(tmp_path: Path) -> None:
    import backflip

    with pytest.raises(ValueError, match="or by a script in their place: --teacher scripted"):
        backflip.train("cheetah-one-leg", **TINY, run=tmp_path / "run")


@pytest.mark.parametrize("task", ["walker", "Pendulum-v1"])
def test_a_scripted_teacher_is_refused_where_there_is_no_script(tmp_path: Path, task: str) -> None:
    import backflip

    with pytest.raises(ValueError, match=rf"{task} has no script .* in a person's place; use --teacher oracle"):
        backflip.train(task, teacher="scripted", labels=12, steps=5_000, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_reward_yet_says_so(tmp_path: Path) -> None:
    import backflip
    from backflip.api import start
    from backflip.rundir import RunError
    from backflip.settings import Settings

    directory = start(Settings(task="Pendulum-v1", teacher="oracle", mode="in_turn"), tmp_path / "run")
    with pytest.raises(RunError, match="has no reward yet; it needs some answers first"):
        backflip.load_reward(directory.path)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import backflip

    with pytest.raises(AttributeError, match="no attribute 'retrain'"):
        _ = backflip.retrain


@pytest.mark.parametrize("module", ["backflip", "backflip.cli", "backflip.web.server"])
def test_importing_needs_neither_torch_nor_gymnasium(module: str) -> None:
    program = f"import sys, {module}; sys.exit(', '.join({{'torch', 'gymnasium', 'mujoco'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_and_begins_one_run_only(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f'import backflip\n\nbackflip.train("Pendulum-v1", mode="at_once", **{TINY})\n')
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"PartDied: .* failed before it began, .* if __name__ == .__main__.:\n$", done.stderr)
    assert len(list((tmp_path / "runs").iterdir())) == 1
