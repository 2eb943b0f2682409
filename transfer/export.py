"""Write a model for a device: ONNX in fp32 and in int8, compared with PyTorch on real images, and measured.

    python -m transfer export --model runs/pets-small --images pets.train.beton --test pets.test.beton --out runs/device
    python -m transfer export ... --index pets.preserve.index.npz        calibrates on the preservation set alone

Writes OUT/model.onnx, OUT/model.int8.onnx and OUT/result.json, and prints a table: bytes, multiply-adds, milliseconds
for one image, memory, accuracy, agreement with PyTorch. `examples/run_onnx.py` runs either file with ONNX Runtime and
NumPy alone. int8 needs no second training: ranges come from --calibrate training images; when too many answers change,
the most sensitive layers go back to fp32. Half a minute for a ResNet-18. Needs `winnow-pretrain[device]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, at_least, note, read_json, write_json
from prune.runs.identity import Location, RunOption
from prune.runs.outputs import claim, finish


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Model directory: of `pretrain`, `transfer finetune`, or a step of `transfer compress`."""
    images: Location[Path]
    """Beton of training images, for calibration."""
    out: Location[Path]
    """Run directory."""
    test: Location[Path | None] = None
    """Beton with the model's classes, on which the files are compared with PyTorch; --images when absent."""
    index: Location[Path | None] = None
    """Calibrate on images that this index keeps."""
    int8: bool = True
    """Write the int8 file as well."""
    calibrate: int = 256
    """Images for calibration, as many of each class as of any other."""
    compare: int = 1000
    """Images on which the files are compared, at most."""
    agreement: float = 0.97
    """Share of the images on which int8 must answer as fp32 does; below it single layers go back to fp32."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay in fp32."""
    threads: int = 1
    """Threads while measuring."""
    seed: int = 0
    """Draws the images for calibration and comparison."""
    json: RunOption[bool] = False
    """Print result.json instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Export, or return at once when the run is done; what result.json holds."""
    import json

    _check(config)
    from prune.data.dataset import open_dataset
    from prune.models.networks import fingerprint, load_model
    from transfer.compression.device import need_device

    need_device()
    from transfer.compression import onnx_export

    model, spec = load_model(config.model)
    images, test = (None if path is None else open_dataset(path) for path in (config.images, config.test))
    assert images is not None
    if config.int8:
        onnx_export.need_layers(model, config.keep_float)
    rows, index = onnx_export.calibration_rows(config, images)
    inputs = {
        "model": fingerprint(config.model),
        "images": images.manifest.fingerprint,
        "test": None if test is None else test.manifest.fingerprint,
        "index": index,
    }
    with claim(config.out, config, inputs) as done:
        if done:
            note(f"{config.out}: up to date")
            result: dict[str, Any] = read_json(config.out / "result.json")
        else:
            result = {**onnx_export.export(config, model, spec, images, test, rows), **inputs}
            write_json(config.out / "result.json", result)
            finish(config.out, inputs=inputs)
    print(json.dumps(result, indent=1, allow_nan=False) if config.json else onnx_export.table(result))
    return result


def _check(config: Config) -> None:
    at_least(config, 1, "calibrate", "compare", "threads")
    at_least(config, 0, "seed")
    if not 0 <= config.agreement <= 1:
        raise InputError(f"--agreement {config.agreement}: a share in [0, 1] is needed")
