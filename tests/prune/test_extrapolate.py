from __future__ import annotations

import re

import numpy as np
import pytest

from prune import __main__ as prune
from prune import features, write
from prune.index.npz import open_arrays, save_arrays
from prune.runs.exit_codes import AnswerIsNo
from prune.scores.feature_files import open_features


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Thumbnails of 400 real files of two classes, whose brightness grows; a scores file that knows 30 % of them."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("extrapolate")
    rng = np.random.default_rng(0)
    for k in range(400):
        place = folder / "images" / ("day" if k % 2 else "night") / f"{k:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(rng.normal(40 + 0.4 * k, 6, (16, 16, 3)), 0, 255).astype(np.uint8)).save(place)
    write.run(write.Config(images=str(folder / "images"), out=folder / "pool.beton"))
    features.run(features.Config(thumbnail=True, betons=(folder / "pool.beton",), out=folder))
    cheap = open_features(folder / "pool.features.npz")
    bright = np.asarray(cheap.features, np.float64).mean(axis=1)
    unknown = rng.random(400) > 0.3
    for name, values in (("bright", bright), ("chance", rng.normal(size=400))):
        scores = {"sample/el2n": np.where(unknown, np.nan, values).astype("<f4"), "label": cheap.label}
        meta = {"format": "winnow-scores/1", "fingerprint": cheap.source, "manifest": "pool.manifest.npz"}
        meta |= {"features": "pool.features.npz", "order": cheap.order, "targets": [], "classes": cheap.classes}
        save_arrays(folder / f"{name}.scores.npz", scores, meta)
    return folder


def extrapolated(case, name: str, *more: str) -> int:
    given = ["--scores", str(case / f"{name}.scores.npz"), "--features", str(case / "pool.features.npz")]
    return prune.main(["extrapolate", *given, "--out", str(case / f"{name}.all.npz"), *more])


def test_what_thumbnails_tell_is_filled_in_said_and_selectable(case, capsys):
    assert extrapolated(case, "bright") == 0
    said = capsys.readouterr().err
    assert re.search(r"el2n: rank correlation 0\.9\d \(class means alone -?0\.\d\d\)", said), said
    assert "(class means alone " in said.split("are found")[1]
    arrays, meta = open_arrays(case / "bright.all.npz", "winnow-scores/1")
    assert np.isfinite(arrays["sample/el2n"]).all()
    assert meta["extrapolated"]["quality"]["el2n"]["better"]
    assert extrapolated(case, "bright") == 0
    assert "up to date" in capsys.readouterr().err
    index = str(case / "x.index.npz")
    scores = ["--scores", str(case / "bright.all.npz")]
    assert prune.main(["select", *scores, "--method", "el2n", "--keep", "0.5", "--out", index]) == 0
    assert "have no el2n" not in capsys.readouterr().err
    part = ["--scores", str(case / "bright.scores.npz"), "--method", "el2n", "--keep", "0.9"]
    assert prune.main(["select", *part, "--out", str(case / "y.index.npz")]) == 0
    assert "of 360 kept samples have no el2n, and follow all others" in capsys.readouterr().err
    assert extrapolated(case, "bright", "--neighbours", "4") == 2  # made with other settings


def test_what_is_no_better_than_chance_is_refused_with_code_1_and_nothing_is_written(case, capsys):
    with pytest.raises(AnswerIsNo) as ended:
        extrapolated(case, "chance")
    assert ended.value.code == 1
    assert "not shown to be more than chance" in capsys.readouterr().err
    assert not (case / "chance.all.npz").exists()


def test_scores_that_lack_nothing_or_too_much_are_refused_in_one_line(case, capsys):
    arrays, meta = open_arrays(case / "bright.scores.npz", "winnow-scores/1")
    for name, values in (("whole", np.ones(400, "<f4")), ("few", np.r_[np.ones(99), np.full(301, np.nan)])):
        changed = {**arrays, "sample/el2n": values.astype("<f4")}
        save_arrays(case / f"{name}.scores.npz", changed, meta)
        assert extrapolated(case, name) == 2
        said = capsys.readouterr().err
        assert ("no score lacks an image" if name == "whole" else "99 images are scored; at least 100") in said
