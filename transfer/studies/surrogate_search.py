"""What a study has found about the surrogates that it may use, once their small networks are trained."""

from __future__ import annotations

from pathlib import Path

from transfer.studies.candidates import NONE, folder_of, with_surrogate
from transfer.studies.ladder import held_out_by_keep, ladder_runs
from transfer.studies.settings import Study
from transfer.studies.study_plan import CURVE
from transfer.studies.task_costs import full_pretraining_flops, preparation_flops
from transfer.verdicts.controls import CONTROLS, FULL_LENGTH
from transfer.verdicts.surrogate_choice import Prediction, predictions


def surrogate_predictions(study: Study, out: Path) -> list[Prediction]:
    """The study's surrogates, the best first; empty while a small network is missing, and without a choice.

    Accuracies are those on images held out of the guiding targets' training images: no test image plays a part.
    """
    seed = study.seeds[0]
    if not study.surrogates or not (out / "backbones" / f"full-s{seed}" / "DONE").exists():
        return []
    guides = {name: study.targets[name].train for name in study.guides}
    lengths = [("full", 1.0, seed), *((FULL_LENGTH, length, seed) for length in CURVE)]
    full = held_out_by_keep(lengths, guides, out, "ladder/probes")
    ladder, whole = study.ladder or study.keeps, full_pretraining_flops(out, seed)
    accuracies, preparations = {}, {}
    for text in study.surrogates:
        methods = [m for m in with_surrogate(study, text).methods if m not in CONTROLS]
        if text == NONE:
            methods = ["gate"]
        runs = [run for run in ladder_runs(methods, ladder, study.seeds) if run[0] != "full"]
        accuracies[text] = held_out_by_keep(runs, guides, out, f"{folder_of(text)}/ladder/probes")
        if len(accuracies[text]) < len(runs) or len(full) < len(lengths):
            return []
        spent = 0.0 if text == NONE else preparation_flops(out / folder_of(text), f"s{seed}")
        preparations[text] = spent / whole
    return predictions(preparations, accuracies, full, uses=study.uses, compute=study.compute)
