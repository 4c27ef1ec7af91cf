"""The elements of a JSON array as they pass by, a line each: every byte stays where it is in the file.

Commas between elements become newlines, and newlines within them spaces. What an
element is made of is left to who reads the lines; here only strings and brackets
are told apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
import numpy.typing as npt

from tidemill.errors import FormatError
from tidemill.formats.streams.compressions import Readable

Places = npt.NDArray[np.int64]

_QUOTE, _BACKSLASH, _COMMA, _LF, _CR, _SPACE = b'"\\,\n\r '
_BLANKS = b" \t\r\n"
_SEARCHED_AT_ONCE = 2**16
_SCANNED_AT_ONCE = 2**17
"""So few that what is made of them stays in the processor's cache."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}:"]', re.DOTALL)
_MOST_NAMES = 10

_KIND = np.zeros(256, np.int8)
_KIND[list(b"[{")] = 1
_KIND[list(b"]}")] = -1
_COMMA_KIND = 2
_KIND[_COMMA] = _COMMA_KIND


class ArrayLines:
    """Reads `file`, which stands between two elements of an array, and ends where the array does.

    `num_outer` objects are around the array. `after_comma` says whether the next
    element must come. What follows the array is read to its end, to see that the
    file was not cut short.
    """

    def __init__(self, file: Readable, path: str, *, num_outer: int, after_comma: bool) -> None:
        self._file, self._path, self._num_outer = file, path, num_outer
        self._structure = _Structure()
        self._depth = 0
        self._is_blank = True
        """Whether of the current element nothing was seen yet."""
        self._after_comma = after_comma
        self._rest: bytes | None = None

    def read(self, size: int = -1, /) -> bytes:
        while self._rest is None:
            block = self._file.read(min(size, _SCANNED_AT_ONCE))
            if not block:
                raise self._cut_short()
            if lines := self._lines(block):
                return lines
        self._check_rest()
        return b""

    def _lines(self, block: bytes) -> bytes:
        values = np.frombuffer(block, np.uint8)
        places, kinds = self._structure.of(values)
        depths = self._depth + np.cumsum(np.where(kinds == _COMMA_KIND, 0, kinds))
        closing = np.flatnonzero(depths < 0)
        if len(closing):
            stop = int(closing[0])
            places, kinds, depths = places[:stop], kinds[:stop], depths[:stop]
            close = int(self._structure.places[stop])
            self._rest = block[close + 1 :]
            block, values = block[:close], values[:close]
        elif len(depths):
            self._depth = int(depths[-1])
        lines = values.copy()
        lines[self._structure.outside_newlines(values)] = _SPACE
        self._cut(lines, block, places[(kinds == _COMMA_KIND) & (depths == 0)])
        closed_early = self._rest is not None and self._after_comma and self._is_blank
        return lines.tobytes() + (b"," if closed_early else b"")

    def _cut(self, lines: npt.NDArray[np.uint8], block: bytes, commas: Places) -> None:
        """Make newlines of the commas. One before which nothing stands remains: a line that is no record."""
        starts = np.concatenate([[0], commas[:-1] + 1]) if len(commas) else commas
        is_odd = np.isin(lines[np.maximum(commas - 1, 0)], np.frombuffer(_BLANKS + b",", np.uint8)) | (commas == starts)
        lines[commas] = _LF
        for index in np.flatnonzero(is_odd).tolist():
            between = block[starts[index] : commas[index]]
            if not between.strip(_BLANKS) and (index or self._is_blank):
                lines[commas[index]] = _COMMA
        tail = block[int(commas[-1]) + 1 :] if len(commas) else block
        self._is_blank = not tail.strip(_BLANKS) and (self._is_blank or len(commas) > 0)
        self._after_comma = self._after_comma or len(commas) > 0

    def _check_rest(self) -> None:
        depth, structure = self._num_outer, _Structure()
        while block := self._rest or self._file.read(_SEARCHED_AT_ONCE):
            self._rest = b""
            if depth:
                depth, block = _closed(structure, depth, block)
            if not depth and (more := block.strip(_BLANKS)):
                raise FormatError(f"{self._path} holds more than one JSON value: {more[:40]!r} follows the first.")
        if depth:
            raise self._cut_short()
        self._num_outer = 0

    def _cut_short(self) -> FormatError:
        return FormatError(
            f"{self._path} ends before its JSON array does. It is cut short, or a quote in it is never closed: "
            f"replace it, or leave it out."
        )


