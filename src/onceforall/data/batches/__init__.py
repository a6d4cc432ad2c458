"""From an open data set to batches: resident on the device or streamed from files."""
