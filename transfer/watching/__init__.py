"""Is the compressed model still right? It and its original side by side on new images."""
