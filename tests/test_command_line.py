"""Bad input through the public commands: one clear line on standard error, exit code 2, nothing written."""

from __future__ import annotations

from importlib import import_module

import pytest

from prune.runs.files import atomic


@pytest.fixture(scope="module")
def places(toy, tmp_path_factory):
    """Names for the commands below: real files where they must exist, and things that are wrong."""
    import numpy as np
    import torch

    from prune import features, score
    from prune.models import networks

    root = tmp_path_factory.mktemp("bad")
    torch.manual_seed(0)
    classes = sorted(p.name for p in (toy.root / "data/source/train").iterdir())
    spec = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8]}, "stem": "half", "classes": classes,
            "resolution": 16, "mean": networks.MEAN, "std": networks.STD}  # fmt: skip
    networks.save_model(root / "model", networks.build(spec), spec)
    features.run(features.Config(model=root / "model", betons=(toy.source, toy.train), out=root / "features"))
    score.run(score.Config(source=(root / "features/source.features.npz",),
                           targets=(root / "features/train.features.npz",), out=root / "scores.npz"))  # fmt: skip
    (root / "empty").mkdir()
    (root / "one/only").mkdir(parents=True)
    (root / "one/only/a.png").write_bytes((toy.root / "data/source/train/disc/0000.jpg").read_bytes())
    (root / "text.npz").write_text("not an archive")
    np.savez(root / "foreign.npz", x=np.arange(3))
    return {"root": root, "toy": toy.root, "out": root / "out"}


STUDY = "transfer study --source {toy}/data/source --recipe tiny --out {out} --targets "
CASES = {
    "no step": ("prune polish", "no step 'polish'"),
    "write: wrong path": ("prune write --images {root}/nothing --out {out}/x.beton", "no such directory"),
    "write: empty folder": ("prune write --images {root}/empty --out {out}/x.beton", "no class folders"),
    "write: one class": ("prune write --images {root}/one --out {out}/x.beton", "holds one class, 'only'"),
    "verify: not a beton": ("prune verify {root}/text.npz", "too few for a beton"),
    "verify: nothing there": ("prune verify {root}/x.beton", "no such file"),
    "features: no model": ("prune features --model {root} --betons {toy}/source.beton --out {out}", "not a trained"),
    "features: no beton": ("prune features --model {root}/model --betons {root}/x.beton --out {out}", "no such file"),
    "score: damaged": ("prune score --source {root}/text.npz --targets {root}/text.npz --out {out}/s", "text.npz"),
    "score: foreign": ("prune score --source {root}/foreign.npz --targets {root}/text.npz --out {out}/s", "foreign"),
    "leaks: no features": ("prune leaks --source {root}/x.npz --tests {root}/x.npz --out {out}/l.json", "no such file"),
    "leaks: foreign": (
        "prune leaks --source {root}/foreign.npz --tests {root}/foreign.npz --out {out}/l.json",
        "foreign",
    ),
    "leaks: similar": (
        "prune leaks --source {root}/text.npz --tests {root}/text.npz --similar 2 --out {out}/l.json",
        "--similar 2",
    ),
    "select: keep 0": ("prune select --scores {root}/scores.npz --keep 0 --out {out}/x.index.npz", "keep"),
    "select: keep 1.5": ("prune select --scores {root}/scores.npz --keep 1.5 --out {out}/x.index.npz", "1.5"),
    "select: floor": ("prune select --scores {root}/scores.npz --keep .1 --floor 30 --out {out}/x.index.npz", "floor"),
    "select: method": (
        "prune select --scores {root}/scores.npz --method magic --keep 1 --out {out}/x.index.npz",
        "magic",
    ),
    "show: no index": ("prune show {root}/scores.npz", "winnow-index"),
    "pretrain: no beton": ("pretrain --beton {root}/x.beton --recipe tiny --out {out}", "no such file"),
    "pretrain: no recipe": ("pretrain --beton {toy}/source.beton --recipe huge --out {out}", "huge"),
    "pretrain: no index": (
        "pretrain --beton {toy}/source.beton --index x.npz --recipe tiny --out {out}",
        "no such file",
    ),
    "probe: no model": (
        "transfer probe --model {root} --train {toy}/train.beton --test {toy}/test.beton --out {out}",
        "not a trained",
    ),
    "study: no target": (STUDY + "x={root}/nothing", "nothing"),
    "study: empty target": (STUDY + "x={root}/empty", "empty"),
    "study: keep": (STUDY + "x={toy}/data/signs --keeps 2", "2"),
    "report: no study": ("transfer report --study {root}/empty", "empty"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_gets_one_line_and_exit_code_2(places, case, capsys):
    command, words = CASES[case]
    program, *arguments = command.format(**places).split()
    before = sorted(places["root"].rglob("*"))
    code = import_module(f"{program}.__main__").main(arguments)
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert words in captured.err
    assert sorted(places["root"].rglob("*")) == before


def test_a_wrong_flag_exits_with_code_2(capsys):
    with pytest.raises(SystemExit) as end:
        import_module("prune.__main__").main(["write", "--imagse", "x"])
    assert end.value.code == 2


def test_an_atomic_write_that_fails_leaves_what_was_there(tmp_path):
    place = tmp_path / "x.txt"
    place.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic(place) as partial:
        partial.write_text("half of it \ud800", encoding="utf-8")
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    ("out", "words"), [("file/x.index.npz", "a file lies where a folder is needed"), ("folder", "is a directory")]
)
def test_an_output_that_cannot_be_written_gets_one_line(places, tmp_path, out, words, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    scores = str(places["root"] / "scores.npz")
    command = ["select", "--scores", scores, "--keep", "0.5", "--out", str(tmp_path / out)]
    assert import_module("prune.__main__").main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1], said
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_mistake_that_all_processes_see_is_printed_once_and_that_of_one_process_by_that_process(monkeypatch, capsys):
    import torch.distributed as dist

    from prune.runs import command_line

    monkeypatch.setenv("RANK", "1")
    main = import_module("prune.__main__").main
    assert main(["show", "nothing.npz"]) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert main(["show", "nothing.npz"]) == 2
    assert capsys.readouterr().err.startswith("prune show, process 1: nothing.npz")
    assert command_line.sys.modules["torch.distributed"] is dist


@pytest.mark.parametrize("program", ["prune", "pretrain", "transfer", "winnow"])
def test_every_program_prints_its_version(program, capsys):
    from prune.index.version import VERSION

    assert import_module(f"{program}.__main__").main(["--version"]) == 0
    assert VERSION in capsys.readouterr().out
