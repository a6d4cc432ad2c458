"""Measuring one network: accuracy, batch-norm statistics, exact costs, latency."""
