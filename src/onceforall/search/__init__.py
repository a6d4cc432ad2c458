"""Searching populations of archs under limits."""
