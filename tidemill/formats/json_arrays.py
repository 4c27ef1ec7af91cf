"""JSON arrays: a record an element, of the file's one value or of an array within its objects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

from tidemill.formats.jsonl import JsonlReader
from tidemill.formats.streams.arrays import ArrayLines, find_array
from tidemill.formats.streams.stream import Stream
from tidemill.values.rows import Problems


class JsonArrayReader(JsonlReader):
    """Its elements are read as lines of JSON are: see `streams.arrays`."""

    @cached_property
    def _array(self) -> tuple[int, int]:
        return find_array(Stream(self._bytes).take, self.columns.field, self.path)

    @property
    def body_start(self) -> int:
        return self._array[0]

    @cached_property
    def is_empty(self) -> bool:
        return not self.head(1) or not self.sample(self.body_start)[0]

    def stream(self, start: int) -> Stream:
        """A slice begins behind the comma of the element before; behind the last element there is none."""
        stream = Stream(self._bytes, start - 1)
        after_comma = stream.take(1) == b","
        return stream.through(
            partial(ArrayLines, path=self.path, num_outer=self._array[1], after_comma=after_comma),
        )

    def _other_json(self, lines: Sequence[bytes], problems: Problems) -> str | None:
        if len(problems) < len(lines):
            return None
        return f"an array without objects ({problems[0]}). Its elements must be objects: leave the file out."
