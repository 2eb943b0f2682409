"""A smaller decoder language model: heads and MLP channels, int8 and 4-bit weights, tested on text and prompts."""
