"""The pages of the documentation, as what they have to be run for: their blocks, in order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.pipelines import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "data" / "LICENSES.md"])
SHOWN = {"text", "json"}
"""Languages of blocks that nobody types: drawings, outputs, answers."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (.+) -->$")
TABLE = "┌│├└"
HEREDOC = re.compile(r"<<'?(\w+)'?$")


@dataclass(frozen=True)
class Block:
    """A block between fences; `above` is the line of text before it, and `mark` the comment between the two:

    - `not run: WHY`: no test runs it;
    - `exits 1`: what its last command ends with.
    """

    page: Path
    line: int
    language: str
    mark: str
    above: str
    text: str

    @property
    def why_not_run(self) -> str | None:
        """Why no test runs it; None of one that is run."""
        if self.language in SHOWN or self.is_synopsis:
            return "nobody types it"
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else None

    @property
    def is_typed(self) -> bool:
        return self.why_not_run is None and self.language != "toml"

    @property
    def is_synopsis(self) -> bool:
        """What a command's page begins with: all of its options, as `--help` shows them."""
        return self.page.parent.name == "commands" and self.above.startswith("# ")

    @property
    def exit_code(self) -> int:
        found = re.fullmatch(r"exits (\d)", self.mark)
        return int(found[1]) if found else 0

    @property
    def file(self) -> str | None:
        """The file whose content it is: the one that the line above begins with."""
        found = re.match(r"`([\w./-]+)`", self.above)
        return found[1] if found and self.language == "toml" else None

    @property
    def commands(self) -> str:
        """What is typed, less what is printed: a line after `$ `, to the end of its quotes or of its document."""
        lines = self.text.splitlines()
        if not any(line.startswith("$ ") for line in lines):
            return self.text
        return "".join(f"{line}\n" for line, typed in _typed(lines) if typed)

    @property
    def printed(self) -> list[str]:
        """What is shown below the commands, less tables, whose cells depend on the model."""
        lines = self.text.splitlines()
        if "$ " not in self.text or "───  " in self.text:
            return []
        return [line for line, typed in _typed(lines) if not typed and line not in ("", "...") and line[0] not in TABLE]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [_block(page, text[: found.start()], *found.groups()) for found in BLOCK.finditer(text)]


def _block(page: Path, before: str, language: str, text: str) -> Block:
    *_, above, last = ["", "", *filter(None, before.splitlines())]
    mark = MARK.match(last)
    return Block(page, before.count("\n") + 1, language, mark[1] if mark else "", above if mark else last, text)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _typed(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Each command, however many lines it has, and each line that is printed; and whether it is a command."""
    rest = iter(lines)
    for line in rest:
        command = line.removeprefix("$ ")
        while command != line and not _is_whole(command):
            command += "\n" + next(rest)
        yield command, command != line


def _is_whole(command: str) -> bool:
    first = command.partition("\n")[0]
    if document := HEREDOC.search(first):
        return command.endswith(f"\n{document[1]}")
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")
