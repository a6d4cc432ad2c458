"""Latency: measured on this machine or another, kept in tables, predicted for whole networks."""
