"""Adversarial examples: attacks on classifiers and embedders, detectors of them, and what those are worth."""
