"""Tidemill keeps SQL tables of model predictions over datasets up to date.

What is named here is the public surface; a script needs no more:

    from tidemill import Run, load_pipeline

    result = Run(load_pipeline("reviews.toml")).execute()

Names are imported when they are first used; `__init__.pyi` tells type checkers what they are.
"""

from __future__ import annotations

from importlib import import_module

__all__ = ["Lake", "Pipeline", "Run", "RunResult", "TidemillError", "load_pipeline", "make_plan"]

_MODULES = {
    "Lake": "tidemill.lake",
    "Pipeline": "tidemill.config",
    "Run": "tidemill.running.run",
    "RunResult": "tidemill.running.recording",
    "TidemillError": "tidemill.errors",
    "load_pipeline": "tidemill.config",
    "make_plan": "tidemill.planning.plan",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
