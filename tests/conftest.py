"""Settings for every test."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no time limit on one: machines with other work are slow.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("steady")
