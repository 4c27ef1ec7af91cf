"""Reports to look at: figures that DuckDB makes in the lake, and one page that shows them."""

from __future__ import annotations

from tidemill.config import Pipeline
from tidemill.pictures.figures.report import Report
from tidemill.pictures.making import make_report

__all__ = ["Report", "make_report", "report_page"]


def report_page(pipeline: Pipeline, *, texts: bool = False) -> str:
    """The page of a pipeline's report: one HTML file that asks nothing of a network."""
    from tidemill.pictures.page import page

    return page(make_report(pipeline, texts=texts))
