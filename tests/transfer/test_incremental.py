"""`transfer incremental` and `transfer stream` from betons to pages; killed anywhere, they resume to the same end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pretrain import preemption
from pretrain.learner import Learner
from prune.byte_budget.learned_codec import LearnedCodec
from prune.data.dataset import open_dataset
from prune.data.jpeg_tables import JpegTables
from prune.runs.files import InputError, read_json
from transfer import incremental, stream
from transfer.continual import class_learner, exemplars, stream_memory, stream_run
from transfer.continual.exemplar_form import Form

pytestmark = pytest.mark.slow

FORMS = ("raw", "compressed", "same-codec")


class Killed(BaseException):
    """Nothing in the code catches it."""


def settings(toy, out: Path) -> incremental.Config:
    return incremental.Config(
        toy.train,
        toy.test,
        out,
        memory=("8raw",),
        forms=("raw", "same-codec"),
        seeds=(0,),
        tasks=2,
        recipe="tiny",
        steps=3,
        resolution=16,
        batch_size=16,
        quality=40,
        threads=1,
        checkpoint_minutes=0,
    )


def without_times(text: str) -> dict:
    """A result without its seconds."""
    found = json.loads(text)
    for cell in found.get("cells", [found]):
        for record in cell["records"]:
            record.pop("seconds", None)
    return found


@pytest.fixture(scope="module")
def done(toy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("incremental") / "whole"
    incremental.run(settings(toy, out))
    return out


def test_every_run_records_accuracy_forgetting_and_bytes_for_each_task(toy, done):
    result = read_json(done / "result.json")
    classes = len(open_dataset(toy.train).manifest.classes)
    assert [cell["form"] for cell in result["cells"]] == ["raw", "same-codec"]
    for cell in result["cells"]:
        assert [record["task"] for record in cell["records"]] == [1, 2]
        assert cell["records"][-1]["classes"] == classes == sum(map(len, cell["classes"]))
        for record in cell["records"]:
            assert 0 < record["bytes"] <= 8 * 16 * 16 * 3 == cell["memory"]
        for head in ("linear", "nearest-mean"):
            found = cell["heads"][head]
            assert found["value"] == pytest.approx(np.mean(found["accuracies"]))
            assert found["forgetting"][1] == pytest.approx(found["matrix"][0][0] - found["matrix"][1][0])
    raw, same = (cell["records"] for cell in result["cells"])
    assert raw[-1]["exemplars"] == 8
    assert raw[1]["replayed"] == raw[0]["exemplars"]  # what was remembered is replayed
    assert same[-1]["exemplars"] > 8  # equal bytes hold more of them


def test_the_page_shows_every_run_and_asks_for_nothing(done, browser):
    browser.open(done / "report.html")
    assert browser.complaints() == []
    assert [address for address in browser.requests() if not address.startswith("data:")] == [
        (done / "report.html").resolve().as_uri()
    ]
    assert browser.run("document.querySelectorAll('.chart svg').length > 0")
    text = browser.run("document.querySelector('table').innerText")
    assert "raw" in text
    assert "same-codec" in text


def test_the_same_command_again_returns_at_once_and_other_settings_are_refused(toy, done, capsys):
    before = {place: place.stat().st_mtime_ns for place in done.rglob("*")}
    incremental.run(settings(toy, done))
    assert "up to date" in capsys.readouterr().err
    assert {place: place.stat().st_mtime_ns for place in done.rglob("*")} == before
    with pytest.raises(InputError, match="steps: 3 -> 4"):
        incremental.run(replace(settings(toy, done), steps=4))


@pytest.mark.parametrize("moment", ["in a step of the second task", "between training and memory", "while saving"])
def test_a_killed_run_resumes_to_the_same_end(toy, done, tmp_path, monkeypatch, moment):
    config = replace(settings(toy, tmp_path / "run"), forms=("same-codec",))
    calls = []

    def killing(function, at):
        def called(*arguments, **named):
            calls.append(function)
            if len(calls) == at:
                raise Killed
            return function(*arguments, **named)

        return called

    with monkeypatch.context() as patch:
        if moment == "in a step of the second task":
            patch.setattr(Learner, "step", killing(Learner.step, 5))
        elif moment == "between training and memory":
            patch.setattr(exemplars, "exemplar_order", killing(exemplars.exemplar_order, 2))
        else:
            patch.setattr(exemplars.Exemplars, "save", killing(exemplars.Exemplars.save, 2))
        with pytest.raises(Killed):
            incremental.run(config)
    incremental.run(config)
    name = "cells/same-codec-6144-s0"
    assert without_times((config.out / name / "result.json").read_text()) == without_times(
        (done / name / "result.json").read_text()
    )
    files = [(place / name / "task-02" / "model.safetensors").read_bytes() for place in (done, config.out)]
    assert files[0] == files[1]


def test_the_quality_can_be_chosen_by_the_effective_count(toy, tmp_path):
    out = tmp_path / "auto"
    incremental.run(replace(settings(toy, out), forms=("compressed",), quality=0))
    records = read_json(out / "cells/compressed-6144-s0/result.json")["records"]
    table = records[0]["choice"]
    best = max(table, key=lambda line: line["effective"])
    assert records[0]["quality"] == records[1]["quality"] == best["quality"]
    for line in table:
        assert line["effective"] <= line["equivalent"]
    assert [line["bytes"] for line in table] == sorted((line["bytes"] for line in table), reverse=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": 99}, "--tasks 99"),
        ({"memory": ("much",)}, "--memory much"),
        ({"quality": 101}, "--quality 101"),
        ({"rank": "magic"}, "--rank magic"),
        ({"epochs": 1.0}, "give one budget"),
        ({"recipe": "simsiam-rn18"}, "supervised"),
        ({"seeds": ()}, "--seeds"),
        ({"distillation": float("nan")}, "--distillation nan"),
        ({"checkpoint_minutes": float("nan")}, "--checkpoint-minutes nan"),
        ({"memory": ("8raw", "100")}, "--memory 100: shared headers alone take"),
        ({"memory": ("100",), "quality": 0}, "--memory 100: shared headers alone take"),
        ({"memory": ("700",)}, "--memory 700: one raw image takes 768 bytes"),
        ({"test": Path("nothing.beton")}, "nothing.beton"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(toy, tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        incremental.run(replace(settings(toy, tmp_path / "out"), **change))
    assert not (tmp_path / "out").exists()


def test_every_image_of_a_same_codec_run_shares_a_chosen_quality(toy, tmp_path, monkeypatch):
    seen, learn = [], class_learner.learn

    def noted(network, pool, *arguments, **named):
        seen.append(pool)
        return learn(network, pool, *arguments, **named)

    monkeypatch.setattr(class_learner, "learn", noted)
    for form in ("raw", "same-codec"):
        incremental.run(replace(settings(toy, tmp_path / form), forms=(form,), quality=0))
    records = read_json(next((tmp_path / "same-codec").glob("cells/*/result.json")))["records"]
    best = max(records[0]["choice"], key=lambda line: line["effective"])
    assert [record["quality"] for record in records] == [best["quality"]] * 2
    assert "choice" not in records[1]
    form = Form("jpeg", best["quality"], 16)
    for raw, same, record in zip(seen[:2], seen[2:], records):
        new = record["new_images"]
        np.testing.assert_array_equal(same.images[:new], form.round_trip(raw.images[:new]))


@pytest.mark.parametrize("step", ["incremental", "stream"])
def test_several_processes_are_refused_and_nothing_is_written(toy, tmp_path, monkeypatch, step):
    monkeypatch.setenv("WORLD_SIZE", "2")
    module, config = {"incremental": (incremental, settings), "stream": (stream, stream_settings)}[step]
    with pytest.raises(InputError, match="started with 2 processes"):
        module.run(config(toy, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_a_run_where_it_can_resume_and_the_note_says_so(toy, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(class_learner, "predictions", signalled(class_learner.predictions, patch))
        with pytest.raises(preemption.Requeue):
            incremental.run(replace(settings(toy, tmp_path / "a"), forms=("raw",)))
    assert "stopping on a signal after task 1; the same command resumes" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(class_learner, "predictions", signalled(class_learner.predictions, patch))
        with pytest.raises(preemption.Requeue):
            stream.run(replace(stream_settings(toy, tmp_path / "b"), policies=("raw",)))
    assert "raw-s0: stopping on a signal; the same command resumes after round 1" in capsys.readouterr().err
    stream.run(replace(stream_settings(toy, tmp_path / "b"), policies=("raw",)))
    assert "resuming after 12 samples" in capsys.readouterr().err


def signalled(function, patch):
    """The function, in whose course a signal comes."""

    def called(*arguments):
        patch.setattr(preemption, "stop_requested", lambda: True)
        return function(*arguments)

    return called


def test_wrong_sizes_codecs_qualities_and_numbers_of_tasks_are_refused_without_torch(toy, tmp_path):
    splits = ["--train", str(toy.train), "--test", str(toy.test), "--out", str(tmp_path / "out"), "--recipe", "tiny"]
    cases = {
        "--memory 6QB: bytes (6MB": ["stream", "--memory", "6QB"],
        "--memory 5: shared headers alone take": ["stream", "--memory", "5"],
        "--codec jpegg: jpeg, webp": ["stream", "--memory", "1MB", "--codec", "jpegg"],
        "--rank el2m: herding": ["stream", "--memory", "1MB", "--rank", "el2m"],
        "--write-limit 0: bytes (6MB": ["stream", "--memory", "1MB", "--write-limit", "0"],
        "quality 101: 1 to 100": ["stream", "--memory", "1MB", "--quality", "101"],
        "--memory 7: one raw image takes": ["incremental", "--memory", "7", "--forms", "raw"],
        "--codec gif: jpeg, webp": ["incremental", "--memory", "1MB", "--codec", "gif"],
        "--tasks 999: there are": ["incremental", "--memory", "1MB", "--tasks", "999"],
    }
    program = (
        "import json, sys\nfrom transfer.__main__ import main\n"
        "for argv in json.load(sys.stdin):\n    assert main(argv) == 2\nassert 'torch' not in sys.modules"
    )
    (tmp_path / "afile").write_text("mine")
    out = ["--out", str(tmp_path / "afile")]  # the last of two counts
    cases |= {
        f"{tmp_path}/afile: is a file; --out must": ["stream", "--memory", "1MB", *out],
        f"{tmp_path / 'afile'}: is a file;": ["incremental", "--memory", "1MB", *out],
    }
    given = json.dumps([[step, *splits, *flags] for step, *flags in cases.values()])
    done = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(cases)
    for line, (message, (step, *_)) in zip(lines, cases.items()):
        assert f"{step}: {message}" in line, line
    assert not (tmp_path / "out").exists()


def test_without_a_ladder_that_of_the_codec_is_taken_and_a_typed_one_must_fit_it(toy, tmp_path):
    pytest.importorskip("constriction")
    place = tmp_path / "learned.safetensors"
    LearnedCodec(
        np.full((192, 1), 4, np.int8), np.array([1 / 64], np.float32), np.full(192, 100, np.uint8),
        np.full((3, 1), 0.5, np.float32), np.full((3, 1), 3, np.uint16), np.tile(np.array([2, 1, 1, 1], np.uint8), 3),
        (10, 90, 40),
    ).save(place, {})  # fmt: skip
    config = replace(stream_settings(toy, tmp_path / "out"), codec=str(place))
    assert stream._checked(config).ladder == (90, 40, 10)
    assert stream._checked(replace(config, codec="jpeg")).ladder == (75, 45, 20, 10)
    assert stream._checked(replace(config, ladder=(40, 10))).ladder == (40, 10)
    with pytest.raises(InputError, match=r"--ladder 75: this codec has 10 90 40"):
        stream.run(replace(config, ladder=(75, 10)))
    stream.run(replace(config, policies=("adaptive",)))
    assert read_json(tmp_path / "out" / "result.json")["config"]["ladder"] == [90, 40, 10]


def stream_settings(toy, out: Path) -> stream.Config:
    return stream.Config(
        toy.train,
        toy.test,
        out,
        memory="8000",
        policies=("raw", "adaptive"),
        seeds=(0,),
        every=12,
        steps=2,
        per_class=6,
        recipe="tiny",
        resolution=16,
        batch_size=16,
        threads=1,
    )


@pytest.fixture(scope="module")
def streamed(toy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("stream") / "whole"
    stream.run(stream_settings(toy, out))
    return out


def test_a_stream_never_holds_more_than_its_bytes(streamed):
    result = read_json(streamed / "result.json")
    raw, adaptive = sorted(result["cells"], key=lambda cell: cell["policy"], reverse=True)
    assert (raw["policy"], adaptive["policy"]) == ("raw", "adaptive")
    for cell in (raw, adaptive):
        assert cell["peak"] <= 8000
        assert [record["arrived"] for record in cell["records"]] == [12, 24, 36]
        assert all(record["bytes"] <= record["peak"] <= 8000 for record in cell["records"])
    assert raw["records"][-1]["held"] == 8000 // (16 * 16 * 3)
    assert adaptive["records"][-1]["held"] > raw["records"][-1]["held"]
    page = (streamed / "report.html").read_text()
    figures = json.loads(page.partition('id="figures">')[2].partition("</script>")[0])
    assert [[line["name"] for line in figure["data"]] for figure in figures] == [["raw", "adaptive"]] * 3


def test_a_killed_stream_resumes_to_the_same_end(toy, streamed, tmp_path, monkeypatch):
    config = replace(stream_settings(toy, tmp_path / "run"), policies=("adaptive",))
    calls = []

    def save(self, path):
        calls.append(path)
        if len(calls) == 2:
            raise Killed
        return whole(self, path)

    whole = stream_memory.StreamMemory.save
    with monkeypatch.context() as patch:
        patch.setattr(stream_memory.StreamMemory, "save", save)
        with pytest.raises(Killed):
            stream.run(config)
    stream.run(config)
    name = "cells/adaptive-s0/result.json"
    assert (config.out / name).read_bytes() == (streamed / name).read_bytes()
    with pytest.raises(InputError, match="memory: 8000 -> 9000"):
        stream.run(replace(config, memory="9000"))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"memory": "300"}, "shared headers"), ({"memory": "700", "policies": ("raw",)}, "one raw image takes 768"),
     ({"ladder": (10, 50)}, "--ladder 10 50"), ({"every": 0}, "--every 0"),
     ({"budget_schedule": ("9:300",)}, "--budget-schedule 9:300: shared headers"),
     ({"margin": 1.0}, "--margin 1:"), ({"wrong_ranks": -0.1}, "--wrong-ranks -0.1"),
     ({"write_limit": "-3"}, "--write-limit -3"), ({"codec": "heic"}, "--codec heic")],
)  # fmt: skip
def test_mistakes_of_a_stream_are_named_before_anything_is_written(toy, tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        stream.run(replace(stream_settings(toy, tmp_path / "out"), **change))
    assert not (tmp_path / "out").exists()


def test_a_scheduled_budget_shrinks_and_grows_and_a_killed_stream_resumes_to_the_same_end(toy, tmp_path, monkeypatch):
    config = replace(
        stream_settings(toy, tmp_path / "whole"), policies=("adaptive",), budget_schedule=("12:3kB", "24:5kB")
    )
    stream.run(config)
    records = read_json(config.out / "result.json")["cells"][0]["records"]
    assert [one["budget"] for one in records] == [8000, 3000, 5000]
    assert all(one["bytes"] <= one["budget"] for one in records)
    assert records[0]["bytes"] > 3000
    assert "changed between 3,000 and 8,000 bytes" in (config.out / "report.html").read_text()
    other = replace(config, out=tmp_path / "killed")
    saved = stream_run._save

    def save_and_stop(*given):
        saved(*given)
        if given[2] == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stream_run, "_save", save_and_stop)
        with pytest.raises(Killed):
            stream.run(other)
    stream.run(other)
    name = "cells/adaptive-s0/result.json"
    assert (other.out / name).read_bytes() == (config.out / name).read_bytes()
    with pytest.raises(InputError, match="budget_schedule"):
        stream.run(replace(config, budget_schedule=("12:4kB",)))


def test_a_stream_with_a_margin_that_follows_use_resumes_to_the_same_end(toy, tmp_path, monkeypatch):
    config = replace(
        stream_settings(toy, tmp_path / "whole"), policies=("adaptive",), margin=0.3, replay="loss", follow_use=True
    )
    stream.run(config)
    whole = read_json(config.out / "result.json")["cells"][0]
    assert whole["peak"] <= 8000
    other, saved = replace(config, out=tmp_path / "killed"), stream_run._save

    def save_and_stop(*given):
        saved(*given)
        if given[2] == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stream_run, "_save", save_and_stop)
        with pytest.raises(Killed):
            stream.run(other)
    stream.run(other)
    name = "cells/adaptive-s0/result.json"
    assert (other.out / name).read_bytes() == (config.out / name).read_bytes()
    for change in ({"margin": 0.0}, {"replay": "even"}, {"follow_use": False}, {"wrong_ranks": 0.2}):
        with pytest.raises(InputError, match=next(iter(change))):
            stream.run(replace(config, **change))


def test_a_codec_from_a_file_is_part_of_what_identifies_a_run(toy, tmp_path):
    steps = ((tuple([20] * 64), tuple([10] * 64)),) * 100
    JpegTables(steps, (True,) * 100).save(tmp_path / "t.npz")
    JpegTables(steps, (False,) * 100).save(tmp_path / "other.npz")
    config = replace(settings(toy, tmp_path / "run"), forms=("same-codec",), codec=str(tmp_path / "t.npz"))
    incremental.run(config)
    result = read_json(config.out / "result.json")
    assert result["cells"][0]["codec"] == "jpeg-fitted"
    (tmp_path / "t.npz").rename(tmp_path / "moved.npz")
    incremental.run(replace(config, codec=str(tmp_path / "moved.npz")))  # up to date, wherever the file lies
    with pytest.raises(InputError, match="codec: "):
        incremental.run(replace(config, codec=str(tmp_path / "other.npz")))


def test_a_trained_codec_serves_both_and_its_own_bytes_are_part_of_the_memory(toy, tmp_path):
    pytest.importorskip("constriction")
    from prune.byte_budget.codec_training import QUALITIES, TrainedCodec, TrainingSettings

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    place = tmp_path / "c.safetensors"
    TrainedCodec(TrainingSettings(channels=12), images).whole(list(images)).save(place, {})
    own = place.stat().st_size
    config = replace(settings(toy, tmp_path / "run"), forms=("same-codec",), codec=str(place), quality=0)
    config = replace(config, memory=(str(own + 2000),))
    incremental.run(config)
    (cell,) = read_json(config.out / "result.json")["cells"]
    assert cell["codec"] == "learned"
    assert cell["quality"] in QUALITIES
    assert all(own < record["bytes"] <= own + 2000 for record in cell["records"])
    with pytest.raises(InputError, match="--memory"):
        incremental.run(replace(config, out=tmp_path / "small", memory=(str(own),)))
    with pytest.raises(InputError, match="--quality 30"):
        incremental.run(replace(config, out=tmp_path / "other", quality=30))
    streams = replace(stream_settings(toy, tmp_path / "stream"), policies=("uniform", "adaptive"), codec=str(place))
    streams = replace(streams, memory=str(own + 2000), quality=10, ladder=QUALITIES)
    stream.run(streams)
    for cell in read_json(streams.out / "result.json")["cells"]:
        assert own < cell["peak"] <= own + 2000
        assert cell["records"][-1]["held"] > (2 if cell["policy"] == "uniform" else 0)  # as pixels two would fit


def test_arrivals_are_all_of_the_images_once_in_the_order_of_the_flag():
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    for order in ("classes", "shuffled", "rows"):
        assert sorted(stream_run.arrivals(labels, order, None, 0)) == list(range(9))
    by_class = labels[stream_run.arrivals(labels, "classes", None, 1)]
    assert (by_class[:3] == by_class[0]).all()
    assert len(set(by_class[::3])) == 3
    few = stream_run.arrivals(labels, "rows", 2, 0)
    assert (np.diff(few) > 0).all()
    assert np.bincount(labels[few]).tolist() == [2, 2, 2]
