"""The API as a page: what OpenAPI says of it, without a script or anything from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;"
    "background:#fff}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}code,pre{font:14px/1.45 ui-monospace,monospace}"
    "pre{background:#f3f3f3;padding:.75rem;overflow:auto}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}pre{background:#262626}}"
)


def page(schema: Mapping[str, Any]) -> str:
    """In the order of the schema: each kind of routes, and each of them with its examples."""
    parts, tag = [f"<h1>{escape(schema['info']['title'])}</h1>{_paragraphs(schema['info']['description'])}"], None
    for path, of_path in schema["paths"].items():
        for method, operation in of_path.items():
            if (operation.get("tags") or [""])[0] != tag:
                tag = (operation.get("tags") or [""])[0]
                parts.append(f"<h2>{escape(tag)}</h2>")
            parts.append(_operation(path, method, operation))
    title = escape(schema["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><body><main>{''.join(parts)}</main></body></html>"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = [
        f"<p>{escape(example['summary'])}</p><pre>{escape(_command(path, example['value']))}</pre>"
        for example in content.get("examples", {}).values()
    ]
    heading = f"<h3><code>{method.upper()} {escape(path)}</code> {escape(operation.get('summary', ''))}</h3>"
    return heading + _paragraphs(operation.get("description", "")) + "".join(examples)


def _command(path: str, body: Any) -> str:
    return (
        f'curl "$ADDRESS{path}" -H "Authorization: Bearer $TIDEMILL_TOKEN" \\\n'
        f"  -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph)
