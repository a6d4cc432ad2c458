"""Where images come from: arrays, folders, data sets known by name."""
