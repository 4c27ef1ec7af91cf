"""What may happen to the bytes of a file."""

from __future__ import annotations

import random


def damages(body: bytes, chance: random.Random) -> dict[str, bytes]:
    """One damage of each kind that a file may suffer, at a place that chance picks; each differs from `body`."""
    start = chance.randrange(len(body))
    stop = start + 1 + chance.randrange(64)
    flipped = bytes([body[start] ^ 1 << chance.randrange(8)])
    noise = chance.randbytes(1 + chance.randrange(64))
    every = {
        "a bit flipped": body[:start] + flipped + body[start + 1 :],
        "truncated": body[:start],
        "its head cut": body[start + 1 :],
        "zeros": body[:start] + bytes(len(body[start:stop])) + body[stop:],
        "ones": body[:start] + b"\xff" * len(body[start:stop]) + body[stop:],
        "a hole": body[:start] + body[stop:],
        "something put in": body[:start] + noise + body[start:],
        "something appended": body + noise,
        "zeros appended": body + bytes(len(noise)),
        "twice": body + body,
        "only zeros": bytes(len(body)),
        "empty": b"",
    }
    return {kind: damaged for kind, damaged in every.items() if damaged != body}
