"""Plain text: a row a line, empty lines included. Lines are those that Python's `open` reads."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.formats.records import Buffer, Offsets, RecordReader, has_lone_returns, line_ends
from tidemill.shards import Slice
from tidemill.values.rows import build_rows


class TextReader(RecordReader):
    """Lines end with LF, CRLF or CR, which is not part of the text."""

    content_seed = "text"

    def schema(self) -> pa.Schema:
        return pa.schema([("text", pa.string())])

    def common_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        del b  # there is one column, of strings
        return a

    def gives_back(self, name: str, to: pa.DataType) -> bool:
        del name, to
        return True

    def ends(self, data: Buffer, *, last: bool) -> Offsets:
        return line_ends(data, last=last)

    def changed_seed(self, data: bytes) -> str:
        # That a CR ends a line was not always so.
        return f"{self.content_seed}, CR" if has_lone_returns(data) else self.content_seed

    def parse(self, cut: Slice, data: bytes) -> pa.Table:
        lines = data.replace(b"\r\n", b"\n")
        if not self.is_former(cut, data):
            lines = lines.replace(b"\r", b"\n")
        texts = pc.split_pattern(_as_cell(lines, len(lines) - lines.endswith(b"\n")), b"\n").flatten()
        return build_rows(cut.first_row, pa.table({"text": texts}), self.columns, {"text": pa.string()}, {})


def _as_cell(data: bytes, size: int) -> pa.Array:
    """The first `size` bytes as the only cell of a column, not copied."""
    offsets = pa.py_buffer(np.array([0, size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)])
