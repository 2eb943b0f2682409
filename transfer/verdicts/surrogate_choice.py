"""Which surrogate a study should use: the one with the largest predicted speed-up. Pure functions.

Small networks, trained on what each surrogate selects, predict what the backbone would gain from it; all data's curve
is that of small networks, too. A surrogate's cost is a share of one full pretraining of the backbone, so that a dear
backbone may have a dear surrogate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from transfer.verdicts.speed_up import compute_per_use, compute_reaching


class Prediction(NamedTuple):
    """What a surrogate costs, and the speed-up that it is predicted to give: the mean over the keeps.

    Attributes
    ----------
    surrogate : str
    preparation : float
        Its training and the features of all images, as a share of one full pretraining.
    speed_up : float
        A lower bound where its accuracy lies above all data's at their full length.
    """

    surrogate: str
    preparation: float
    speed_up: float


def predictions(
    preparations: Mapping[str, float],
    accuracies: Mapping[str, Mapping[float, float]],
    full: Mapping[float, float],
    *,
    uses: int,
    compute: float | None,
) -> list[Prediction]:
    """Predict the speed-up of every surrogate, the largest first; of equal ones the cheaper first.

    Parameters
    ----------
    preparations : mapping of str to float
    accuracies : mapping of str to mapping of float to float
        For each surrogate, keep to accuracy of the small networks.
    full : mapping of float to float
        Length to accuracy of small networks on all data; at least two lengths, 1 among them.
    uses : int
        For how many uses of an index the preparation is shared.
    compute : float or None
        Total compute of every run, as a share of one full pretraining; None where a run costs its keep and the
        preparation.
    """
    lengths = np.array(sorted(full))
    curve = np.array([[full[length] for length in lengths]])
    found = []
    for name, preparation in preparations.items():
        ups = []
        for keep, accuracy in accuracies[name].items():
            cost = compute or compute_per_use(preparation, keep, uses)
            reached = compute_reaching(lengths, curve, np.array([accuracy]))[0]
            ups.append(float(np.clip(reached, lengths[0], lengths[-1])) / cost)
        found.append(Prediction(name, preparation, float(np.mean(ups))))
    return sorted(found, key=lambda one: (-one.speed_up, one.preparation))


def choice_sentence(found: Sequence[Prediction], uses: int) -> str:
    """What was chosen, and what the next best would cost.

    >>> choice_sentence([Prediction("0.1", 0.05, 2.31), Prediction("none", 0.0, 1.9)], 1)
    'Of the surrogates 0.1, none the study chose 0.1: predicted speed-up 2.3 with 1 use, at 5.0 % of one full \
pretraining; the next best is none: 1.9, at 0.0 %.'
    """
    first, names = found[0], ", ".join(one.surrogate for one in found)
    text = (
        f"Of the surrogates {names} the study chose {first.surrogate}: predicted speed-up {first.speed_up:.1f} with "
        f"{uses} use{'s' * (uses > 1)}, at {100 * first.preparation:.1f} % of one full pretraining"
    )
    if len(found) > 1:
        text += (
            f"; the next best is {found[1].surrogate}: {found[1].speed_up:.1f}, at {100 * found[1].preparation:.1f} %"
        )
    return text + "."
