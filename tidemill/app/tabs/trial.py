"""Try: a row that somebody types, what the table would hold of it, and whether it is there already."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from tidemill.app.rows import cells
from tidemill.app.source import Source, shown_columns
from tidemill.app.trying import LABELS, MAX_CHARACTERS, Tried, Trying
from tidemill.config import Pipeline
from tidemill.errors import TidemillError
from tidemill.lake.ledger import PATHS_OF_SHARDS
from tidemill.lake.tables import TEXT_HASH, identifier
from tidemill.planning.versions import VersionSpec

MOST_SAME = 5


def build(
    pipeline: Pipeline,
    promoted: Callable[[], VersionSpec],
    source: Source | None = None,
    opened: Sequence[Any] = (),
) -> None:
    """`promoted` says which version answers, and is asked anew for each row and at the events `opened`.

    Without a `source`, nothing is looked up in a table.
    """
    trying, spec = Trying(pipeline), promoted()
    names = columns_read(spec)
    heading, standing = gr.Markdown(_heading(spec)), gr.State(spec.version)
    boxes = [gr.Textbox(label=f"column {name}", lines=4, max_lines=20, max_length=MAX_CHARACTERS) for name in names]
    labels = gr.Textbox(label="labels to choose from, one a line", lines=4, elem_id="tm-labels", **_choice(spec))
    button = gr.Button("Answer", variant="primary", elem_id="tm-try")
    answer = gr.HTML(elem_id="tm-answer")

    def tried(*values: str) -> str:
        *texts, wanted = values
        began = time.monotonic()
        try:
            version = promoted()
            if columns_read(version) != names:
                return cells.message(_reads_others(version), kind="problem")
            row = dict(zip(names, (text or "" for text in texts), strict=True))
            found = trying.row(version, row, [line.strip() for line in wanted.splitlines() if line.strip()])
            told = _told(found, time.monotonic() - began)
            return told + (_in_table(source, version, found) if source is not None else "")
        except TidemillError as e:
            return cells.message(str(e), kind="problem")

    def followed(seen: str) -> list[Any]:
        """What somebody typed stays, until another version is promoted."""
        try:
            version = promoted()
        except TidemillError as e:
            return [str(e), gr.skip(), gr.skip()]
        if version.version == seen:
            return [gr.skip(), gr.skip(), gr.skip()]
        return [_heading(version), version.version, gr.Textbox(**_choice(version))]

    button.click(tried, [*boxes, labels], answer, concurrency_limit=1, concurrency_id="model", api_visibility="private")
    if opened:
        shown = [heading, standing, labels]
        gr.on(opened, followed, standing, shown, api_visibility="private", show_progress="hidden")


def columns_read(spec: VersionSpec) -> list[str]:
    return [*spec.text, *(spec.text_pair or ())]


def _heading(spec: VersionSpec) -> str:
    return f"Version `{spec.version}`, {spec.task}: a row as the table's model answers it, by the same options."


def _choice(spec: VersionSpec) -> dict[str, Any]:
    """The labels that the version chooses from, where it is given them."""
    known = (spec.options or {}).get(LABELS, ())
    return {"value": "\n".join(known), "visible": bool(known)}


def _reads_others(spec: VersionSpec) -> str:
    return (
        f"Version {spec.version}, which was promoted since, reads other columns: {', '.join(columns_read(spec))}. "
        "Start `tidemill app` again."
    )


def _told(found: Tried, seconds: float) -> str:
    how = ", ".join(str(value) for value in found.facts.values() if value)
    told = cells.message(f"{seconds:.2f} s, by {how}." if how else f"{seconds:.2f} s.")
    if found.reason is not None:
        return cells.message(f"The row would be in quarantine: {found.stage}: {found.reason}", kind="problem") + told
    return cells.facts("The table would hold", list(found.results.items())) + told


def _in_table(source: Source, promoted: VersionSpec, found: Tried) -> str:
    if found.version != promoted.version:
        return cells.message(
            f"With these options it is version {found.version}, and not the table's {promoted.version}."
        )
    with source.open() as (cursor, table):
        columns = shown_columns(table)
        shown = ", ".join(f"t.{identifier(name)}" for name in columns)
        rows = cursor.execute(
            f"SELECT l.path, t.row_number, {shown} FROM {identifier(table.name)} t "
            f"JOIN ({PATHS_OF_SHARDS}) l USING (shard_id) WHERE t.{TEXT_HASH} = ?::UUID LIMIT {MOST_SAME}",
            [table.pipeline, table.version, found.text_hash],
        ).fetchall()
    if not rows:
        return cells.message("No row of the table has this text.")
    return cells.table("The table has this text already", ["file", "row", *columns], rows)
