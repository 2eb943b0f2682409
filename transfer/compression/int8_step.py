"""The step of a compression that quantises a model to int8.

int8 throughout if that passes the acceptance test, else with the most sensitive layers in fp32, else after
quantisation-aware training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from prune.runs.files import note
from transfer.compression import onnx_model
from transfer.compression.acceptance import AcceptanceTest, Decision
from transfer.compression.journal import INT8, Trial
from transfer.compression.protected_layers import is_protected
from transfer.compression.qat import fake_quantised
from transfer.compression.quantization import Quantizer, quantise_until_accepted
from transfer.compression.recovery_training import Recovery

_CALIBRATION, _SENSITIVITY = 512, 128


def quantise(
    trial: Trial,
    model: nn.Module,
    spec: dict[str, Any],
    scratch: Path,
    *,
    test: AcceptanceTest,
    recovery: Recovery,
) -> tuple[nn.Module, dict[str, Any], Decision]:
    """Write SCRATCH/model.int8.onnx, calibrated on the preservation set.

    Returns
    -------
    model : nn.Module
        The network that was quantised: the one given, or what quantisation-aware training made of it.
    what : dict
        "mode" (int8 or mixed), "trained" (with the rounding), "keep_float" (layers in fp32, the protected ones first),
        for the journal.
    decision : Decision
    """
    images = test.images[_spread(len(test.images), _CALIBRATION)]

    def decide(path: Path) -> Decision:
        session = onnx_model.session(path)
        return test.decide(lambda images: onnx_model.predict(session, images))

    def write(network: nn.Module) -> list[str] | None:
        few = images[_spread(len(images), _SENSITIVITY)]
        file = onnx_model.export_onnx(network, spec, scratch / "float.onnx")
        quantizer = _Sparing(file, images, recovery.protect)
        with quantizer:
            kept = quantise_until_accepted(quantizer, scratch / INT8, few, lambda path: decide(path).accepted)
            return None if kept is None else [*quantizer.spared, *kept]

    kept, trained = write(model), False
    if kept is None and recovery.recipe.epochs:
        note(f"step {trial.step}: int8 is rejected after training: training with the rounding")
        layers = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        with fake_quantised(model, [name for name in layers if is_protected(name, recovery.protect)]):
            model = recovery.train(model, spec, trial.step, scratch, last=False)
        kept, trained = write(model), True
    if kept is None:  # the decision is about the file that was written last
        kept = onnx_model.facts(onnx_model.session(scratch / INT8), scratch / INT8)["keep_float"]
    what = {"mode": "mixed" if kept else "int8", "trained": trained, "keep_float": kept}
    return model, what, decide(scratch / INT8)


class _Sparing(Quantizer):
    """A quantizer that leaves the protected layers in fp32, and says so in the file."""

    def __init__(self, float_path: Path, images: np.ndarray, protect: Sequence[str]) -> None:
        super().__init__(float_path, images)
        self.spared = [name for name in self.layers if is_protected(name, protect)]
        self.layers = [name for name in self.layers if name not in self.spared]

    def write(self, out: Path, keep_float: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
        """Write an int8 file; see `Quantizer.write`."""
        super().write(out, keep_float, only)
        if self.spared:
            proto = onnx.load(str(out))
            described = onnx_model.facts(onnx_model.session(self.path), self.path)
            onnx_model.set_metadata(proto, described, "int8", keep_float=[*self.spared, *keep_float])
            onnx_model.save(proto, out)
        return out


def _spread(n: int, count: int) -> np.ndarray:
    """Positions of `count` of n images, evenly spread: the set is sorted by class."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64))
