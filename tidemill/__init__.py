"""Tidemill keeps SQL tables of model predictions over datasets up to date.

What is named here is the public surface; a script needs no more:

    import tidemill

    result = tidemill.run("reviews.toml")
    labels = tidemill.sql("reviews.toml", "SELECT label, count(*) FROM reviews GROUP BY label").df()

Names are imported when they are first used; `__init__.pyi` tells type checkers what they are. None of them may be a
module's too: once imported, the module would take its place.
"""

from __future__ import annotations

from importlib import import_module

__all__ = [
    *("Lake", "Pipeline", "Run", "RunResult", "TidemillError", "__version__", "load_pipeline", "make_plan"),
    *("plan", "run", "sql", "status", "verify"),
]

_MODULES = {
    "Lake": "tidemill.lake",
    "Pipeline": "tidemill.config",
    "Run": "tidemill.running.run",
    "RunResult": "tidemill.running.recording",
    "TidemillError": "tidemill.errors",
    "load_pipeline": "tidemill.config",
    "make_plan": "tidemill.planning.plan",
    **dict.fromkeys(("plan", "run", "sql", "status", "verify"), "tidemill.api"),
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("tidemill")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
