"""A run folder -> one self-contained HTML page."""

from cogen.report.page import write_report

__all__ = ["write_report"]
