"""`prune.manifest` was the public path of `prune.index.manifest`; other projects import it from here."""

from prune.index.manifest import Manifest, digest, manifest_path

__all__ = ["Manifest", "digest", "manifest_path"]
