"""Identification in galleries, closed and open."""
