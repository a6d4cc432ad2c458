"""Predicting accuracy from the architecture."""
