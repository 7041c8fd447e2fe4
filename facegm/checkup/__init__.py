"""What to run before a long training: what the machine can do, and whether a configuration learns at all."""
