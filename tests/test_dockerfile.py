"""The container's recipe: no rights over the machine, nothing of the checkout that does not belong, any command."""

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = [
    (line.split()[0], line.split(maxsplit=1)[1])
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == name]


def test_it_begins_with_a_named_version_of_python_that_the_package_takes() -> None:
    assert INSTRUCTIONS[0][0] == "FROM"
    version = re.fullmatch(r"python:(3\.\d+)-slim", arguments_of("FROM")[0])
    assert version
    assert f'"Programming Language :: Python :: {version[1]}"' in (ROOT / "pyproject.toml").read_text()


def test_what_runs_in_it_has_no_rights_over_the_machine() -> None:
    names = [name for name, _ in INSTRUCTIONS]
    last_user = len(names) - 1 - names[::-1].index("USER")
    assert INSTRUCTIONS[last_user][1] == "facegm"
    assert "useradd" in " ".join(arguments_of("RUN"))
    installs = names.index("RUN", last_user)
    assert "make" in INSTRUCTIONS[installs][1], "the package is installed by the user, too"
    assert "install" in INSTRUCTIONS[installs][1]


def test_it_runs_any_command_as_its_first_process() -> None:
    """In the form without a shell, so that SIGTERM reaches the command."""
    (entry,) = (json.loads(arguments) for arguments in arguments_of("ENTRYPOINT"))
    assert entry == ["/home/facegm/source/.venv/bin/facegm"]
    assert json.loads(arguments_of("CMD")[0]) == ["--help"]


@pytest.mark.parametrize("ignored", [".venv", "build", "dist", "facegm.egg-info", "runs", "stores", "facegm-demo"])
def test_what_git_does_not_keep_stays_out(ignored: str) -> None:
    patterns = (ROOT / ".dockerignore").read_text().split()
    assert any(fnmatch(ignored, pattern.removeprefix("**/")) for pattern in patterns)
    assert ".git" in patterns
    kept = ["facegm", "align", "eval", "configs", "Makefile", "pyproject.toml", "README.md", "LICENSE"]
    assert not [name for name in kept if any(fnmatch(name, pattern) for pattern in patterns)]
