"""What a command tells as JSON, each key of it an attribute too."""

from __future__ import annotations

from typing import Any


class Facts(dict[str, Any]):
    """A dict whose keys can be read as attributes: `facts.files.new` is `facts["files"]["new"]`.

    >>> Facts({"files": {"new": ["a.csv"]}}).files.new
    ['a.csv']
    """

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"There is no {name!r} among {', '.join(self)}.") from None
        return Facts(value) if isinstance(value, dict) else value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self})
