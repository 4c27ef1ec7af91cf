"""Whether the files of a dataset hold texts or chats in a column of texts: a model is given them differently."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tidemill.values.parts import are_chats


class TextKinds:
    """Of the files whose columns were looked at."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._texts: dict[str, dict[str, None]] = {}
        self._chats: dict[str, dict[str, None]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._seen

    def look(self, path: str, schema: pa.Schema, names: Sequence[str]) -> None:
        self._seen.add(path)
        for name in names:
            if schema.names.count(name) == 1 and not pa.types.is_null(schema.field(name).type):
                kind = self._chats if are_chats(schema.field(name).type) else self._texts
                kind.setdefault(name, {})[path] = None

    @property
    def notes(self) -> list[str]:
        """A line for each column that holds texts in some files and chats in others."""
        return [
            _differ(name, [*self._texts[name]], [*chats]) for name, chats in self._chats.items() if name in self._texts
        ]


def _differ(name: str, texts: Sequence[str], chats: Sequence[str]) -> str:
    return (
        f"{name!r} holds texts in {_few(texts)}, and chats in {_few(chats)}: chats go through the model's chat "
        "template, and to quarantine where it has none. Narrow dataset.path to the files of one kind if that is not "
        "meant."
    )


def _few(paths: Sequence[str]) -> str:
    first = paths[0] if paths[0].isprintable() else repr(paths[0])
    return f"{first} and {len(paths) - 1:,} more" if len(paths) > 1 else first
