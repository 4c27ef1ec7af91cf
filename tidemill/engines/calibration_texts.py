"""The texts by which int8 sets its ranges: the same for every pipeline and machine, so that its answers are.

400 of the sample reviews (MIT, Hutto & Gilbert, ICWSM 2014), alone and joined to longer ones.
"""

from __future__ import annotations

from importlib.resources import files

JOINED = (1, 1, 2, 4, 8, 16)
"""How many reviews become one text, in turn."""


def calibration_texts() -> list[str]:
    lines = files("tidemill.engines").joinpath("calibration.txt").read_text(encoding="utf-8").splitlines()
    texts: list[str] = []
    start = 0
    while start < len(lines):
        num_lines = JOINED[len(texts) % len(JOINED)]
        texts.append(" ".join(lines[start : start + num_lines]))
        start += num_lines
    return texts
