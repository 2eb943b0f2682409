"""Evaluate pretrained backbones on the targets: compare them in studies, compress them, watch them on new images."""
