"""The store of aligned faces."""
