"""Measure the bytes and the feature error of each image on a ladder of JPEG qualities.

    prune curves runs/photos.beton --model runs/surrogate --out runs/photos.curves.npz
    prune curves runs/photos.beton --model runs/surrogate --out runs/photos.curves.npz --sample 0.1 --half
    prune curves runs/photos.beton --model runs/surrogate --out runs/fitted.curves.npz --tables runs/photos.tables.npz

For every image and level: bytes, mean squared error of the surrogate's features against the original (FMSE), PSNR at
the surrogate's resolution. With --sample a part is measured and the rest predicted from one encoding each; the error of
the prediction, on measured images that were held back, is printed and stored. After a kill the same command resumes.
32-px images, 8 qualities, quarter-width ResNet-18: about 150 images a second on one slow core.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.models.model_spec import model_fingerprint, need_model
from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, counted, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file

if TYPE_CHECKING:
    import numpy as np

    from prune.data.dataset import Dataset
    from prune.data.jpeg_tables import JpegTables

FORMAT = "winnow-curves/1"
BLOCK = 1024
"""Images that are measured between two files of the resumable part of a run."""


@dataclass(frozen=True)
class Config:
    beton: Location[Annotated[Path, tyro.conf.Positional]]
    """Source, X.beton."""
    model: Location[Path]
    """Surrogate: directory of a `pretrain` run."""
    out: Location[Path]
    """Curves file to write, X.curves.npz."""
    qualities: tuple[int, ...] = (95, 85, 75, 60, 45, 30, 20, 10)
    """JPEG qualities to measure."""
    half: bool = False
    """Also measure every quality at half the height and width."""
    tables: Location[Path | None] = None
    """JPEG tables fitted to the network, of `prune codecs --fit`; the standard's when absent."""
    sample: float = 1.0
    """Fraction of the images to measure, in (0, 1]; the curves of the others are predicted."""
    resolution: int | None = None
    """Side of the images in pixels for the surrogate; its own when absent."""
    batch_size: RunOption[int] = 256
    """Images of one forward pass."""
    seed: int = 0
    """Decides which images --sample measures."""
    workers: RunOption[int | None] = None
    """Threads that decode and encode; all cores when absent."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


def run(config: Config) -> Path:
    """Write the curves; returns their path."""
    tables = _checked(config)
    with using(config.device):
        return _run(config, tables)


def _run(config: Config, tables: JpegTables | None) -> Path:
    import numpy as np
    import PIL
    from PIL import features as pillow

    from prune.data.dataset import open_dataset
    from prune.index.manifest import manifest_path
    from prune.index.npz import open_meta, save_arrays
    from prune.models import networks
    from prune.scores.feature_files import check_order, order_fingerprint

    levels = _levels(config)
    model, spec = networks.load_model(config.model)
    source = open_dataset(config.beton)
    inputs = {"model": model_fingerprint(config.model), "source": source.manifest.fingerprint}
    inputs |= {} if tables is None else {"tables": tables.fingerprint}
    made = identity(config) | inputs
    manifest = manifest_path(source.beton.path)
    order = order_fingerprint(manifest)
    with claim_file(config.out, lambda path: open_meta(path, FORMAT).get("made", {}), config, inputs) as done:
        if done:
            known = open_meta(config.out, FORMAT).get("order")
            check_order(config.out, known, manifest, order, "give another --out, or remove it")
            return config.out
        n = len(source)
        rows = np.arange(n)
        if config.sample < 1:
            count = min(n, max(10, round(config.sample * n)))
            rows = np.sort(np.random.default_rng(config.seed).permutation(n)[:count])
        place = config.out.with_name(f".{config.out.name}.blocks")
        parts = _blocks(config, place, {"made": made, "order": order}, source, rows, levels, model, spec, tables)
        arrays, errors = _joined(parts, source, rows, levels, config, tables)
        meta = {
            "format": FORMAT,
            "fingerprint": source.manifest.fingerprint,
            "classes": source.manifest.classes,
            "encoder": {"pillow": PIL.__version__, "jpeg": pillow.version("libjpeg_turbo") or pillow.version("jpg")},
            "measured": len(rows),
            "prediction": errors,
            "made": made,
            "order": order,
            "tables": None if tables is None else tables.fingerprint,
        }
        save_arrays(config.out, arrays, meta)
        shutil.rmtree(place)
        note(f"{config.out}: {len(levels)} levels of {counted(n, 'image')}, {len(rows)} measured")
        if errors:
            note("predicted, median error: {bytes:.1%} of the bytes, {fmse:.0%} of the FMSE".format(**errors))
    return config.out


def _checked(config: Config) -> JpegTables | None:
    """The fitted tables of --tables; wrong settings are refused before an image is read."""
    wrong = [quality for quality in config.qualities if not 1 <= quality <= 100]
    if wrong or not config.qualities or len(set(config.qualities)) < len(config.qualities):
        raise InputError(f"--qualities {' '.join(map(str, config.qualities))}: different ones from 1 to 100 are needed")
    if not 0 < config.sample <= 1:
        raise InputError(f"--sample {config.sample} is outside (0, 1]")
    at_least(config, 0, "seed")
    at_least(config, 1, "resolution", "batch_size", "workers")
    if config.out.suffix != ".npz":
        raise InputError(f"--out {config.out}: the name must end in .npz")
    need_model(config.model)
    from prune.byte_budget.codec_files import open_tables

    return open_tables(config.tables)


def _levels(config: Config) -> list[int]:
    from prune.data.image_codecs import HALF

    ladder = sorted(config.qualities, reverse=True)
    return [0, *ladder, *((HALF + quality for quality in ladder) if config.half else ())]


def _blocks(
    config: Config,
    place: Path,
    same: dict[str, Any],
    source: Dataset,
    rows: np.ndarray,
    levels: list[int],
    model: Any,
    spec: dict[str, Any],
    tables: JpegTables | None,
) -> list[Path]:
    """Measure block by block; blocks of an earlier run are kept where their meta agrees with `same`."""
    from prune.index.npz import open_arrays, save_arrays
    from prune.runs.progress import track

    paths = []
    for begin in track(range(0, len(rows), BLOCK), -(-len(rows) // BLOCK), "measuring"):
        path = place / f"{begin:09d}.npz"
        paths.append(path)
        try:
            meta = open_arrays(path, "winnow-curve-block/1", mapped=False)[1]
            if {key: meta.get(key) for key in same} == same:
                continue
        except InputError:  # missing, or not whole
            pass
        arrays = measure(source, rows[begin : begin + BLOCK], levels, model, spec, config, tables)
        save_arrays(path, arrays, {"format": "winnow-curve-block/1", **same})
    return paths


def measure(
    source: Dataset,
    rows: np.ndarray,
    levels: list[int],
    model: Any,
    spec: dict[str, Any],
    config: Config,
    tables: JpegTables | None = None,
) -> dict[str, np.ndarray]:
    """Bytes, FMSE and PSNR of `rows` at every level, and the features of the originals."""
    import numpy as np
    import torch

    from prune.byte_budget.distortion import fmse, psnr
    from prune.models import evaluation_view, networks
    from prune.runs import compute_device
    from prune.runs.cores import in_order

    side = config.resolution or spec["resolution"]
    device = torch.device(compute_device.current())
    # In fp32: the error of high qualities is smaller than what bf16 rounds away.
    model = model.to(device, memory_format=torch.channels_last).eval()
    ratio = evaluation_view.crop_ratio(spec)
    every = in_order(lambda row: renditions(source, int(row), levels, side, ratio, tables), rows, config.workers)
    sizes, images = zip(*every)
    stack = np.stack(images)
    flat = torch.from_numpy(stack.reshape(-1, side, side, 3)).permute(0, 3, 1, 2)
    found = []
    with torch.inference_mode():
        for batch in flat.split(config.batch_size):
            batch = networks.normalise(batch.to(device), spec["mean"], spec["std"])
            found.append(evaluation_view.outputs(model, batch, spec)[0].float().cpu().numpy())
    features = np.concatenate(found).reshape(len(rows), len(levels), -1)
    if not np.isfinite(features).all():
        raise InputError(f"the surrogate gives values that are not finite for images of {source.name}")
    return {
        "nbytes": np.array(sizes, np.int32),
        "fmse": fmse(features, features[:, :1]),
        "psnr": psnr(stack, stack[:, :1]),
        "features": features[:, 0].astype(np.float32),
    }


def renditions(
    source: Dataset, row: int, levels: list[int], side: int, ratio: float = 1.0, tables: JpegTables | None = None
) -> tuple[list[int], np.ndarray]:
    """Stored bytes of one image at every level, and (levels, side, side, 3) uint8 as the loaders would yield it."""
    import numpy as np

    from prune.data import image_codecs
    from prune.data.crops import render
    from prune.data.dataset import stored_image
    from prune.data.stored_images import decode
    from prune.models.evaluation_view import central_box

    stored = stored_image(source, row)
    pixels = decode(stored)
    datas = [image_codecs.encode_level(pixels, level, tables) if level else stored.data for level in levels]
    shown = []
    for level, data in zip(levels, datas):
        image = image_codecs.decode(data) if level else pixels
        shown.append(render(image, central_box(image, ratio), False, side))
    return [len(data) for data in datas], np.stack(shown)


def _joined(
    parts: list[Path],
    source: Dataset,
    rows: np.ndarray,
    levels: list[int],
    config: Config,
    tables: JpegTables | None,
) -> tuple[dict[str, np.ndarray], dict[str, float] | None]:
    """The blocks joined into columns; rows that were not measured are predicted."""
    import numpy as np

    from prune.byte_budget.distortion import dropped
    from prune.index.npz import open_arrays

    def column(name: str) -> Iterator[np.ndarray]:
        return (np.asarray(open_arrays(path, "winnow-curve-block/1")[0][name]) for path in parts)

    n, measured = len(source), np.zeros(len(source), bool)
    measured[rows] = True
    mean = np.sum([part.sum(0, dtype=np.float64) for part in column("features")], axis=0) / len(rows)
    lost = np.concatenate([dropped(part, mean) for part in column("features")])
    nbytes, distortion = (np.concatenate(list(column(name))) for name in ("nbytes", "fmse"))
    noise = np.full((n, len(levels)), np.nan, np.float32)
    noise[rows] = np.concatenate(list(column("psnr")))
    everywhere: dict[str, np.ndarray] = {
        "psnr": noise,
        "level": np.array(levels, np.uint8),
        "measured": measured,
        "digest": np.asarray(source.manifest.digests),  # identifies each row's image, whatever the order of the source
    }
    labels = np.asarray(source.manifest.labels, np.int32)
    if len(rows) == n:
        return {"nbytes": nbytes, "fmse": distortion, "dropped": lost, "label": labels, **everywhere}, None
    from prune.byte_budget.curve_prediction import predict

    rest = np.flatnonzero(~measured)
    facts = _facts(source, levels, config.workers, tables)
    guess = predict(
        facts[rows], nbytes[:, 1:], np.column_stack([distortion[:, 1:], lost]), facts[rest], seed=config.seed
    )
    sizes = np.empty((n, len(levels)), np.int32)
    sizes[rows], sizes[rest, 0], sizes[rest, 1:] = nbytes, source.manifest.nbytes[rest], np.ceil(guess.nbytes)
    losses = np.zeros((n, len(levels)), np.float32)
    losses[rows], losses[rest, 1:] = distortion, guess.distortion[:, :-1]
    left_out = np.empty(n, np.float32)
    left_out[rows], left_out[rest] = lost, guess.distortion[:, -1]
    errors = {"bytes": guess.bytes_error, "fmse": guess.distortion_error}
    return {"nbytes": sizes, "fmse": losses, "dropped": left_out, "label": labels, **everywhere}, errors


def _facts(source: Dataset, levels: list[int], workers: int | None, tables: JpegTables | None) -> np.ndarray:
    """Facts to predict curves from, (n, 3) float64: pixels, stored bytes, bytes at a middle level."""
    import numpy as np

    from prune.data.dataset import stored_image
    from prune.data.image_codecs import encode_level
    from prune.data.stored_images import decode
    from prune.runs.cores import in_order
    from prune.runs.progress import track

    middle = levels[(len(levels) + 1) // 2]

    def size(row: int) -> int:
        return len(encode_level(decode(stored_image(source, row)), middle, tables))

    sizes = in_order(size, range(len(source)), workers)
    pixels = source.manifest.width.astype(np.float64) * source.manifest.height
    return np.column_stack([pixels, source.manifest.nbytes, list(track(sizes, len(source), "encoding once"))])
