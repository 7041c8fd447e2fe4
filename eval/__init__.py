"""Verification: pairs, the ten-fold protocol, metrics and the report."""
