"""Predicting accuracy from the architecture.

A search takes anything with the members of `search.Predictor`; a run makes the one of
`accuracy.py`, in `job/steps/predict.py`.
"""
