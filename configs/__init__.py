"""Shipped configurations of training runs; `facegm train --config NAME` finds them by name."""
