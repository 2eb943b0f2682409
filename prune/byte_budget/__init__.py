"""How many bytes each image gets: its curve of bytes and error, and the allocation within a budget."""
