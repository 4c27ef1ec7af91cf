"""The pipeline file, with a comment for each choice; published whole, and over no other file."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from glob import has_magic
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.places import usable
from tidemill.planning.versions import NUM_WINDOWS
from tidemill.proposing.language import language_name
from tidemill.proposing.models import ChosenModel
from tidemill.proposing.proposal import Proposal
from tidemill.proposing.source import is_data_file

LINE_LENGTH = 100
MOST_NAMED = 8


def pipeline_file(proposal: Proposal, folder: Path) -> str:
    """The text of a pipeline file that is to lie in `folder`."""
    return "\n".join([*_lines(proposal, folder), ""])


def publish(text: str, path: Path) -> None:
    """Write a new file, whole.

    Raises:
        ConfigError: there is a file already.
        PlaceUnusable: it cannot be written; nothing is left.
    """
    partial = path.parent / f".{secrets.token_hex(8)}.partial"
    with usable(path.parent, "-o"):
        try:
            partial.write_text(text, encoding="utf-8")
            os.link(partial, path)  # Unlike a rename, it does not replace what has come there meanwhile.
        except FileExistsError as e:
            raise already_there(path) from e
        finally:
            partial.unlink(missing_ok=True)


def already_there(path: Path) -> ConfigError:
    return ConfigError(f"There is a file {path} already, and it stays as it is. Name another by -o FILE.toml.")


def why_text(proposal: Proposal) -> str:
    text, num_others = proposal.text, len(proposal.other_texts)
    language = f", in {language_name(proposal.language)}" if proposal.language else ""
    count = _rounded(text.words_per_cell)
    words = f"{count} {'word' if count == '1' else 'words'} a row{language}"
    if not text.reads_like_prose:
        return f"No column reads like prose; this one has the most words: {words}."
    if not num_others:
        return f"The one column of strings: {words}."
    return f"Of {num_others + 1} columns of strings, the one that reads most like prose: {words}."


def why_key(proposal: Proposal) -> str:
    key = proposal.key
    rows = (
        f"all {key.num_rows:,} rows" if key.read_whole else f"the {key.num_rows:,} rows that were read; there are more"
    )
    if not key.columns:
        return "No column names each row by itself, so a row is named by its file and its number there."
    if len(key.columns) == 1:
        return f"No two rows are alike in it, of {rows}."
    return f"No two rows are alike in both, of {rows}; in each alone, some are."


def why_model(proposal: Proposal) -> str:
    model = proposal.model
    labels = ", ".join(model.labels[:MOST_NAMED]) + (" …" if len(model.labels) > MOST_NAMED else "")
    facts = [f"labels: {labels}" if labels else f"gives {', '.join(_first_results(model))}"]
    if model.num_parameters:
        facts.append(f"{model.num_parameters / 1e6:,.0f} million parameters")
    if model.license:
        facts.append(f"licence {model.license}")
    return "; ".join(facts)


def _first_results(model: ChosenModel) -> list[str]:
    return [name for name in model.results if name != NUM_WINDOWS]


def left_out(columns: Mapping[str, str]) -> list[str]:
    """Which columns are left out and why, a reason each."""
    by_reason: dict[str, list[str]] = {}
    for name, why in columns.items():
        by_reason.setdefault(why, []).append(_quoted(name))
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def place_in(folder: Path, path: str) -> str:
    """A local path as it is written in a file in `folder`, where a relative one is taken from that folder.

    One that was given whole, and lies elsewhere, stays whole; so does one with which only the root is common.
    """
    target, base = os.path.abspath(path), os.path.abspath(folder)  # noqa: PTH100 — links stay as they are named.
    common = os.path.commonpath([target, base])
    if common == os.path.sep or (Path(path).is_absolute() and common != base):
        return target
    found = os.path.relpath(target, base)
    # Without a dot it might be the id of a dataset or a model on the Hub.
    return found if found.startswith(".") or is_data_file(found) or has_magic(found) else f"./{found}"


def _lines(proposal: Proposal, folder: Path) -> Iterator[str]:
    source, model = proposal.source, proposal.model
    yield from _comment(f"Written by `tidemill init {shlex.quote(source.name)}`. Every other key has a default.")
    yield f"name = {_quoted(proposal.name)}"
    yield ""
    yield "[dataset]"
    for option, value in source.options.items():
        if option in source.why:
            yield from _comment(source.why[option])
        yield f"{option} = {in_toml(place_in(folder, value) if option == 'path' and source.is_local else value)}"
    yield from _comment(why_text(proposal))
    yield f"text = {_quoted(proposal.text.column)}"
    yield from _comment(why_key(proposal))
    yield f"key = {in_toml(proposal.columns.key)}"
    if proposal.columns.keep:
        yield from _comment("Copied beside the predictions.")
        yield f"keep = {in_toml(proposal.columns.keep)}"
    for reason in left_out(proposal.columns.left_out):
        yield from _comment(f"Left out: {reason}.")
    yield ""
    yield "[model]"
    yield f"task = {_quoted(model.task)}"
    yield from _comment(_sentence(why_model(proposal)))
    yield f"path = {_quoted(place_in(folder, model.path) if model.is_local else model.path)}"
    if model.others:
        yield from _comment(f"Others that fit: {', '.join(model.others)}.")
    if model.options:
        yield ""
        yield "[model.options]"
        for option, value in model.options.items():
            yield f"{option} = {in_toml(value)}"
    if model.address is not None:
        yield from ["", "[inference]", 'engine = "endpoint"', "", "[inference.endpoint]"]
        yield f"base_url = {_quoted(model.address)}"
        yield from _comment('Where it asks for a key: api_key = "$NAME", of a variable of the environment.')


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _comment(text: str) -> Iterator[str]:
    """Comment lines; what TOML does not allow in them is spelled out."""
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    for line in textwrap.wrap(shown, LINE_LENGTH - 2, break_long_words=False, break_on_hyphens=False):
        yield f"# {line}"


def in_toml(value: bool | float | str | Sequence[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    items = [_quoted(item) for item in value]
    line = f"[{', '.join(items)}]"
    return line if len(line) <= LINE_LENGTH - 10 else "[\n" + "".join(f"    {item},\n" for item in items) + "]"


def _quoted(text: str) -> str:
    """A string in TOML: as in JSON, and DEL is no character there."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 1 else f"{number:.1f}"
