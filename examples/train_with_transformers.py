"""Train on what an index keeps, with Hugging Face's `datasets` and the Trainer of `transformers`.

python examples/train_with_transformers.py pets-30.index.npz photos [steps]
"""

import sys
import tempfile

import torch
from datasets import Dataset, Image, load_dataset
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from prune import PrunedIndex


def kept(index_file: str, root: str) -> Dataset:
    """What the index keeps of a folder with a folder a class."""
    index = PrunedIndex.load(index_file)  # the index is verified
    data = load_dataset("imagefolder", data_dir=root, split="train").cast_column("image", Image(decode=False))
    rows = index.rows(["/".join(row["path"].split("/")[-2:]) for row in data["image"]])
    return data.select(rows).cast_column("image", Image())


def train(data: Dataset, steps: int, side: int = 64) -> float:
    """The mean loss over that many steps."""
    prepare = v2.Compose([v2.RandomResizedCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def batch(rows):
        return {"pixel_values": [prepare(image.convert("RGB")) for image in rows["image"]], "labels": rows["label"]}

    classes = data.features["label"].num_classes
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic",
                          num_labels=classes)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(folder, max_steps=steps, per_device_train_batch_size=32, learning_rate=1e-2,
                                     remove_unused_columns=False, report_to="none", save_strategy="no",
                                     disable_tqdm=True, logging_strategy="no")  # fmt: skip
        trainer = Trainer(ResNetForImageClassification(config), settings, train_dataset=data.with_transform(batch))
        return trainer.train().training_loss


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    part = kept(*sys.argv[1:3])
    steps = int(sys.argv[3]) if sys.argv[3:] else 100
    print(f"{len(part)} images kept, {steps} steps, mean loss {train(part, steps):.3f}")
