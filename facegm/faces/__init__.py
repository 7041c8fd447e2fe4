"""The face network: its data, task, run, and what is shown of it."""
