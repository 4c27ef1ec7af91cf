"""The app opens over whatever a table holds, and what it offers is read again when a tab is opened."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("gradio")


from tests.apps import OpenedPage, opened_page
from tests.made_tables import made_table, second_version
from tidemill.app.tabs.browse import Standing
from tidemill.config import Pipeline

FILTERS = ("", "any", "", "", "any", "is", "", "", "by file")
"""Of the form, as it is when the page is opened."""
MARKUP = "<script>alert('label')</script>"


def labelled(labels: list[str | None], scores: list[float | None] | None = None) -> pa.Table:
    return pa.table(
        {"label": pa.array(labels, pa.string()), "score": pa.array(scores or [0.5] * len(labels), pa.float32())}
    )


def table_in(folder: Path, task: str, results: pa.Table) -> Pipeline:
    """A table of these answers, and a second version of them."""
    kept = {"id": [f"row-{i}" for i in range(results.num_rows)], "text": [f"text {i}" for i in range(results.num_rows)]}
    made = made_table(folder, task, kept, results)
    second_version(made)
    return made


def keys_of(offered: list[Any]) -> list[str]:
    return [
        each["value"] for each in offered if each["__type__"] == "update" and each.get("visible") and each.get("value")
    ]


def rows_shown(page: OpenedPage, *filters: Any) -> str:
    _, shown = page.press("tm-show", Standing(), *(filters or FILTERS))
    return unescape(str(shown))


def test_one_label_is_a_key_and_500_are_in_the_list(tmp_path):
    with opened_page(table_in(tmp_path / "one", "text-classification", labelled([MARKUP] * 3))) as page:
        assert "3 rows of 3." in rows_shown(page)
    names = [f"label {i:03}" for i in range(500)]
    with opened_page(table_in(tmp_path / "many", "text-classification", labelled(names))) as page:
        print(page.open_tab("browse"))
        assert "100 rows of 500." in rows_shown(page)
        assert "1 row, to the end of 500." in rows_shown(page, "", "label 499", *FILTERS[2:])
