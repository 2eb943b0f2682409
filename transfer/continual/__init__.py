"""Classes or samples that come one after another, and a memory of them that is counted in bytes."""
