"""Scores of a face, tried as its quality."""
