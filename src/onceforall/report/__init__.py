"""The report of a run, one offline HTML file."""

from onceforall.report.page import build_report, write_report

__all__ = ["build_report", "write_report"]
