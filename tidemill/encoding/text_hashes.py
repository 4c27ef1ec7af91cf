"""The hash of each text that is given to the tokenizer: by it a text is known again where it is not kept."""

from __future__ import annotations

import hashlib

import pyarrow as pa

HASH_BYTES = 16


def text_hashes(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One UUID a text, null where the text is.

    >>> text_hashes(pa.array(["a text", None, "a text"])).to_pylist()[0].hex
    '706860d9e8c7ee1c65261bc1e5b75631'
    """
    binary = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    digests = [None if text is None else _digest(text) for text in texts.cast(binary).to_pylist()]
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(digests, pa.binary(HASH_BYTES)))


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=HASH_BYTES).digest()
