"""Answers that have a form: the text becomes the columns of its form, or the row has none and a reason."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.structured import AnswerSchema


def in_form(form: AnswerSchema, table: pa.Table, *, text_column: str, is_cut: pa.Array) -> tuple[pa.Table, pa.Array]:
    """The table with the columns of the form, and why a row has no answer; null in all columns where it has none."""
    texts = form.texts(table[text_column].combine_chunks())
    columns, reasons = form.parse(texts, pc.invert(is_cut).to_numpy(zero_copy_only=False))
    table = table.set_column(table.schema.get_field_index(text_column), text_column, texts)
    for field, column in zip(form.fields, columns, strict=True):
        table = table.append_column(field, column)
    is_answer = pc.is_null(reasons)
    kept = [pc.if_else(is_answer, column, pa.scalar(None, column.type)) for column in table.columns]
    return pa.table(kept, schema=table.schema), reasons
