"""The pages' scripts fit together: what one takes from another is there."""

import re
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[1] / "src" / "backflip" / "web" / "static"
SCRIPTS = sorted(file for file in STATIC.rglob("*.js") if "vendor" not in file.parts)
IMPORT = re.compile(r"import\s*\{([^}]*)\}\s*from\s*\"([^\"]+)\"")
EXPORT = re.compile(r"export\s+(?:async\s+)?(?:function\*?|class|const|let)\s+(\w+)")


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 20


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.relative_to(STATIC).as_posix())
def test_what_a_script_takes_from_another_is_there(script: Path) -> None:
    for names, place in IMPORT.findall(script.read_text()):
        given = set(EXPORT.findall((script.parent / place).read_text()))
        wanted = {name.split(" as ")[0].strip() for name in names.split(",")} - {""}
        assert wanted <= given, place
