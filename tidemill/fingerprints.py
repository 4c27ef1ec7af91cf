"""How things are named: by a hash of all that makes them what they are."""

from __future__ import annotations

import hashlib


def fingerprint(*parts: object) -> str:
    """32 hex digits that name `parts`, in order; parts are joined unambiguously."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = str(part).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()[:32]
