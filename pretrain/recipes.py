"""Named recipes: settings that are tuned together, most of which are no flags of their own.

    python -m pretrain --list
    accelerate launch -m pretrain --beton S.beton --recipe rn50-16ep --out runs/rn50

Each entry states its cost and what to expect. Figures that name a paper or a project are quoted from it, for full
ImageNet-1k, and were not measured here; the others were measured on the machine they name. A learning rate belongs to
the entry's `batch`, images of a step over all processes: `--batch-size` scales it in proportion. With `--index` the
cost falls in proportion to the keep.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pretrain.recipe import Attack, Recipe


def _resnet(arch: str, epochs: float, cost: str, expect: str, **more: Any) -> Recipe:
    """Build FFCV's ImageNet recipe: blurred strides, 160 to 192 pixels, test at 256 with the mirror image.

    When images grow is a number of epochs in each of their configurations. Their network is torchvision's with a blur
    before each convolution that has a stride; timm's blurs behind it, and the pooling of the stem too.

    Their lr of 1.7 is for 512 images on each of 8 processes; with 512 in all it lost 4.3 points
    (libffcv/ffcv-imagenet, issue 4). Here it is for 1,024 images in all, at their rate for each image.
    """
    values: dict[str, Any] = {
        "batch": 1024,
        "lr": 1.7 / 4,
        "weight_decay": 1e-4,
        "fall": "linear",
        "resolution": 192,
        "start_resolution": 160,
        "scale": (0.08, 1.0),
        "evaluation": 256,
        "crop_ratio": 224 / 256,
        "mirror": True,
        "compile": True,
        **more,
    }
    return Recipe(cost=cost, expect=expect, arch=arch, epochs=epochs, **values)


_SMALL = Recipe(
    # python -m pretrain --beton cifar100.beton --recipe small-rn18 --out runs/cifar100
    cost="0.83 GFLOPs to train on an image: an epoch of 50,000 takes minutes on 2 slow cores, seconds on a GPU",
    expect="CIFAR-100: about 50 % top-1 after 10 epochs, for comparisons, not for records",
    arch="resnet18",
    stem="half",
    epochs=10,
    batch=128,
    lr=0.1,
    weight_decay=5e-4,
    resolution=32,
    crop="padded",
    smoothing=0.1,
    warmup=1.0,
)

_SMALL50 = replace(
    _SMALL,
    cost="1.9 GFLOPs to train on an image: 30 epochs of 50,000 take some minutes on a GPU, days on 2 cores",
    expect="a backbone for 32 px sources, of a higher cost than small-rn18 (not measured here)",
    arch="resnet50",
    epochs=30,
)

_LANTERNS = replace(
    _SMALL,
    cost="9 MFLOPs to train on an image: some 100 steps of 16 images a second on 1 core",
    expect="generated lanterns: learns their colours from 960 images in 5 epochs",
    epochs=5,
    batch=16,
    lr=0.05,
    resolution=16,
    smoothing=0.05,
    warmup=0.5,
)

_TINY = replace(
    _SMALL,
    cost="66 MFLOPs to train on an image: an epoch takes seconds on 2 slow cores",
    expect="for tests and the demo",
    kwargs={"channels": (16, 32, 64, 128)},
    epochs=4,
    batch=64,
    lr=0.1,
    smoothing=0.05,
    warmup=0.5,
)

RECIPES: dict[str, Recipe] = {
    # python -m pretrain --beton S.beton --recipe rn18-surrogate --sample 0.25 --out runs/surrogate
    "rn18-surrogate": Recipe(
        cost="about 1/20 of rn50-16ep in images x FLOPs; with --sample 0.25 about 1/80",
        expect="a surrogate, not a backbone: scores samples and maps classes; about 55 % top-1 on ImageNet-1k",
        arch="resnet18",
        epochs=8,
        batch=512,
        lr=1.0,
        resolution=112,
        start_resolution=64,
        grow=(0.3, 0.8),
        evaluation=128,
        scale=(0.35, 1.0),
        warmup=1.0,
    ),
    # accelerate launch -m pretrain --beton S.beton --recipe rn18-16ep --out runs/rn18
    "rn18-16ep": _resnet(
        "resnetblur18",
        16,
        "35 minutes on one A100 (FFCV's ImageNet table)",
        "66.9 % top-1 (FFCV's ImageNet table)",
        lr=0.5,
        weight_decay=5e-5,
    ),
    # accelerate launch -m pretrain --beton S.beton --recipe rn50-16ep --out runs/rn50
    "rn50-16ep": _resnet("resnetblur50", 16, "15 minutes on 8 A100 (FFCV)", "73.8 % top-1 (FFCV)"),
    "rn50-24ep": _resnet(
        "resnetblur50", 24, "22 minutes on 8 A100 (FFCV)", "75.6 % top-1 (FFCV)", grow=(17 / 24, 20 / 24)
    ),
    "rn50-32ep": _resnet(
        "resnetblur50", 32, "29 minutes on 8 A100 (FFCV)", "76.6 % top-1 (FFCV)", grow=(23 / 32, 27 / 32)
    ),
    "rn50-40ep": _resnet(
        "resnetblur50", 40, "36 minutes on 8 A100 (FFCV)", "77.2 % top-1 (FFCV)", grow=(29 / 40, 34 / 40)
    ),
    "rn50-56ep": _resnet(
        "resnetblur50", 56, "49 minutes on 8 A100 (FFCV)", "78.0 % top-1 (FFCV)", grow=(41 / 56, 48 / 56)
    ),
    "rn50-88ep": _resnet(
        "resnetblur50", 88, "77 minutes on 8 A100 (FFCV)", "78.4 % top-1 (FFCV)", grow=(65 / 88, 76 / 88)
    ),
    # accelerate launch -m pretrain --beton S.beton --recipe rn50-robust --out runs/robust
    "rn50-robust": _resnet(
        "resnetblur50",
        16,
        "about 2.5 times rn50-16ep: one more forward and backward pass for each image",
        "robust features transfer better (Salman et al., arXiv 2007.08489); clean top-1 some 10 to 15 points lower",
        attack=Attack("fast", epsilon=4.0, ramp=0.1),
        smoothing=0.0,
    ),
    # accelerate launch -m pretrain --beton S.beton --recipe rn101-16ep --out runs/rn101
    "rn101-16ep": _resnet(
        "resnet101", 16, "about 1.9 times rn50-16ep by FLOPs", "about 1.5 points above rn50-16ep (not measured here)"
    ),
    # accelerate launch -m pretrain --beton S.beton --recipe vit-b16-100ep --out runs/vit
    "vit-b16-100ep": Recipe(
        cost="17.6 billion multiply-adds a forward pass: about 1 day on 8 A100 (by FLOPs, not measured here)",
        expect="below DeiT-B's 81.8 % top-1 (arXiv 2012.12877) after 300 epochs: no RandAugment, random erasing or "
        "repeated augmentation here, but gradient clipping, and averaged weights are evaluated (not measured here)",
        arch="vit_base_patch16_224",
        kwargs={"drop_path_rate": 0.1},
        epochs=100,
        batch=1024,
        lr=1e-3,
        optimiser="adamw",
        weight_decay=0.05,
        resolution=224,
        scale=(0.08, 1.0),
        crop_ratio=0.875,
        warmup=5.0,
        mixup=0.8,
        cutmix=1.0,
        clip=1.0,
        ema=0.9999,
        compile=True,
    ),
    # accelerate launch -m pretrain --beton S.beton --recipe convnext-t --out runs/convnext
    "convnext-t": Recipe(
        cost="4.5 billion multiply-adds a forward pass: about 1.2 times an epoch of rn50-88ep (not measured here)",
        expect="below the 82.1 % top-1 of arXiv 2201.03545 after 300 epochs, 20 of warm-up, at 224 px throughout: no "
        "RandAugment or random erasing here (not measured here)",
        arch="convnext_tiny",
        kwargs={"drop_path_rate": 0.1},
        epochs=100,
        batch=1024,
        lr=1e-3,
        optimiser="adamw",
        weight_decay=0.05,
        resolution=224,
        start_resolution=160,
        scale=(0.08, 1.0),
        crop_ratio=0.875,
        warmup=5.0,
        mixup=0.8,
        cutmix=1.0,
        ema=0.9999,
        compile=True,
    ),
    # python -m pretrain --beton cifar100.beton --recipe cifar-rn18-200ep --out runs/cifar-200
    "cifar-rn18-200ep": replace(
        _SMALL,
        cost="4 times small-rn18 for each image: about 1 hour on one A100, days on 2 cores",
        expect="the protocol behind the published CIFAR pruning tables: 95 % (CIFAR-10), 78 % (CIFAR-100) on full data",
        stem="small",
        epochs=200,
        smoothing=0.0,
        warmup=0.0,
    ),
    "small-rn18": _SMALL,
    # accelerate launch -m pretrain --beton S.beton --recipe small-rn50 --out runs/small50
    "small-rn50": _SMALL50,
    "small-rn50-robust": replace(
        _SMALL50,
        cost="3.2 GFLOPs to train on an image, 5/3 of small-rn50: one more forward pass, and a gradient of the image",
        expect="for comparisons: adversarial pretraining at radius 4/255 (not measured here)",
        smoothing=0.0,
        attack=Attack("fast", epsilon=4.0, ramp=0.1),
    ),
    # python -m pretrain --beton S.beton --recipe half-rn18 --out runs/half
    "half-rn18": replace(
        _SMALL,
        cost="0.23 GFLOPs to train on an image, a quarter of small-rn18: half of its width",
        expect="for comparisons on processors without a GPU: three and a half times the cost of tiny",
        kwargs={"channels": (32, 64, 128, 256)},
        batch=64,
        smoothing=0.05,
        warmup=0.5,
    ),
    # The surrogate for 32 px sources.
    "small-rn18-surrogate": replace(
        _SMALL,
        cost="about half of small-rn18",
        expect="CIFAR-100: about 40 % top-1 after 5 epochs, enough to rank samples",
        epochs=5,
    ),
    # python -m pretrain --beton S.beton --recipe small-rn18-64 --out runs/small64
    "small-rn18-64": replace(
        _SMALL,
        cost="four times small-rn18 for each image",
        expect="sources of 64 px",
        resolution=64,
        start_resolution=48,
        grow=(0.3, 0.7),
        crop="resized",
        scale=(0.35, 1.0),
    ),
    # accelerate launch -m pretrain --beton S.beton --recipe simsiam-rn18 --out runs/unlabelled
    "simsiam-rn18": replace(
        _SMALL,
        cost="twice small-rn18 for each image and epoch: two views",
        expect="features without labels (SimSiam, arXiv 2011.10566); top-1 is not defined",
        method="simsiam",
        epochs=50,
        batch=256,
        lr=0.03,
        crop="resized",
        scale=(0.2, 1.0),
        warmup=0.0,
        smoothing=0.0,
    ),
    # python -m pretrain --beton S.beton --recipe tiny --out runs/tiny
    "tiny": _TINY,
    # python -m pretrain --beton S.beton --recipe tiny-robust --out runs/robust
    "tiny-robust": replace(
        _TINY,
        cost="110 MFLOPs to train on an image, 5/3 of tiny: one more forward pass, and a gradient of the image",
        expect="for tests and comparisons: adversarial pretraining at radius 4/255",
        epochs=6,
        smoothing=0.0,
        attack=Attack("fast", epsilon=4.0, ramp=0.1),
    ),
    # python -m pretrain --beton S.beton --recipe tiny-surrogate --sample 0.25 --out runs/surrogate
    "tiny-surrogate": replace(
        _TINY,
        cost="43 MFLOPs to train on an image: 24 px instead of 32",
        expect="a surrogate for 32 px sources; from 5,000 images it chooses 0.4 of what a full-data network chooses",
        epochs=5,
        resolution=24,
    ),
    # python -m pretrain --beton S.beton --recipe tiny-vit --out runs/tiny-vit
    "tiny-vit": replace(
        _SMALL,
        cost="90 MFLOPs to train on an image: an epoch takes seconds on 2 slow cores",
        expect="for tests and comparisons: a vision transformer; without much data well below tiny",
        arch="vit_tiny_patch16_224",
        stem="imagenet",
        kwargs={"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 2},
        epochs=8,
        batch=64,
        optimiser="adamw",
        lr=1e-3,
        weight_decay=0.05,
        smoothing=0.05,
        warmup=0.5,
        clip=1.0,
    ),
    # prune generate --world lanterns; make demo
    "lanterns": replace(_LANTERNS, kwargs={"channels": (16, 32, 64, 128), "layers": (1, 1, 1, 1)}),
    "lanterns-surrogate": replace(
        _LANTERNS,
        cost="two fifths of lanterns",
        expect="a surrogate for lanterns",
        kwargs={"channels": (8, 16, 32, 64), "layers": (1, 1, 1, 1)},
    ),
    # prune generate --world lamps
    "lamps": replace(
        _SMALL,
        cost="3 MFLOPs to train on an image: some 100 steps of 8 images a second on 1 slow core",
        expect="generated lamps: learns their colours from 240 images in 8 epochs",
        kwargs={"channels": (8, 16, 32, 64), "layers": (1, 1, 1, 1)},
        epochs=8,
        batch=8,
        lr=0.05,
        resolution=16,
        smoothing=0.05,
        warmup=0.5,
    ),
    "demo": replace(
        _SMALL,
        cost="43 MFLOPs to train on an image: about 3 seconds an epoch of the generated source on 1 slow core",
        expect="generated source of 2,448 images: tells figures apart in a style that it never saw, after 12 epochs",
        kwargs={"channels": (16, 32, 64, 128), "layers": (1, 1, 1, 1)},
        epochs=12,
        batch=32,
        lr=0.05,
        smoothing=0.05,
        warmup=0.5,
    ),
}
