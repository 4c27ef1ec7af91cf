"""The hash of what of each row is given to the tokenizer: by it a row is known again where texts are not kept."""

from __future__ import annotations

import hashlib

import pyarrow as pa

HASH_BYTES = 16


def text_hashes(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One UUID a text, null where the text is.

    >>> text_hashes(pa.array(["a text", None, "a text"])).to_pylist()[0].hex
    '706860d9e8c7ee1c65261bc1e5b75631'
    """
    digests = [None if text is None else _digest(text) for text in _as_bytes(texts)]
    return _uuids(digests)


def pair_hashes(first: pa.Array | pa.ChunkedArray, second: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One UUID a pair of texts, null where one is null: of both, and of where one ends and the other begins.

    >>> a, b = pair_hashes(pa.array(["a", "ab"]), pa.array(["bc", "c"])).to_pylist()
    >>> a == b
    False
    """
    pairs = zip(_as_bytes(first), _as_bytes(second), strict=True)
    return _uuids([None if a is None or b is None else _digest_of_pair(a, b) for a, b in pairs])


def row_hashes(rows: pa.Table) -> pa.Array:
    """Of a table's texts, or of its pairs of texts."""
    if "text_pair" in rows.column_names:
        return pair_hashes(rows["text"], rows["text_pair"])
    return text_hashes(rows["text"])


def _as_bytes(texts: pa.Array | pa.ChunkedArray) -> list[bytes | None]:
    binary = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    values: list[bytes | None] = texts.cast(binary).to_pylist()
    return values


def _uuids(digests: list[bytes | None]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(digests, pa.binary(HASH_BYTES)))


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=HASH_BYTES).digest()


def _digest_of_pair(first: bytes, second: bytes) -> bytes:
    hashed = hashlib.blake2b(len(first).to_bytes(8, "big"), digest_size=HASH_BYTES, person=b"text pair")
    hashed.update(first)
    hashed.update(second)
    return hashed.digest()
