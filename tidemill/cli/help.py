"""How `--help` is laid out: commands in groups, those of every day first, and each with its examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

EVERYDAY, VERSIONS = "Every day", "Versions and backfills"
SHARING = "Sharing and serving"
SCHEDULES, UPKEEP = "Schedules", "Looking after a lake"
GROUPS = (EVERYDAY, VERSIONS, SHARING, SCHEDULES, UPKEEP)
OTHERS = "More commands"
"""Of commands that name no group."""
IN_ORDER = ("init", "plan", "run", "sql", "status", "verify", "doctor")
"""The commands of every day, as one comes to need them."""


class Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=self._place)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        names = self.list_commands(ctx)
        for group in (*GROUPS, OTHERS):
            if rows := [(name, summary(self.commands[name])) for name in names if self._group(name) == group]:
                with formatter.section(group):
                    formatter.write_dl(rows)

    def _group(self, name: str) -> str:
        panel = getattr(self.commands[name], "rich_help_panel", None)
        return panel if panel in GROUPS else OTHERS

    def _place(self, name: str) -> tuple[int, int]:
        return (*GROUPS, OTHERS).index(self._group(name)), IN_ORDER.index(name) if name in IN_ORDER else len(IN_ORDER)


class Command(TyperCommand):
    """A command whose epilog is examples, a line each."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def summary(command: Any) -> str:
    """The first sentence of what a command does."""
    text = " ".join((command.help or "").split())
    return text.partition(". ")[0].rstrip(".")


def pipeline_files(incomplete: str) -> Iterator[str]:
    """For the shell to complete: TOML files, and the folders on the way to them."""
    folder = incomplete.rpartition("/")[0]
    for found in sorted(Path(folder or ".").glob("*")):
        shown = f"{folder}/{found.name}" if folder else found.name
        if shown.startswith(incomplete) and not (found.name.startswith(".") and not incomplete):
            if found.is_dir():
                yield f"{shown}/"
            elif found.suffix == ".toml":
                yield shown
