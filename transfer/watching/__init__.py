"""Compare a compressed model with its original on new images: disagreement, drift and alarms."""
