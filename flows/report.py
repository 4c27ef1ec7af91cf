"""The report after a scheduled run: written where the pipeline says, and shown at the server. No run fails for it."""

from __future__ import annotations

from logging import Logger, LoggerAdapter
from typing import TYPE_CHECKING, Any

from tidemill.config import Pipeline
from tidemill.flows.artifacts import Artifacts
from tidemill.masking import message_of

if TYPE_CHECKING:
    from tidemill.pictures import Report


def leave_report(pipeline: Pipeline, artifacts: Artifacts, logger: Logger | LoggerAdapter[Any]) -> None:
    """Write the page at `report.path` and leave its main pictures as an artifact.

    What went wrong is a line of the log: the rows are committed.
    """
    if pipeline.report.path is None:
        return
    try:
        from tidemill.pictures import make_report
        from tidemill.pictures.page import page
        from tidemill.pictures.writing import write_page

        report = make_report(pipeline)
        write_page(page(report), pipeline.report.path, "report.path", with_folder=True)
        artifacts.report(shown(report, pipeline.report.path))
    except Exception as e:  # noqa: BLE001 — whatever it is, the run is done.
        logger.warning("There is no new report: %s", message_of(e))


def shown(report: Report, address: str) -> str:
    """The main pictures in Markdown, and where the whole page is."""
    from tidemill.pictures.page.plain import in_markdown

    return "\n\n".join([f"The whole report: `{address}`", *map(in_markdown, report.main_pictures)])
