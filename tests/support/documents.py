"""The pages of the manual, cut into what a test can try: fenced blocks, commands, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FRONT, MANUAL = ROOT / "README.md", ROOT / "docs"
PAGES = [FRONT, *sorted(MANUAL.glob("*.md"))]

_OPERATORS = re.compile(r"[;|&()]+$")
_LOOP = re.compile(r"\bfor (\w+) in ([^\s;]+)")
_ENVIRONMENT = re.compile(r"\$[A-Z_]+\b")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    line: int
    """Of its first line of text, from 1."""
    kind: str
    """What the fence says it is: bash, python, csv..."""
    is_run: bool
    """Whether it may be run; not where the fence says `no-run`."""
    text: str


def name_of(page: Path) -> str:
    """The page as seen from the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    start, words, lines = 0, [""], list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif start:
            found.append(Block(start, words[0], "no-run" not in words[1:], "\n".join(lines) + "\n"))
            start = 0
        else:
            start, words, lines = number + 1, line.removeprefix("```").split() or [""], []
    assert not start, f"the block that begins in line {start} has no end"
    return found


def commands(script: str) -> Iterator[list[str]]:
    """The arguments of each `facegm` that a shell script runs, in order.

    Of a loop they are those of its first round; a variable in capitals, such as a job's number, is 1.
    """
    script = _ENVIRONMENT.sub("1", script)
    for variable, first in _LOOP.findall(script):
        script = script.replace(f"${variable}", first)
    for line in script.replace("\\\n", " ").splitlines():
        found: list[str] | None = None
        for word in [*_words(line), ";"]:
            if _OPERATORS.match(word):
                if found is not None:
                    yield found
                found = None
            elif found is not None:
                found.append(word)
            elif word == "facegm":
                found = []


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&()")
    lexer.whitespace_split = True
    return list(lexer)


def mentions(text: str) -> Iterator[list[str]]:
    """The arguments of each `facegm` command within a sentence, such as `facegm inspect STORE`."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`(?:\S+=\S+ )*facegm ([^`]+)`", prose):
        yield span.split()


def links(text: str) -> list[str]:
    """The targets of links and pictures."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose))


def anchors(text: str) -> set[str]:
    """The names by which headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
