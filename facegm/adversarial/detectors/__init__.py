"""Detectors of inputs that a model does not know, such as manipulated ones: by what the model makes of them."""
