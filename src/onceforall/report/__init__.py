"""The report of a run, one offline HTML file; of several runs, one that compares them."""

from onceforall.report.compare_page import build_comparison, write_comparison
from onceforall.report.compared import Compared, compare_runs
from onceforall.report.page import build_report, write_report

__all__ = [
    "Compared",
    "build_comparison",
    "build_report",
    "compare_runs",
    "write_comparison",
    "write_report",
]
