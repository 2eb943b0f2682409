"""What the documents say is so: their commands parse, the files that they name exist, maps and tables match."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from prune.runs.exit_codes import MEANING

ROOT = Path(__file__).parent.parent
PACKAGES = ("prune", "pretrain", "transfer", "winnow")
NOT_OURS = {".venv", "runs", ".data", "build", "dist"}
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not NOT_OURS & set(p.relative_to(ROOT).parts))
PLANS = [p for p in DOCUMENTS if "results" not in p.parts and p.name != "CHANGELOG.md"]
"""Documents about the code as it is; tables of measurements and the changelog also name what was."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(document: str, heading: str) -> str:
    """The text below a heading of a document, up to the next one."""
    return re.split(r"^#+ ", text_of(document).split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def folders() -> set[str]:
    """Folders of the tree: those at the top and those of the packages, as `prune/index/`."""
    ours = [p for p in ROOT.iterdir() if p.is_dir() and p.name[0] != "." and p.name not in NOT_OURS]
    inside = [p for package in PACKAGES for p in (ROOT / package).rglob("*") if list(p.glob("*.py"))]
    return {f"{p.relative_to(ROOT)}/" for p in [*ours, *inside] if p.suffix != ".egg-info"}


def commands(document: Path) -> list[list[str]]:
    """Every prune, pretrain, transfer and winnow command in the document's shell blocks, as argument lists."""
    found = []
    for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\s*(?:[A-Z_]+=\S+\s+)*", "", line.split(" #")[0])
            line = re.sub(r"^(?:accelerate launch|torchrun)(?: --\S+(?: \d+)?)* -m ", "", line)
            line = re.sub(r"^(?:\S*python3? -m |\.venv/bin/)", "", line)
            words = shlex.split(line)
            if words and words[0] in PACKAGES:
                found.append(words)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_in_the_documents_parses(document):
    from prune.runs.command_line import parse

    for program, *arguments in commands(document):
        if program == "winnow":
            if not arguments or arguments[0] not in PACKAGES:
                continue
            program, *arguments = arguments
        main = import_module(f"{program}.__main__")
        if program == "pretrain":
            parse("pretrain", import_module("pretrain.train"), arguments)
        elif arguments and not arguments[0].startswith("-"):
            assert arguments[0] in main.STEPS, f"{document.name}: {program} {arguments[0]}"
            parse(program, import_module(main.STEPS[arguments[0]].split(":")[0]), arguments[1:])


def test_the_readme_shows_commands_of_all_programs():
    assert {words[0] for words in commands(ROOT / "README.md")} >= {"prune", "pretrain", "transfer"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(document):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / link).exists(), link


@pytest.mark.parametrize("document", PLANS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_document_names_exist(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(
        rf"`((?:{'|'.join((*PACKAGES, 'tests', 'docs', 'slurm', 'examples', 'install'))})/[\w./-]*)`", text
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_tables_and_functions_that_contributing_points_to_exist():
    named = set(re.findall(r"`(_?[A-Z][A-Z_]+|_[a-z]+)`", text_of("CONTRIBUTING.md")))
    assert {"SCORES", "WAYS", "_key"} <= named
    code = "\n".join(p.read_text(encoding="utf-8") for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
    assert {name for name in named if not re.search(rf"^(def )?{name}\b", code, re.MULTILINE)} == set()


def test_no_text_names_a_distribution_that_is_not_ours():
    texts = [*DOCUMENTS, *(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))]
    for path in texts:
        assert not re.search(
            r"pip install[^\n`]* '?winnow(?!-pretrain)\b|winnow\[", path.read_text(encoding="utf-8")
        ), path


def test_the_page_of_the_architecture_maps_every_folder():
    rows = re.findall(r"^\| `([^`]+/)` \| (.+) \|$", section("docs/architecture.md", "What is where"), re.MULTILINE)
    mapped = [name for name, _ in rows]
    assert len(mapped) == len(set(mapped))
    assert folders() - set(mapped) == set()
    assert [name for name in mapped if not (ROOT / name).is_dir()] == []


def floors() -> dict[str, int]:
    """Folders of the picture in docs/architecture.md and the line on which each stands."""
    picture = re.search(r"```text\n(.*?)```", text_of("docs/architecture.md"), re.DOTALL)
    assert picture
    found: dict[str, int] = {}
    package = ""
    for number, line in enumerate(picture[1].splitlines()):
        head = re.match(r"\s*(?:[a-z_]+/ *)+", line)
        for name in re.findall(r"[a-z_]+/", head[0]) if head else ():
            package = package if line.startswith(" ") else name
            place = name if name == package else package + name
            assert place not in found, place
            found[place] = number
    return found


def test_the_picture_of_the_house_has_every_folder_of_the_packages():
    assert set(floors()) == {name for name in folders() if name.split("/")[0] in PACKAGES}


def test_every_import_points_down_the_picture_of_the_house():
    place = floors()
    modules = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
    wrong = []
    for path in modules:
        here = f"{path.parent.relative_to(ROOT)}/"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                parts = (node.module or "").split(".")
                there = "/".join(parts if (ROOT / "/".join(parts)).is_dir() else parts[:-1]) + "/"
                if there in place and there != here and place[there] <= place[here]:
                    wrong.append(f"{path.relative_to(ROOT)}: {node.module}")
    assert wrong == []


def test_the_page_of_exit_codes_is_the_table_that_the_commands_use():
    rows = re.findall(r"^\| (\d+) \| ([^|]+?) \|", text_of("docs/exit-codes.md"), re.MULTILINE)
    assert [(int(code), meaning) for code, meaning in rows] == [(int(code), what) for code, what in MEANING.items()]
