"""What data may look like within a page: nothing in it is read as markup, by the browser or by the plotting library."""

from __future__ import annotations

import html
import json
from typing import Any

_AS_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_UNSEEN = {code: f"\\x{code:02x}" for code in (*range(9), 11, 12, *range(14, 32), 127)}


def json_in_script(value: Any) -> str:
    """JSON for a script element, which nothing in it can end.

    >>> json_in_script({"label": "</script>"})
    '{"label":"\\\\u003c/script\\\\u003e"}'
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_AS_ESCAPES)


def markup_free(name: str) -> str:
    """A name as Plotly shows it letter by letter: it reads `<b>` as markup, and `&lt;` as `<`."""
    return html.escape(name.translate(_UNSEEN), quote=False)


def text_in_html(value: str) -> str:
    return html.escape(value.translate(_UNSEEN))
