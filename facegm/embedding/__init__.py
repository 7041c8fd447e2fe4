"""The embedder that applications use, and the file it is loaded from."""
