"""Every measurement is explained, and everything explained is measured."""

import re
from pathlib import Path

import pytest

import backflip
from backflip.fit import FitConfig
from backflip.loop import in_turn
from backflip.policies.ppo import PPOConfig
from backflip.policies.sac import SACConfig
from backflip.queries import AskConfig
from backflip.rundir import RunDir
from backflip.settings import Algorithm, Settings

SOURCE = Path(backflip.__file__).parent
DOCUMENT = SOURCE.parents[1] / "docs" / "metrics.md"
NAME = r"(?:act|ask|fit|run)/[a-z0-9_]+"


@pytest.fixture(scope="module")
def explained() -> list[str]:
    return re.findall(rf"^\| `({NAME})` \|", DOCUMENT.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def only_at_once() -> list[str]:
    """Names that the document says are measured only elsewhere: at once, for new behaviours, for language models."""
    return re.findall(
        rf"^\| `({NAME})` \|.*\((?:at_once|novel behaviours|language models|language models and at_once) only\) \|$",
        DOCUMENT.read_text(),
        re.MULTILINE,
    )


def _quoted(suffix: str) -> dict[str, str]:
    """Every name in quotes in files of a kind, and a file that has it."""
    found: dict[str, str] = {}
    for file in SOURCE.rglob(f"*{suffix}"):
        if "vendor" not in file.parts:
            found |= dict.fromkeys(re.findall(rf"""["'`]({NAME})["'`]""", file.read_text()), file.name)
    return found


def test_each_name_is_explained_once(explained: list[str]) -> None:
    assert len(explained) > 10
    assert len(set(explained)) == len(explained)


def test_names_in_the_code_are_those_in_the_document(explained: list[str]) -> None:
    assert sorted(_quoted(".py")) == sorted(explained)


def test_the_page_shows_only_what_is_measured(explained: list[str]) -> None:
    unknown = {name: file for name, file in _quoted(".js").items() if name not in explained}
    assert unknown == {}


def _only(policy: str) -> set[str]:
    """Names that the document says one algorithm alone measures."""
    return set(re.findall(rf"^\| `({NAME})` \|.*\({policy.upper()}\) \|$", DOCUMENT.read_text(), re.MULTILINE))


@pytest.mark.parametrize(("policy", "other"), [("ppo", "sac"), pytest.param("sac", "ppo", marks=pytest.mark.slow)])
def test_a_run_records_everything_that_is_explained(
    explained: list[str], only_at_once: list[str], tmp_path: Path, policy: Algorithm, other: str
) -> None:
    settings = Settings(
        "Pendulum-v1",
        teacher="oracle",
        labels=24,
        steps=21_000,
        mode="in_turn",
        policy=policy,
        segment_steps=20,
        evaluate_steps=20_000,
        evaluate_episodes=1,
        ppo=PPOConfig(epochs=1),
        sac=SACConfig(updates_per_step=0.01, batch=16, width=16),
        fit=FitConfig(first_steps=60, steps=5),
        ask=AskConfig(half_life=1e4),
    )
    run = RunDir.create(tmp_path / "run", settings.to_dict())
    in_turn(run)
    lines, _ = run.metrics()
    assert {line["name"] for line in lines} == set(explained) - set(only_at_once) - _only(other)
    assert all(abs(line["value"]) < float("inf") for line in lines)
    labels = [line["value"] for line in lines if line["name"] == "ask/labels"]
    assert labels[-1] == 24
