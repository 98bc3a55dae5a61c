"""The training loop, one step, checkpoints and metrics; nothing here knows about items or histories."""
