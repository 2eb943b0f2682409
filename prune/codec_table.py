"""Compare image codecs for this data and this network: bytes, feature error, time, terms; recommend one.

    prune codecs runs/photos.beton --model runs/surrogate
    prune codecs runs/photos.beton --model runs/surrogate --fit runs/photos.tables.npz --html codecs.html
    prune codecs runs/photos.beton --model runs/surrogate --train runs/photos.safetensors
    prune codecs runs/photos.beton --model runs/surrogate --bytes 200 --pilot pilot.csv --json

A sample of the images is encoded by each codec at each quality. FMSE is the mean squared error of the network's
features, `worth` what is left of an image: 1 - FMSE / FMSE of dropping it. --fit fits JPEG quantisation tables to the
network first: any decoder reads them, and `prune curves --tables`, `prune budget`, `prune materialize` and
`transfer incremental --codec` take them. --train learns a codec (extra `codecs`), which `transfer incremental` and
`transfer stream` take; whoever decodes its images needs the file. Both learn from three quarters of the source and are
compared on the rest. --pilot gives a few trainings at known qualities; a line of accuracy over FMSE then says what
accuracy to expect, with a 95 % interval. The last line recommends a codec and a quality.

A learned codec's own file counts: each image bears its share, the bytes of the file divided by the images of the
source. The table shows both (171 + 98 = 269); ranks, figure and recommendation go by the sum, and the last line says
from how many images on another codec would be taken. In --json: bytes, share, whole (their sum), once (the file). Two
codecs of one kind are named by their files.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from prune.models.model_spec import need_model
from prune.runs.files import InputError, at_least, need_file, note, positive
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    from prune.byte_budget.codec_files import ImageCodec
    from prune.byte_budget.feature_error import Judge
    from prune.data.dataset import Dataset


@dataclass(frozen=True)
class Config:
    beton: Annotated[Path, tyro.conf.Positional]
    """Source, X.beton."""
    model: Path
    """Surrogate: directory of a `pretrain` run."""
    codecs: tuple[str, ...] = ("jpeg", "webp", "avif")
    """Codecs to compare: names, or files of an earlier --fit or --train."""
    qualities: tuple[int, ...] = (95, 75, 45, 20, 10)
    """Qualities, each on the codec's own scale. A learned codec is measured at all of its own instead."""
    sample: int = 200
    """Images to encode."""
    seed: int = 0
    """Decides which images are encoded."""
    fit: Written[Path | None] = None
    """Fit JPEG tables to the network, write them to this file (.npz), and compare them too. About a minute."""
    train: Written[Path | None] = None
    """Train a codec on the source, write it to this file (.safetensors), and compare it too. Minutes; resumes."""
    train_steps: int = 1500
    """Steps of --train."""
    distortion: Literal["features", "pixels"] = "features"
    """What --train keeps small at a given size: the error of the network's features, or of the pixels."""
    pilot: Path | None = None
    """CSV of trainings: `accuracy` in percent with `codec` and `quality`, or with `fmse`; a line for each training."""
    bytes: float | None = None
    """Recommend the smallest feature error within so many bytes an image, with its share of a codec's own file."""
    within: float = 1.0
    """With --pilot: recommend the fewest bytes that cost at most so many points of accuracy."""
    worth: float = 0.95
    """Without: recommend the fewest bytes that keep this share of an image's worth, in (0, 1]."""
    html: Written[Path | None] = None
    """Page to write: figure, table, recommendation."""
    figure: Written[Path | None] = None
    """SVG file to write: feature error against bytes."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Print the table; returns its numbers."""
    given = _checked(config)
    import json

    from prune.byte_budget import codec_comparison, codec_report
    from prune.byte_budget.codec_files import distinct
    from prune.byte_budget.feature_error import open_judge, sampled
    from prune.data.dataset import open_dataset
    from prune.runs.files import atomic

    pilot = codec_report.read_pilot(config.pilot) if config.pilot else []
    judge, source = open_judge(config.model), open_dataset(config.beton)
    if config.fit is not None:
        given.append((str(config.fit), _fitted(config.fit, source, judge)))
    if config.train is not None:
        given.append((str(config.train), _trained(config, config.train, source, judge)))
    names, codecs = zip(*distinct(given))
    if config.qualities != Config.qualities:
        for name, codec in zip(names, codecs):
            if codec.qualities:
                note(f"--qualities is not for {name}: it is measured at its own, {' '.join(map(str, codec.qualities))}")
    learned = any(codec.fingerprint != codec.name for codec in codecs)
    _, images = sampled(source, config.sample, config.seed, "judged" if learned else "all")
    points = codec_comparison.compared(images, codecs, config.qualities, judge, names)
    line = None
    if pilot:
        line = codec_report.pilot_line(pilot, points, config.pilot)
        codec_report.add_expected(points, line)
    for point in points:
        point["share"] = codec_comparison.shared(point, len(source))
        point["whole"] = codec_comparison.whole(point, len(source))
    best = line["intercept"] if line else None
    wanted: dict[str, Any] = {"size": config.bytes, "value": config.worth, "within": config.within, "best": best}
    chosen, why = codec_comparison.recommended(points, len(source), **wanted)
    later = codec_comparison.with_more_images(points, len(source), **wanted)
    result = {
        **codec_comparison.ranked(points, len(source)),
        "pilot": line,
        "images": len(images),
        "source_images": len(source),
        "recommended": chosen and {**chosen, "why": why},
        "with_more_images": later and {**later[0], "images": later[1]},
    }
    if config.figure is not None:
        with atomic(config.figure) as partial:
            partial.write_text(codec_report.figure(points, len(source)) + "\n", encoding="utf-8")
    if config.html is not None:
        with atomic(config.html) as partial:
            partial.write_text(codec_report.page(result, why, source.name), encoding="utf-8")
    if config.json:
        json.dump(result, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        codec_report.show(result, why)
    return result


def _checked(config: Config) -> list[tuple[str, ImageCodec]]:
    """The codecs of --codecs under their names; wrong settings are refused before an image is read."""
    if config.sample < 1 or not config.codecs:
        raise InputError("--sample of 1 or more and at least one codec are needed")
    if not config.qualities or any(not 1 <= q <= 100 for q in config.qualities):
        raise InputError(f"--qualities {' '.join(map(str, config.qualities))}: at least one, from 1 to 100, is needed")
    at_least(config, 0, "seed", "within")
    at_least(config, 1, "train_steps")
    positive(config, "bytes")
    if not 0 < config.worth <= 1:
        raise InputError(f"--worth {config.worth} is outside (0, 1]")
    for flag, suffix in (("fit", ".npz"), ("train", ".safetensors"), ("figure", ".svg"), ("html", ".html")):
        path = getattr(config, flag)
        if path is not None and path.suffix != suffix:
            raise InputError(f"--{flag} {path}: the name must end in {suffix}")
    if config.pilot is not None:
        need_file(config.pilot, "a CSV of trainings: codec, quality, accuracy")
    need_model(config.model)
    from prune.byte_budget.codec_files import open_codec

    return [(name, open_codec(name, "--codecs")) for name in config.codecs]


def _fitted(out: Path, source: Dataset, judge: Judge) -> ImageCodec:
    from prune.byte_budget.codec_files import StandardCodec
    from prune.byte_budget.table_fitting import FittingSettings, fit_to_file

    return StandardCodec("jpeg", fit_to_file(FittingSettings(sample=128, seed=0xF17), source, judge, out))


def _trained(config: Config, out: Path, source: Dataset, judge: Judge) -> ImageCodec:
    from prune.byte_budget.codec_training import TrainingSettings, train_to_file

    settings = TrainingSettings(steps=config.train_steps, distortion=config.distortion, seed=0x7EA)
    return train_to_file(settings, source, judge, out)
