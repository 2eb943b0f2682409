"""Multinomial logistic regression by L-BFGS: the linear probe, and the classifier from a few images of each class.

Functions on arrays. The probe chooses its regularisation on a part of the training data. The objective runs in torch,
so that features of an ImageNet-size target can stay on a GPU; the optimiser is SciPy's L-BFGS-B, which is full-batch
and deterministic. Linear evaluation follows Kornblith, Shlens and Le, "Do Better ImageNet Models Transfer Better?"
(2019), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prune.models.full_precision import full_precision

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Regularisation tried, from strong to weak: each fit starts where the stronger one ended."""
FEW_SHOT_STRENGTH = 1e-2
"""Regularisation with a few images of each class, on features of unit mean square: too few to choose it by."""
_ROWS = 1 << 16


@dataclass(frozen=True)
class Linear:
    """A linear classifier on raw features.

    Attributes
    ----------
    mean, scale : (d,) float32
        Standardisation: features enter as (x - mean) / scale.
    weight : (k, d) float32
    bias : (k,) float32
    names : (k,) int64
        The class of each row: those in the training labels, ascending. No other class is ever predicted.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    names: np.ndarray

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Most probable class, (n,) int32 (ties: the lower class), and its probability, (n,) float32."""
        n = len(features)
        predicted, confidence = np.empty(n, np.int32), np.empty(n, np.float32)
        for begin in range(0, n, _ROWS):
            rows = slice(begin, begin + _ROWS)
            x = (features[rows].astype(np.float32) - self.mean) / self.scale
            logits = torch.from_numpy(x @ self.weight.T + self.bias)
            top = torch.softmax(logits, 1).numpy()
            best = top.argmax(1)
            predicted[rows] = self.names[best]
            confidence[rows] = top[np.arange(len(best)), best]
        return predicted, confidence


