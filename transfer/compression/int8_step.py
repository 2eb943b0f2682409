"""The step that quantises: int8 throughout if the guard lets it, else with the most sensitive layers back in fp32, else
after training with the rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from prune.runs.files import note
from transfer.compression import acceptance, onnx_model
from transfer.compression.acceptance import Verdict
from transfer.compression.journal import INT8, Trial
from transfer.compression.qat import fake_quantised
from transfer.compression.quantization import Quantizer, put_back
from transfer.compression.shrinking import recovered

if TYPE_CHECKING:
    from transfer.compression.compression_loop import Job

_CALIBRATION, _SENSITIVITY = 512, 128


def quantised(
    job: Job, trial: Trial, model: nn.Module, spec: dict[str, Any], scratch: Path
) -> tuple[nn.Module, dict[str, Any], Verdict]:
    """Write SCRATCH/model.int8.onnx, calibrated on the preservation set.

    Returns
    -------
    model : nn.Module
        Whose weights were quantised: the one given, or what quantisation-aware training made of it.
    what : dict
        "mode" (int8, mixed), "trained" (with the rounding), "keep_float" (layers in fp32), for the journal.
    verdict : Verdict
    """
    images = job.images[_spread(len(job.images), _CALIBRATION)]

    def judged(path: Path) -> Verdict:
        found = acceptance.predicted(onnx_model.predict(onnx_model.session(path), job.images))
        return acceptance.judge(job.labels, job.answers, found, spec["classes"], job.margins)

    def written(network: nn.Module) -> list[str] | None:
        few = images[_spread(len(images), _SENSITIVITY)]
        with Quantizer(onnx_model.export_onnx(network, spec, scratch / "float.onnx"), images) as quantizer:
            return put_back(quantizer, scratch / INT8, few, lambda path: judged(path).accepted)

    kept, trained = written(model), False
    if kept is None and job.config.recovery_epochs:
        note(f"step {trial.step}: the guard refuses int8 after training: training with the rounding")
        with fake_quantised(model):
            model = recovered(job, trial, model, spec, scratch, last=False)
        kept, trained = written(model), True
    if kept is None:  # what is judged is what was tried last
        kept = onnx_model.facts(onnx_model.session(scratch / INT8), scratch / INT8)["keep_float"]
    what = {"mode": "mixed" if kept else "int8", "trained": trained, "keep_float": kept}
    return model, what, judged(scratch / INT8)


def _spread(n: int, count: int) -> np.ndarray:
    """Places of `count` of n images, evenly spread: the set is sorted by class."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64))
