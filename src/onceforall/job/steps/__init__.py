"""The steps of a run, one file each, in the order of `job/pipeline.py`, and what they share."""
