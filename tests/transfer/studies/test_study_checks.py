"""A study's directory from elsewhere: names and commands that no plan of ours has are refused in one line."""

import json
import shutil
from pathlib import Path

import pytest

from prune.runs.files import InputError
from transfer.__main__ import main
from transfer.studies.places import Splits
from transfer.studies.settings import Study
from transfer.studies.study_checks import is_inside, read_settings
from transfer.studies.study_plan import plan_of
from transfer.studies.task import read_plan, write_plan

STUDY = Study(
    source=Splits("../data/source/train", "../data/source/test"),
    targets={"pets": Splits("../data/pets/train", "../data/pets/test"), "b.1": Splits("x.train.beton", "x.test.beton")},
    guides=("pets",), methods=("full", "random", "dp4tl-lm", "winnow", "full-equal-compute", "random-equal-compute"),
    keeps=(0.2, 0.55), seeds=(0, 11), recipe="tiny", surrogate_recipe="tiny", surrogate_sample=0.5, side=None,
    evaluations=("probe", "few-shot-5", "finetune-5"), gate="0.35", full_lengths=(0.25,),
)  # fmt: skip
SETTINGS = {
    "format": "winnow-study-settings/1", "methods": ["full", "winnow"], "keeps": [0.2], "seeds": [0],
    "guides": ["pets"],
    "recipe": "tiny", "surrogate_recipe": "tiny", "surrogate_sample": 0.5, "margin": 0.5, "side": None, "floor": None,
    "source": {"train": "../a", "test": None}, "targets": {"pets": {"train": "../b", "test": "../c"}},
}  # fmt: skip


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "plan.jsonl").read_text().splitlines()]


def test_every_plan_of_ours_is_read_as_it_was_written(tmp_path):
    tasks = plan_of(STUDY)
    write_plan(tasks, tmp_path)
    assert [task.record() for task in read_plan(tmp_path)] == [task.record() for task in tasks]


def changed(record, **values):
    return {**record, **values}


def with_out(record, place):
    command = list(record["command"])
    command[command.index("--out") + 1] = place
    return {**record, "command": command}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: changed(r, name="../../home/x"), "name '../../home/x' is not a path of plain names"),
        (lambda r: changed(r, name="/etc/cron.d/x"), "name '/etc/cron.d/x'"),
        (lambda r: changed(r, out="../x.beton"), "out '../x.beton'"),
        (lambda r: changed(r, out=".bashrc"), "out '.bashrc'"),
        (lambda r: changed(r, needs=["../a"]), r"needs \['../a'\]"),
        (lambda r: changed(r, stage="x\x1b[2J"), r"stage 'x\\x1b\[2J'"),
        (lambda r: changed(r, level=-1), "level -1"),
        (lambda r: changed(r, command=["bash", "-c", "true"]), "'bash -c true' is not a step that a plan has"),
        (lambda r: changed(r, command=["python", "-m", "http.server", "x"]), "is not a step that a plan has"),
        (lambda r: changed(r, command=["python", "-m", "prune", "export", "--out", "x"]), "is not a step that"),
        (lambda r: changed(r, command="python -m prune write"), "a list of texts is expected"),
        (lambda r: with_out(r, "../../x.beton"), "--out '../../x.beton' of its command"),
        (lambda r: changed(r, command=[*r["command"], "--out=/tmp/x"]), "--out '/tmp/x' of its command"),
        (lambda r: changed(r, command=["python", "-m", "transfer", "study", "--out", "."]), "is not a step that"),
    ],
)  # fmt: skip
def test_a_line_of_a_plan_that_reaches_outside_is_refused_and_nothing_is_run(tmp_path, capsys, change, message):
    study = tmp_path / "a" / "study"
    study.mkdir(parents=True)
    write_plan(plan_of(STUDY), study)
    records = lines(study)
    records[1] = change(records[1])
    (study / "plan.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        read_plan(study)
    assert main(["study", "--out", str(study), "--task", "1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "study", "plan.jsonl"]


def test_an_output_behind_a_link_that_leaves_the_study_is_refused(tmp_path):
    study = tmp_path / "study"
    (tmp_path / "elsewhere").mkdir()
    study.mkdir()
    write_plan(plan_of(STUDY), study)
    (study / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="lies outside the study, behind a link"):
        read_plan(study)
    (study / "data").unlink()
    shutil.copytree(study, tmp_path / "moved")
    assert read_plan(tmp_path / "moved")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": ["../x"]}, r"seeds \['../x'\]: a list of numbers"),
        ({"targets": {"../x": {"train": "a", "test": "b"}}}, "'../x' is not a plain name"),
        ({"targets": []}, "targets"),
        ({"targets": {"pets": "photos"}}, "pets: the places of its train and test split"),
        ({"methods": "full"}, "methods 'full': a list of texts"),
        ({"margin": "x"}, "margin 'x': a number"),
        ({"uses": None}, "uses None: a number"),
        ({"recipe": ["tiny"]}, r"recipe \['tiny'\]"),
        ({"source": None}, "source: the places"),
        ({"format": "winnow-study-settings/9"}, "is not a study's settings file"),
    ],
)  # fmt: skip
def test_settings_that_no_study_has_are_refused_in_one_line(tmp_path, values, message):
    (tmp_path / "study.json").write_text(json.dumps({**SETTINGS, **values}))
    with pytest.raises(InputError, match=rf"study\.json: .*{message}|study\.json: {message}"):
        read_settings(tmp_path)


def test_settings_as_we_write_them_are_read():
    assert is_inside("ladder/probes/winnow-k0.2-s0/pets.v2")
    assert not any(map(is_inside, ("..", "a/..", "a/./b", "-x", "a b", "a\nb", "x" * 300, None, 3, "a/" * 20)))


def test_settings_with_every_field_are_read_as_they_are(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps(SETTINGS))
    assert read_settings(tmp_path) == SETTINGS
