"""Train on what an index keeps, with PyTorch Lightning: a data module that opens an ImageFolder.

python examples/train_with_lightning.py pets-30.index.npz photos [steps]
"""

import sys

import lightning
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from prune import PrunedIndex


class Kept(lightning.LightningDataModule):
    """What the index keeps of a folder with a folder a class."""

    def __init__(self, index_file: str, root: str, side: int = 64) -> None:
        super().__init__()
        prepare = v2.Compose([v2.RandomResizedCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        self.folder = ImageFolder(root, prepare)
        index = PrunedIndex.load(index_file)  # the index is verified
        self.part = Subset(self.folder, index.rows([path for path, _ in self.folder.samples], root=root))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.part, batch_size=32, shuffle=True)


class Classifier(lightning.LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = models.mobilenet_v3_small(num_classes=classes)

    def training_step(self, batch, _) -> torch.Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def train(data: Kept, steps: int) -> lightning.Trainer:
    """The trainer after that many steps."""
    trainer = lightning.Trainer(max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                                enable_model_summary=False)  # fmt: skip
    trainer.fit(Classifier(len(data.folder.classes)), data)
    return trainer


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    data = Kept(*sys.argv[1:3])
    done = train(data, int(sys.argv[3]) if sys.argv[3:] else 100)
    print(f"{len(data.part)} images kept of {len(data.folder)}, {done.global_step} steps")
