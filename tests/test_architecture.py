"""Protects the house: who may import whom, as `docs/architecture.md` says, and a training step that can be followed."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
COMMON = {"errors", "identity", "schedule"}


def may_import() -> dict[str, set[str]]:
    """The table's rooms, and which others each may import."""
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", DOCUMENT, flags=re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", others)) for room, others in rows}


def folder(room: str) -> Path:
    return next(path for path in (ROOT / "facegm" / room, ROOT / room) if path.is_dir())


def imports_of(file: Path) -> set[str]:
    """What a file imports of the package, by the first name within it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from facegm.data import draws` and `from facegm.data.draws import load` are of one room.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("facegm.")} - {"__version__"}


@pytest.mark.parametrize("room", may_import())
def test_a_room_imports_those_of_its_row_alone(room: str) -> None:
    allowed = may_import()[room] | COMMON | {room}
    for file in folder(room).rglob("*.py"):
        assert imports_of(file) <= allowed, file


def test_every_room_has_a_row() -> None:
    packages = {file.parent.name for file in [*ROOT.glob("facegm/*/__init__.py"), *ROOT.glob("[aec]*/__init__.py")]}
    assert packages == set(may_import())


def test_the_common_ground_imports_nothing() -> None:
    for name in COMMON:
        assert imports_of(ROOT / "facegm" / f"{name}.py") == set()


def test_the_files_that_are_named_are_there() -> None:
    named = set(re.findall(r"`((?:facegm|align|eval|tests)/[\w/]+\.py)`", DOCUMENT))
    assert len(named) > 20
    assert all((ROOT / name).is_file() for name in named), [name for name in named if not (ROOT / name).is_file()]


def test_the_loop_is_short_and_its_step_says_what_it_does() -> None:
    text = (ROOT / "facegm" / "training" / "loop.py").read_text()
    assert len(text.splitlines()) < 150
    step = text[text.index("def _step") : text.index("def _exchange")]
    words = ["zero_grad", "inputs", "autocast", "backward", "unscale_", "clip_grad_norm_", "scaler.step"]
    words += ["average.update"]
    assert [word for word in words if word in step] == words
    assert sorted(words, key=step.index) == words
