"""Searching populations of archs under limits."""

from onceforall.search.best import best
from onceforall.search.evolution import Best, Evolution, evolve
from onceforall.search.nsga2 import Front, FrontPoint, nsga2
from onceforall.search.problem import Problem

__all__ = ["Best", "Evolution", "Front", "FrontPoint", "Problem", "best", "evolve", "nsga2"]
