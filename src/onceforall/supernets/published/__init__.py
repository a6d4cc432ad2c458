"""The published spelling: names of tensors, configurations, checkpoints, read and written."""
