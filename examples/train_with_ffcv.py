"""Train on what an index keeps, with FFCV's own loader: the beton of `prune write` and the rows of the index.

python examples/train_with_ffcv.py pets-30.index.npz runs/photos.beton [steps]
"""

import sys
from pathlib import Path

import torch
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import Squeeze, ToTensor, ToTorchImage
from torchvision import models

from prune import PrunedIndex
from prune.index.manifest import Manifest


def kept(index_file: str, beton: str, side: int = 64) -> tuple[Loader, list[str]]:
    """A loader of what the index keeps, and the names of the classes."""
    manifest = Manifest.load(Path(beton).with_suffix(".manifest.npz"))
    rows = PrunedIndex.load(index_file).rows(manifest.ids)  # the index is verified
    image = [RandomResizedCropRGBImageDecoder((side, side)), ToTensor(), ToTorchImage()]
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()], "position": None}
    loader = Loader(
        beton,
        batch_size=32,
        num_workers=1,
        order=OrderOption.RANDOM,
        indices=rows,
        pipelines=pipelines,
        drop_last=False,
    )
    return loader, manifest.classes


def train(loader: Loader, classes: int, steps: int) -> list[float]:
    """Losses of that many steps."""
    torch.manual_seed(0)
    model = models.mobilenet_v3_small(num_classes=classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in loader:
            if len(losses) == steps:
                break
            loss = torch.nn.functional.cross_entropy(model(images.float() / 255), labels.long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    loader, classes = kept(*sys.argv[1:3])
    losses = train(loader, len(classes), int(sys.argv[3]) if sys.argv[3:] else 100)
    print(f"{len(loader.indices)} images kept, {len(losses)} steps, loss {losses[-1]:.3f}")
