"""Python and the packages: whether each has a version that Tidemill takes."""

from __future__ import annotations

import platform
from importlib import metadata

from tidemill.diagnosis.finding import Finding

SHOWN = ("torch", "transformers", "tokenizers", "datasets", "huggingface_hub", "pyarrow", "duckdb", "prefect")
INSTALL = "pip install --upgrade 'tidemill' -c constraints.txt"


def python() -> list[Finding]:
    return [Finding("python", "python", "works", f"{platform.python_version()}, {platform.system()}")]


def versions() -> list[Finding]:
    """What is installed, and what of it is of a version that `pyproject.toml` does not allow."""
    findings = [
        Finding("python", name, "fails", said, f"pip install '{wanted}'", needed=True)
        for name, said, wanted in _unfit()
    ]
    shown = ", ".join(f"{name} {version}" for name in SHOWN if (version := installed(name)))
    return [Finding("python", "packages", "works", shown), *findings]


def installed(name: str) -> str | None:
    """A distribution's version, if there is one."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _unfit() -> list[tuple[str, str, str]]:
    """(name, what is wrong, what is wanted) of each required package that is missing or of another version."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("tidemill") or []]
    except metadata.PackageNotFoundError:
        return []
    found = []
    for wanted in requirements:
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = installed(wanted.name)
        if version is None:
            found.append((wanted.name, "not installed", str(wanted)))
        elif not wanted.specifier.contains(version, prereleases=True):
            found.append((wanted.name, f"{version} is installed, and {wanted.specifier} is needed", str(wanted)))
    return found
