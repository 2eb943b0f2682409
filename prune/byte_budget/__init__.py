"""How many bytes each image gets: curves, allocation, and what a budget costs and saves."""
