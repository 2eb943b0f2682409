"""SimSiam (Chen and He, arXiv 2011.10566): features without labels, from two views of each image.

The loss is minus the cosine between the prediction of one view and the projection of the other, the gradient stopped
at the projection (eq. 4). No negatives, no momentum encoder, any batch size. The network's own classifier is
trained at the same time on the features, without a gradient to them: it costs next to nothing, measures how good the
features are, and gives the logits of a surrogate where labels exist.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrain.hooks import Batches
from pretrain.optimisation import Loss
from prune.data.batches import Batch
from prune.models.networks import features_and_logits
from prune.models.transfers import constant, sent

_GREY = (0.299, 0.587, 0.114)
# From RGB to Y, I, Q of the NTSC standard, where a change of hue is a rotation of I and Q.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_FROM_YIQ = tuple(np.linalg.inv(np.array(_YIQ)).ravel().tolist())


class Siamese(nn.Module):
    """A timm network with SimSiam's projector and predictor.

    Parameters
    ----------
    backbone : nn.Module
    width : int
        Of the projections; the paper's 2048.
    """

    def __init__(self, backbone: nn.Module, width: int = 2048) -> None:
        super().__init__()
        self.backbone = backbone
        features = int(getattr(backbone, "num_features"))  # noqa: B009 - nn.Module types it as a tensor
        self.projector = nn.Sequential(
            nn.Linear(features, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(width, width // 4, bias=False),
            nn.BatchNorm1d(width // 4),
            nn.ReLU(inplace=True),
            nn.Linear(width // 4, width),
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (b,) and logits (b, c) of images (b, 3, 2r, r): the first view above the second."""
        views = [v.contiguous(memory_format=torch.channels_last) for v in images.chunk(2, dim=2)]
        features = [features_and_logits(self.backbone, view)[0] for view in views]
        projections = [self.projector(f) for f in features]
        predictions = [self.predictor(p).float() for p in projections]
        targets = [p.detach().float() for p in reversed(projections)]
        losses = [-0.5 * functional.cosine_similarity(p, t, dim=1) for p, t in zip(predictions, targets)]
        logits = self.backbone.get_classifier()(features[0].detach())  # type: ignore[operator]
        return losses[0] + losses[1], logits


def loss(mean: torch.Tensor, std: torch.Tensor) -> Loss:
    """SimSiam's loss plus the classifier's, on views with random changes of colour.

    Parameters
    ----------
    mean, std : (1, 3, 1, 1)
        Of the normalisation, in grey levels.
    """

    def both(
        model: nn.Module, images: torch.Tensor, labels: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        side = images.shape[3]
        with torch.no_grad():
            views = [recoloured((v * std + mean) / 255) for v in (images[:, :, :side], images[:, :, side:])]
            images = (torch.cat(views, dim=2) * 255 - mean) / std
        losses, logits = model(images)
        logits = logits.float()
        return losses + functional.cross_entropy(logits, labels, reduction="none"), logits

    return both


def recoloured(
    images: torch.Tensor, strength: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue of four images in five, and make one in five grey.

    Draws come from torch's generator, which the loop seeds for each step. The hue is rotated in the YIQ colour space.

    Parameters
    ----------
    images : (b, 3, h, w) in [0, 1]
    strength : floats
        Largest relative change of brightness, contrast and saturation; largest share of a turn of the hue.
    """
    b = len(images)
    draw = sent(torch.rand((6, b, 1, 1, 1)), images.device).to(images.dtype)
    brightness, contrast, saturation = (1 + s * (2 * d - 1) for s, d in zip(strength[:3], draw))
    weights = constant(_GREY, (1, 3, 1, 1), images.device).to(images.dtype)
    out = (images * brightness).clamp(0, 1)
    level = (out * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    out = (level + contrast * (out - level)).clamp(0, 1)
    grey = (out * weights).sum(1, keepdim=True)
    out = (grey + saturation * (out - grey)).clamp(0, 1)
    out = torch.einsum("bij,bjhw->bihw", _hue_turn(strength[3] * (2 * draw[3, :, 0, 0, 0] - 1)), out).clamp(0, 1)
    out = torch.where(draw[4] < 0.8, out, images)
    return torch.where(draw[5] < 0.2, (out * weights).sum(1, keepdim=True).expand_as(out), out)


def _hue_turn(share: torch.Tensor) -> torch.Tensor:
    """(b, 3, 3) matrices that rotate the hue by a share of a full turn and keep the luma."""
    forth = constant(sum(_YIQ, ()), (3, 3), share.device).to(share.dtype)
    back = constant(_FROM_YIQ, (3, 3), share.device).to(share.dtype)
    angle = 2 * torch.pi * share
    turn = torch.eye(3, dtype=share.dtype, device=share.device).repeat(len(share), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    found: torch.Tensor = back @ turn @ forth
    return found


def two_views(first: Batches, second: Batches) -> Batches:
    """Join two streams of the same rows into images (b, 3, 2r, r)."""

    def batches(rows: np.ndarray, epoch: int, resolution: int) -> Iterator[Batch]:
        one, two = first(rows, epoch, resolution), second(rows, epoch, resolution)
        try:
            for (images, labels, found), (others, _, _) in zip(one, two, strict=True):
                yield torch.cat([images, others], dim=2), labels, found
        finally:
            one.close()  # type: ignore[attr-defined]
            two.close()  # type: ignore[attr-defined]

    return batches
