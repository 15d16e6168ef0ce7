"""Training: loss, optimizer, step, checkpoints, loop."""
