"""Train on what an index keeps, in a project of your own: NumPy, torch and torchvision, no FFCV.

python examples/reuse_index.py pets-lm-30.index.npz data/train
"""

import sys

from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from prune import PrunedIndex


def kept(index_file: str, root: str, transform=None) -> Subset:
    images, index = datasets.ImageFolder(root, transform), PrunedIndex.load(index_file)  # the index is verified
    return Subset(images, index.rows([path for path, _ in images.samples], root=root))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    to_tensor = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    try:
        loader = DataLoader(kept(*sys.argv[1:], to_tensor), batch_size=64, shuffle=True)
    except (OSError, ValueError) as error:  # no such folder, no images in it; an index that is damaged or of others
        sys.exit(print(str(error).splitlines()[0], file=sys.stderr) or 2)
    print("trained on", sum(len(labels) for images, labels in loader), "images")
