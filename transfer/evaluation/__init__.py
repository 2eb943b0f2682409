"""Evaluate a model on a target: open its train and test splits, train a classifier, predict, measure."""
