"""Is a compressed model still right on new images? It is compared with its original."""
