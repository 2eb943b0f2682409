"""The networks: built from JSON, saved as safetensors, cut to pruned widths, asked for features."""
