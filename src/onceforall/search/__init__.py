"""Searching populations of archs under limits."""

from onceforall.search.nsga2 import Front, FrontPoint, nsga2
from onceforall.search.problem import Problem

__all__ = ["Front", "FrontPoint", "Problem", "nsga2"]
