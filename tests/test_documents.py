"""What the documents say exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def named_in(page: Path) -> list[str]:
    """Names like `module.function` in backquotes."""
    return sorted(set(re.findall(r"`([a-z_]+(?:\.\w+)+)`", page.read_text())))


@pytest.mark.parametrize("name", named_in(ROOT / "docs" / "method.md"))
def test_what_the_method_page_names_exists(name: str) -> None:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["backflip", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return
    pytest.fail(f"there is no {name}")


def test_the_method_page_names_many_functions() -> None:
    assert len(named_in(ROOT / "docs" / "method.md")) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_constraint_is_an_exact_version_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert lines == sorted(lines, key=str.lower)


def test_every_direct_dependency_is_constrained() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[\[<>=;]", one)[0].lower().replace("_", "-") for one in wanted} - {"backflip"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert names - locked == set()


def test_every_test_that_rules_out_a_defect_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "defects.md").read_text()))
    defined = {
        name for file in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 30
    assert named - defined == set()
