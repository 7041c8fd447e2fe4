"""Losses on features and class means; each a pure function with a module beside it. Needs torch alone."""
