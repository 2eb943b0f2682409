"""Write a model for a device: ONNX files in fp32 and in int8, compared with PyTorch on real images, and measured.

    python -m transfer export --model runs/pets-small --images pets.train.beton --test pets.test.beton --out runs/device
    python -m transfer export ... --index pets.preserve.index.npz        calibrates on the preservation set

Writes OUT/model.onnx, OUT/model.int8.onnx and OUT/result.json, and prints a table: bytes, multiply-adds, milliseconds
for one image, memory, accuracy, agreement with PyTorch. `examples/run_onnx.py` runs either file with ONNX Runtime and
NumPy alone. int8 needs no training: ranges come from --calibrate training images; where too many predictions change,
the most sensitive layers go back to fp32. An int8 file that still agrees less than asked, or is slower than fp32 here,
is called model.int8.rejected.onnx, and the exit code is 1. Half a minute for a ResNet-18. Needs
`winnow-pretrain[device]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.models.model_spec import need_model
from prune.runs.exit_codes import AnswerIsNo
from prune.runs.files import InputError, at_least, note, read_json, write_json
from prune.runs.identity import Growing, Location, RunOption
from prune.runs.outputs import claim, finish

if TYPE_CHECKING:
    import numpy as np

    from prune.data.dataset import Dataset
    from prune.models.networks import TrainedModel


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Model directory: of `pretrain`, `transfer finetune`, or a step of `transfer compress`."""
    images: Location[Path]
    """Beton of training images, for calibration."""
    out: Location[Path]
    """Run directory."""
    test: Location[Path | None] = None
    """Beton on which the files are compared with PyTorch; --images when absent. Accuracy needs the model's classes."""
    index: Location[Path | None] = None
    """Calibrate on images that this index keeps."""
    int8: bool = True
    """Write the int8 file as well."""
    calibrate: int = 256
    """Images for calibration, equally many of each class."""
    compare: int = 1000
    """Largest number of images on which the files are compared."""
    agreement: float = 0.97
    """Share of the images on which int8 must predict as fp32 does; below it single layers go back to fp32."""
    allow_worse: Growing[bool] = False
    """Accept an int8 file that agrees less than --agreement or is slower than fp32; a finished run does so at once."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay in fp32."""
    threads: int = 1
    """Threads while measuring."""
    seed: int = 0
    """Draws the images for calibration and comparison."""
    json: RunOption[bool] = False
    """Print result.json instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Export, or return at once when the run is done; returns the content of result.json.

    Raises
    ------
    AnswerIsNo
        The int8 file is not worth having, and that is not allowed.
    """
    _check(config)
    import json

    import numpy as np

    from prune.data.dataset import open_dataset
    from prune.models.networks import open_model
    from prune.runs.extras import need_modules
    from transfer.evaluation.image_arrays import balanced_rows
    from transfer.evaluation.target_splits import kept_rows

    need_modules("onnx", "onnxruntime", "onnxscript")
    from transfer.compression import onnx_export

    model, images = open_model(config.model), open_dataset(config.images)
    test = None if config.test is None else open_dataset(config.test)
    if config.int8:
        onnx_export.need_layers(model.network, config.keep_float)
    rows, index = kept_rows(images.manifest, config.index)
    rows = balanced_rows(rows, np.asarray(images.manifest.labels)[rows], config.calibrate, config.seed)
    inputs = {
        "model": model.fingerprint,
        "images": images.manifest.fingerprint,
        "test": None if test is None else test.manifest.fingerprint,
        "index": index,
    }
    with claim(config.out, config, inputs) as done:
        if done:
            note(f"{config.out}: up to date")
            result: dict[str, Any] = read_json(config.out / "result.json")
        else:
            result = {**_export(config, model, images, test, rows), **inputs}
            write_json(config.out / "result.json", result)
            finish(config.out, inputs=inputs)
        if config.allow_worse:
            onnx_export.allow_worse(config.out, result)
    print(json.dumps(result, indent=1, allow_nan=False) if config.json else onnx_export.export_table(result))
    if reasons := onnx_export.worse(config.out, result):
        note(reasons)
        if not config.allow_worse:
            raise AnswerIsNo
    return result


def _export(
    config: Config, model: TrainedModel, images: Dataset, test: Dataset | None, rows: np.ndarray
) -> dict[str, Any]:
    """Read the images for comparison and those at `rows` for calibration, and export."""
    import numpy as np

    from prune.models.evaluation_view import crop_ratio
    from transfer.compression import onnx_export
    from transfer.evaluation.image_arrays import read_images

    compared, side = test or images, int(model.spec["resolution"])
    chosen = np.sort(np.random.default_rng((config.seed, 1)).permutation(len(compared))[: config.compare])
    how: dict[str, Any] = {"loader": "torch", "workers": 1, "ratio": crop_ratio(model.spec)}
    shown, labels = read_images(compared, chosen.astype(np.int64), side, **how)
    known = list(compared.manifest.classes) == list(model.spec["classes"])
    calibration = None
    if config.int8:
        calibration, _ = read_images(images, rows, side, **how)
    return onnx_export.export(
        model.network,
        model.spec,
        config.out,
        shown,
        labels if known else None,
        calibration,
        torch_bytes=(config.model / "model.safetensors").stat().st_size,
        agreement=config.agreement,
        keep_float=config.keep_float,
        threads=config.threads,
    )


def _check(config: Config) -> None:
    at_least(config, 1, "calibrate", "compare", "threads")
    at_least(config, 0, "seed")
    if not 0 <= config.agreement <= 1:
        raise InputError(f"--agreement {config.agreement}: a share in [0, 1] is needed")
    need_model(config.model)
