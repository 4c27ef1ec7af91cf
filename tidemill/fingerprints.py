"""How things are named: by a hash of all that makes them what they are."""

from __future__ import annotations

import hashlib


def fingerprint(*parts: object) -> str:
    """32 hex digits that name `parts`, in order; parts are joined unambiguously."""
    encoded = [str(part).encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in encoded)).hexdigest()[:32]
