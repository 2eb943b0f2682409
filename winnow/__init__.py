"""The command `winnow`: one name in front of `prune`, `pretrain` and `transfer`."""
