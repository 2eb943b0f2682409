"""Networks: build, save and load them, name their classes, extract features, count their cost."""
