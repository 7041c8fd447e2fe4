"""The training engine: task, loop, distributed set-up, checkpoints and logs."""
