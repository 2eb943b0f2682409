"""Watch the error of a codec on images as they come: feature error and bytes beside a reference, with a history.

    transfer watch-codec --model runs/surrogate --reference first.csv --images today.csv --quality 20 --history h.jsonl
    transfer watch-codec --model runs/surrogate --reference first.csv --images today.csv --history h.jsonl --html h.html

Each CSV has a column `path` and may have a column `stored`, the compressed copy of the image; without it --codec and
--quality compress the image here. The first call measures the reference and writes thresholds to the history; every
call looks at --size of the newest images (the last lines), appends one line, prints it, and ends with exit code 1 on an
alarm. Without a change a look alarms at most once in 1,000. A scheduler may run it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.models.model_spec import need_model
from prune.runs.exit_codes import AnswerIsNo
from prune.runs.files import InputError, at_least, need_file, note
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    import numpy as np

    from prune.byte_budget.codec_files import ImageCodec
    from prune.byte_budget.feature_error import Judge

FORMAT = "winnow-codec-watch/1"


@dataclass(frozen=True)
class Config:
    model: Path
    """Network whose features are compared: directory of a `pretrain` run."""
    reference: Path
    """CSV of images of the usual kind, in the order in which they came: at least 8 times --size."""
    images: Path
    """CSV of the new images, the newest last."""
    history: Written[Path]
    """History to write and to append to, .jsonl: thresholds first, then one line for each look."""
    codec: str = "jpeg"
    """Codec of images that have no stored copy: jpeg, webp, avif, or a file of `prune codecs`."""
    quality: int = 75
    """Its quality."""
    size: int = 64
    """Images of a look."""
    html: Written[Path | None] = None
    """Page of the history to write."""


def run(config: Config) -> dict[str, Any]:
    """Take one look; returns its record."""
    _check(config)
    from prune.byte_budget.codec_files import open_codec
    from prune.byte_budget.feature_error import open_judge
    from prune.runs.run_lock import file_lock
    from transfer.watching import codec_history, codec_watch

    codec = open_codec(config.codec)
    judge = open_judge(config.model)
    made = {"model": judge.fingerprint, "codec": codec.fingerprint, "quality": config.quality, "size": config.size}
    with file_lock(config.history, "--history"):
        head, records = codec_history.read(config.history, FORMAT)
        if head is None:
            head = _reference(config, judge, codec, made)
        elif differing := [key for key, value in made.items() if head["made"].get(key) != value]:
            raise InputError(
                f"{config.history}: begun with another {differing[0]} ({head['made'].get(differing[0])}); "
                "give another --history"
            )
        fmse, sizes = _measured(config.images, config, judge, codec, newest=config.size)
        look = codec_watch.looks(fmse, sizes, len(fmse))
        values = {name: float(value[0]) for name, value in look.items()}
        record: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "images": len(fmse),
            "alarms": codec_watch.alarms(values, {k: tuple(v) for k, v in head["allowed"].items()}),
            **{name: math.exp(value) for name, value in values.items()},
        }
        records = [*records, record]
        codec_history.write(config.history, head, records)
        if len(records) == 1:
            note(f"{config.history}: begins with {len(head['looks']['fmse'])} looks of {config.size} images")
        if config.html is not None:
            codec_history.write_page(config.html, head, records)
    print(codec_watch.shown(record))
    if record["alarms"]:
        raise AnswerIsNo
    return record


def _check(config: Config) -> None:
    at_least(config, 1, "quality", "size")
    if config.quality > 100:
        raise InputError(f"--quality {config.quality}: 1 to 100 is possible")
    if config.history.suffix != ".jsonl":
        raise InputError(f"--history {config.history}: the name must end in .jsonl")
    for path in (config.reference, config.images):
        need_file(path, "a CSV with a column `path`")
    need_model(config.model)
    from prune.byte_budget.codec_files import need_qualities, open_codec
    from transfer.watching import codec_watch
    from transfer.watching.stored_pairs import listed

    need_qualities(open_codec(config.codec), [config.quality], "--quality")
    least = codec_watch.LEAST * config.size
    if not config.history.exists() and (count := len(listed(config.reference))) < least:
        smaller = count // codec_watch.LEAST
        raise InputError(
            f"--reference {config.reference}: {count} images; {codec_watch.LEAST} looks of --size {config.size} need "
            f"{least}: give more" + (f", or --size {smaller}" if smaller else "")
        )
    listed(config.images, config.size)


def _reference(config: Config, judge: Judge, codec: ImageCodec, made: dict[str, Any]) -> dict[str, Any]:
    """The first line of a history: thresholds from looks at the reference."""
    from transfer.watching import codec_watch

    fmse, sizes = _measured(config.reference, config, judge, codec, newest=None)
    looks = codec_watch.looks(fmse, sizes, config.size)
    allowed = codec_watch.thresholds(looks)
    return {"format": FORMAT, "made": made, "allowed": allowed, "looks": {k: v.tolist() for k, v in looks.items()}}


def _measured(
    place: Path, config: Config, judge: Judge, codec: ImageCodec, newest: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """FMSE and bytes of the images of a CSV, (n,) each; of its `newest` lines alone where given."""
    import numpy as np

    from prune.byte_budget.distortion import fmse
    from transfer.watching.stored_pairs import read_pairs

    pairs = read_pairs(place, newest, codec, config.quality)
    exact, copies = judge.features([one[0] for one in pairs]), judge.features([one[1] for one in pairs])
    return fmse(copies, exact), np.array([pair[2] for pair in pairs], np.float64)
