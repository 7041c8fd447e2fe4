"""The front page and the manual: their code runs, their commands are understood, and their links lead somewhere."""

import json
import re
import shutil
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
from documents import FRONT, MANUAL, PAGES, ROOT, Block, anchors, blocks, commands, links, mentions, name_of
from reader import furnish
from verb_parsers import complaint, options_of

from facegm.cli import VERBS, main

KINDS = {"bash", "csv", "nginx", "python"}
"""What a fence may say that it holds."""
NOT_RUN: dict[str, int] = {}
"""How many blocks of a page are marked `no-run`; each is a decision."""
CHEAP = {"inspect", "match", "embed", "enroll", "search", "export"}
"""Verbs that take seconds on a few photos: their commands are not just read, but run."""
MOST_LINES = 200
NOTEBOOK = MANUAL / "first_steps.ipynb"

pytestmark = pytest.mark.usefixtures("quick_workers")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    furnish(folder, small_store)
    return folder


@pytest.fixture
def reader(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a page's own, with all that the manual's examples name; the working folder."""
    folder = tmp_path / "reader"
    shutil.copytree(furnished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return folder


def run_python(text: str, namespace: dict[str, Any], page: Path, line: int) -> None:
    """Run it as if it stood in the page's line, which is what a traceback names."""
    exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_runs_from_top_to_bottom(page: Path, reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text()):
        if block.kind == "python" and block.is_run:
            run_python(block.text, namespace, page, block.line)
        elif block.kind == "bash" and block.is_run:
            for arguments in commands(block.text):
                if arguments[0] in CHEAP:
                    code = main(arguments)
                    assert code == 0, f"facegm {' '.join(arguments)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_read_by_their_own_parsers(page: Path) -> None:
    text = page.read_text()
    for block in blocks(text):
        for arguments in commands(block.text) if block.kind == "bash" else ():
            said = complaint(arguments)
            assert said is None, f"{name_of(page)}:{block.line}: facegm {' '.join(arguments)}: {said}"
    for verb, *rest in mentions(text):
        options = {option.partition("=")[0] for option in rest if option.startswith("--")}
        assert verb.startswith("-") or verb in {*VERBS, "NAME", "COMMAND"}, f"{name_of(page)}: facegm {verb}"
        assert not options or options <= options_of(verb), f"{name_of(page)}: facegm {verb} {options}"


@pytest.mark.parametrize(
    "wrong",
    [
        "facegm alignn photos --output store",
        "facegm align photos --out store",
        "facegm align photos",
        "torchrun --nproc_per_node=8 facegm train --config casia.yaml --train.epoch=3",
        "facegm train --config casia.yaml --train.epochs=many",
        "facegm train --config mnist.yaml --data.store=stores/mine",
        "facegm train --config nowhere.yaml",
        "facegm train --resume run --train.epochs=3",
        "facegm attack run --lfw lfw --epsilon 0.1",
        "for seed in 0 1; do facegm demo --seed $other; done",
        "make demo && RAY_ADDRESS=head facegm align photos --output store --engine rays",
    ],
)
def test_a_wrong_command_is_found(wrong: str) -> None:
    assert any(complaint(arguments) for arguments in commands(wrong))


def test_commands_are_found_wherever_they_stand_in_a_script() -> None:
    script = (
        "# facegm align is not run here\nfor seed in 3 4; do\n    facegm demo --seed $seed  # facegm\ndone\n"
        "make x && facegm inspect \\\n    'a store'; (RAY=1 facegm verify-lfw $run | tee facegm.log)\n"
        "pip install facegm-x\n"
    )
    assert list(commands(script)) == [["demo", "--seed", "3"], ["inspect", "a store"], ["verify-lfw", "$run"]]


def test_blocks_mentions_and_links_of_a_page_are_found() -> None:
    page = (
        "# A *b* c\nsee [it](x.md#a-b-c), not `[y](y.md)`; `facegm demo --seed 1`, `RAY=1 facegm align`, `make demo`\n"
        "```python no-run\n[z](z.md)\n```\n![p](p.svg)\n```bash\nfacegm train\n```\n"
    )
    assert blocks(page) == [Block(4, "python", False, "[z](z.md)\n"), Block(8, "bash", True, "facegm train\n")]
    assert list(mentions(page)) == [["demo", "--seed", "1"], ["align"]]
    assert links(page) == ["x.md#a-b-c", "p.svg"]
    assert anchors(page) == {"a-b-c"}
    with pytest.raises(AssertionError, match="begins in line 8 has no end"):
        blocks(page.removesuffix("```\n"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_can_be_read(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    found = blocks(text)
    unknown = [f"{name_of(page)}:{block.line}: ```{block.kind}" for block in found if block.kind not in KINDS]
    assert not unknown, f"say what a block holds: one of {', '.join(sorted(KINDS))}"
    assert sum(not block.is_run for block in found) == NOT_RUN.get(name_of(page), 0)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{name_of(page)}: {target}"


def test_the_index_has_every_page() -> None:
    index = MANUAL / "README.md"
    linked = {(MANUAL / target).resolve() for target in links(index.read_text())}
    assert {*PAGES, NOTEBOOK} - {index} <= linked


def test_the_front_page_names_every_command() -> None:
    named = set(re.findall(r"`(?:facegm )?([\w-]+)`", FRONT.read_text()))
    assert set(VERBS) <= named


def test_the_manual_says_what_each_extra_brings() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (MANUAL / "installing.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(metadata("facegm").get_all("Provides-Extra") or [])


def test_the_notebook_runs_from_top_to_bottom(reader: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        run_python("".join(cell["source"]), namespace, NOTEBOOK, 1)
