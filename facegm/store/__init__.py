"""The store of aligned faces: its format, its reader and its writer."""
