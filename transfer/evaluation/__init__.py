"""How good is a model on a target: its two halves and their features, and the classifiers that judge them."""