class _Structure:
    """Which brackets and commas stand outside of strings, block by block."""

    def __init__(self) -> None:
        self.places: Places = np.zeros(0, np.int64)
        self._quotes: Places = np.zeros(0, np.int64)
        self._in_string = self._was_in_string = False
        self._is_escaped = False

    def of(self, values: npt.NDArray[np.uint8]) -> tuple[Places, npt.NDArray[np.int8]]:
        """Where they are, and of which kind: 1 opens, -1 closes, 2 is a comma."""
        self._was_in_string = self._in_string
        self._quotes = self._unescaped(values)
        self._in_string ^= bool(len(self._quotes) % 2)
        kinds = _KIND[values]
        self.places = self._outside(np.flatnonzero(kinds))
        return self.places, kinds[self.places]

    def outside_newlines(self, values: npt.NDArray[np.uint8]) -> Places:
        """Of the same block: a newline within a string stays, for it makes the string malformed."""
        return self._outside(np.flatnonzero((values == _LF) | (values == _CR)))

    def _outside(self, places: Places) -> Places:
        before = np.searchsorted(self._quotes, places) + self._was_in_string
        outside: Places = places[before % 2 == 0]
        return outside

    def _unescaped(self, values: npt.NDArray[np.uint8]) -> Places:
        """The quotes before which no backslash stands that counts."""
        quotes = np.flatnonzero(values == _QUOTE)
        backslashes = np.flatnonzero(values == _BACKSLASH)
        if not len(backslashes) and not self._is_escaped:
            return quotes
        escaped = np.zeros(len(values) + 1, bool)
        escaped[escaped_places(backslashes, first_is_escaped=self._is_escaped)] = True
        self._is_escaped = bool(escaped[-1])
        return quotes[~escaped[quotes]]


def _closed(structure: _Structure, depth: int, block: bytes) -> tuple[int, bytes]:
    """How many brackets are open behind a block; and, if none is, what stands behind the last."""
    places, kinds = structure.of(np.frombuffer(block, np.uint8))
    depths = depth + np.cumsum(np.where(kinds == _COMMA_KIND, 0, kinds))
    ends = np.flatnonzero(depths == 0)
    if len(ends):
        return 0, block[int(places[ends[0]]) + 1 :]
    return (int(depths[-1]) if len(depths) else depth), b""


def escaped_places(escapes: Places, *, first_is_escaped: bool = False) -> Places:
    """Which characters an escape character stands before, itself not escaped."""
    # In a run of them each second one is itself escaped.
    run_starts = np.diff(escapes, prepend=-2) != 1
    in_run = np.arange(len(escapes)) - np.maximum.accumulate(np.where(run_starts, np.arange(len(escapes)), 0))
    if first_is_escaped and len(escapes) and escapes[0] == 0:
        length = int(np.argmin(np.diff(escapes, append=-2) == 1)) + 1
        in_run[:length] += 1
    escaped: Places = escapes[in_run % 2 == 0] + 1
    return np.concatenate([[0], escaped]).astype(np.int64) if first_is_escaped else escaped


def find_array(read: Callable[[int], bytes], field: str | None, path: str) -> tuple[int, int]:
    """Where the first element begins of the array that is the file's value, or that of a dotted field in its objects.

    And how many objects are around it.

    Raises:
        FormatError: there is no such array; the message says what there is.
    """
    keys: list[str | None] = []  # of the objects around, the key that we are at; None for an array around
    seen: list[str] = []
    first, name = b"", b""
    for token, stop in _tokens(read):
        first = first or token
        dotted = None if None in keys else ".".join(map(str, keys))
        if token == b"[" and dotted == (field or ""):
            return stop, len(keys)
        if token in (b"[", b"{"):
            if token == b"[" and dotted and len(seen) < _MOST_NAMES:
                seen.append(dotted)
            if not keys and (token == b"[" or field is None):
                break
            keys.append(None if token == b"[" else "")
        elif token in (b"]", b"}"):
            keys = keys[:-1]
        elif token == b":" and keys:
            keys[-1] = _key(name)
        name = token
    raise FormatError(f"{path} {_no_array(field, seen, first)}")


def first_array_of_objects(head: bytes) -> str | None:
    """The dotted field of the first array that begins with an object, within the objects that begin a file."""
    keys: list[str | None] = []
    name = before = b""
    for token, _ in _tokens(BytesIO(head).read):
        if token == b"{" and before == b"[" and None not in keys[:-1]:
            return ".".join(map(str, keys[:-1])) or None
        if token in (b"[", b"{"):
            keys.append(None if token == b"[" else "")
        elif token in (b"]", b"}"):
            keys = keys[:-1]
        elif token == b":" and keys:
            keys[-1] = _key(name)
        name = before = token
    return None


def _no_array(field: str | None, seen: list[str], first: bytes) -> str:
    if field is None and first == b"{":
        return (
            'is not a JSON array but begins with an object. Name the array within it, as in dataset.field = "data", '
            'or set dataset.format = "jsonl" if each line is an object.'
        )
    if field is None:
        return "is not a JSON array."
    if first == b"[" and not seen:
        return f"is itself a JSON array, and has no field {field!r}. Remove dataset.field."
    there = f" It has arrays at {', '.join(map(repr, seen))}." if seen else ""
    return f"has no JSON array at {field!r}.{there} Set dataset.field to where its records are."


def _key(token: bytes) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        return token.decode("utf-8", "replace")


def _tokens(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, int]]:
    """Strings, brackets and colons, each with where it ends."""
    buffer, offset = b"", 0
    while True:
        block = read(max(_SEARCHED_AT_ONCE, len(buffer)))
        buffer += block
        done = 0
        for found in _TOKEN.finditer(buffer):
            if found[0] == b'"':
                break  # the rest of the string is in the next block
            done = found.end()
            yield found[0], offset + done
        else:
            done = len(buffer)
        buffer, offset = buffer[done:], offset + done
        if not block:
            return
