"""The gallery page of `prune show`: pictures of what an index keeps and drops."""
