"""Continual learning: classes or samples arrive one after another, and a memory of them is counted in bytes."""
