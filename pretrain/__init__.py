"""Train surrogates and backbones: one training loop, on one process or many, which resumes after any interruption."""