@full_precision()
def train_linear(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    part: float = 0.2,
    strengths: Sequence[float] = STRENGTHS,
    device: str = "cpu",
) -> tuple[Linear, float]:
    """Standardise, choose the regularisation on a validation part, refit on everything.

    Parameters
    ----------
    features : (n, d) float
    labels : (n,) int
        At least two classes.
    seed : int
        Draws the validation part.
    part : float
        Share of every class that validates, in (0, 1).
    strengths : sequence of float
        From strong to weak; see `fit`.
    device : str
        Torch device of the objective.

    Returns
    -------
    Linear
    float
        The chosen strength: the highest validation accuracy, among equals the lowest cross-entropy.
    """
    mean, scale = moments(features)
    names, targets = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError("one class only: there is nothing to separate")
    x = torch.empty(features.shape, dtype=torch.float32)
    for begin in range(0, len(x), _ROWS):
        rows = slice(begin, begin + _ROWS)
        x[rows] = torch.from_numpy((features[rows].astype(np.float32) - mean) / scale)
    x, y = x.to(device), torch.from_numpy(targets).to(device)
    held_out = torch.from_numpy(stratified_part(targets, part, np.random.default_rng(seed))).to(device)
    best = best_strength(x[~held_out], y[~held_out], x[held_out], y[held_out], len(names), strengths)
    theta = None
    for strength in strengths:  # the path that found `best`: each fit starts where the stronger one ended
        theta = fit(x, y, len(names), strength, theta)
        if strength == best:
            break
    assert theta is not None
    return Linear(mean, scale, theta[:, :-1].astype(np.float32), theta[:, -1].astype(np.float32), names), best


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Draw `shots` rows of every class, all rows of a smaller class; ascending.

    Depends on the labels and the seed only, so every model is trained on the same images.
    """
    rng = np.random.default_rng((seed, shots))
    chosen = [rng.permutation(np.flatnonzero(labels == name))[:shots] for name in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def unit_length(features: np.ndarray) -> np.ndarray:
    """Scale rows to length 1, (n, d) float32; a row of zeros stays."""
    x = features.astype(np.float32)
    found: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return found


@full_precision()
def train_few_shot(features: np.ndarray, labels: np.ndarray, strength: float = FEW_SHOT_STRENGTH) -> Linear:
    """Multinomial logistic regression on features of length 1, centred and scaled by one number.

    Tian et al., "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?" (2020), section 3.2, use
    the same classifier. All features share one scale, since a few images do not determine a scale for each.

    Parameters
    ----------
    features : (n, d) float
        Not normalised yet. Predict with the `Linear` on `unit_length(features)`.
    labels : (n,) int
    strength : float
    """
    x = unit_length(features)
    mean = x.mean(0)
    scale = float(np.sqrt(((x - mean) ** 2).mean()))
    spread = np.full(x.shape[1], scale if scale > 0 else 1.0, np.float32)
    names, targets = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError("one class only: there is nothing to separate")
    theta = fit(torch.from_numpy((x - mean) / spread), torch.from_numpy(targets), len(names), strength)
    return Linear(mean, spread, theta[:, :-1].astype(np.float32), theta[:, -1].astype(np.float32), names)


def best_strength(
    x: torch.Tensor,
    y: torch.Tensor,
    x_held: torch.Tensor,
    y_held: torch.Tensor,
    classes: int,
    strengths: Sequence[float],
) -> float:
    """Find the strength whose fit on (x, y) predicts the held-out part best.

    Stops after two strengths in a row that are worse than the best: beyond the optimum weaker regularisation overfits
    more, and the weakest fits are by far the slowest.
    """
    if len(y_held) == 0:
        return strengths[len(strengths) // 2]
    theta, best, best_key, worse = None, strengths[0], (-1.0, 0.0), 0
    for strength in strengths:
        theta = fit(x, y, classes, strength, theta)
        logits = x_held @ torch.from_numpy(theta[:, :-1]).to(x).T + torch.from_numpy(theta[:, -1]).to(x)
        accuracy = (logits.argmax(1) == y_held).float().mean().item()
        key = (accuracy, -torch.nn.functional.cross_entropy(logits, y_held).item())
        if key > best_key:
            best, best_key, worse = strength, key, 0
        else:
            worse += 1
            if worse == 2:
                break
    return best


def fit(
    x: torch.Tensor, y: torch.Tensor, classes: int, strength: float, start: np.ndarray | None = None, steps: int = 300
) -> np.ndarray:
    """Minimise mean cross-entropy + strength / 2 * ||weights||^2; the bias is not regularised.

    Parameters
    ----------
    x : (n, d) float tensor
        Its dtype is the precision of the objective; standardised features keep the problem well conditioned.
    y : (n,) int64 tensor in [0, classes)
    classes : int
    strength : float
        1 / (n * C) in scikit-learn's terms.
    start : (classes, d + 1) float64, optional
        Where to start; zeros when absent.
    steps : int
        Largest number of L-BFGS iterations.

    Returns
    -------
    (classes, d + 1) float64
        Weights, and the bias in the last column.
    """
    from scipy.linalg import solve_triangular
    from scipy.optimize import minimize

    shape = (classes, x.shape[1] + 1)
    root = _root(x, classes, strength)
    begin = np.zeros(shape) if start is None else start @ root

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = solve_triangular(root, flat.reshape(shape).T, lower=True, trans="T").T
        loss, slope = _loss(x, y, at)
        at[:, -1] = 0  # the bias is not regularised
        slope += strength * at
        slope = solve_triangular(root, slope.T, lower=True).T
        return loss + 0.5 * strength * float((at * at).sum()), slope.reshape(-1)

    # What single precision can resolve in a mean loss, and far below what moves a prediction.
    options = {"maxiter": steps, "maxfun": 2 * steps, "gtol": 1e-5, "ftol": 1e-7, "maxcor": 10}
    best = minimize(objective, begin.reshape(-1), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
    found: np.ndarray = solve_triangular(root, best.T, lower=True, trans="T").T
    return found


def _root(x: torch.Tensor, classes: int, strength: float) -> np.ndarray:
    """Cholesky factor of the objective's curvature at zero, (d + 1, d + 1) float64: the same block for every class.

    At zero all classes are equally probable, and the curvature is x'x / (n * classes) + strength. Features of a network
    are strongly correlated; in coordinates in which this is the identity L-BFGS needs a third of the steps.
    """
    n, d = x.shape
    second = torch.zeros(d, d, dtype=x.dtype, device=x.device)
    for rows in range(0, n, _ROWS):
        second.addmm_(x[rows : rows + _ROWS].T, x[rows : rows + _ROWS])
    curvature = np.zeros((d + 1, d + 1))
    curvature[:d, :d] = second.double().cpu().numpy() / (n * classes)
    curvature[range(d), range(d)] += max(strength, 1e-6)
    curvature[d, d] = 1 / classes
    return np.linalg.cholesky(curvature)


def _loss(x: torch.Tensor, y: torch.Tensor, at: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean cross-entropy at weights and bias `at` (classes, d + 1), and its gradient, float64."""
    theta = torch.from_numpy(at).to(x)
    weight, bias = theta[:, :-1].contiguous(), theta[:, -1]
    loss, gradient = 0.0, torch.zeros_like(theta)
    for rows in range(0, len(x), _ROWS):
        part, target = x[rows : rows + _ROWS], y[rows : rows + _ROWS]
        log_p = torch.log_softmax(torch.addmm(bias, part, weight.T), 1)
        loss -= log_p.gather(1, target[:, None]).sum(dtype=torch.float64).item()
        error = log_p.exp_()
        error[torch.arange(len(target), device=x.device), target] -= 1
        gradient[:, :-1].addmm_(error.T, part)
        gradient[:, -1] += error.sum(0)
    return loss / len(x), gradient.double().cpu().numpy() / len(x)


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every feature, (d,) float32 each; a constant feature gets the scale 1."""
    n = len(features)
    total, square = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for begin in range(0, n, _ROWS):
        total += features[begin : begin + _ROWS].sum(0, dtype=np.float64)
    mean = total / n
    for begin in range(0, n, _ROWS):
        square += ((features[begin : begin + _ROWS].astype(np.float64) - mean) ** 2).sum(0)
    scale = np.sqrt(square / n)
    # Relative to the mean: half-precision features that are constant may differ from it by rounding alone.
    return mean.astype(np.float32), np.where(scale > 1e-6 * (1 + np.abs(mean)), scale, 1).astype(np.float32)


def stratified_part(labels: np.ndarray, part: float, generator: np.random.Generator) -> np.ndarray:
    """Mark `part` of every class, rounded, and never the last sample of a class: (n,) bool.

    Examples
    --------
    >>> stratified_part(np.array([0, 0, 0, 0, 0, 1]), 0.2, np.random.default_rng(0)).sum()
    np.int64(1)
    """
    marked = np.zeros(len(labels), bool)
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        count = min(int(np.floor(part * len(rows) + 0.5)), len(rows) - 1)
        marked[generator.permutation(rows)[:count]] = True
    return marked
