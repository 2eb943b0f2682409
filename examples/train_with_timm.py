"""Train on what an index keeps, with timm: its data set, transforms, model and optimizer.

python examples/train_with_timm.py pets-30.index.npz photos [steps]
"""

import sys

import torch
from timm.data import create_dataset, create_transform
from timm.models import create_model
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader, Subset

from prune import PrunedIndex


def kept(index_file: str, root: str, side: int = 64) -> Subset:
    """What the index keeps of a folder with a folder a class, as timm's train.py would open it."""
    index = PrunedIndex.load(index_file)  # the index is verified
    data = create_dataset("", root=root, transform=create_transform(side, is_training=True))
    return Subset(data, index.rows(data.filenames()))


def train(data: Subset, classes: int, steps: int) -> list[float]:
    """Losses of that many steps."""
    torch.manual_seed(0)
    model = create_model("resnet10t", num_classes=classes)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, momentum=0.9)
    losses = []
    while len(losses) < steps:
        for images, labels in DataLoader(data, batch_size=32, shuffle=True):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    return losses


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    part = kept(*sys.argv[1:3])
    losses = train(part, len(part.dataset.reader.class_to_idx), int(sys.argv[3]) if sys.argv[3:] else 100)
    print(f"{len(part)} images kept of {len(part.dataset)}, {len(losses)} steps, loss {losses[-1]:.3f}")
