"""Colours, patterns and marks that people can tell apart who see few colours, on a light ground and on a dark one."""

from __future__ import annotations

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C00", "#6A51A3")
"""After Okabe and Ito, for people who tell few colours apart; without black and yellow, which one ground hides."""
GREY = "#8A8A8A"
PATTERNS = ("", "/", ".", "x")
LONGEST_TICK = 28
MARKS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hexagon")
