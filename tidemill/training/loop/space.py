"""What the libraries that write weights raise where there is no space, as what it is: the system's own error."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

OF_SAFETENSORS = re.compile(r"os error (\d+)")
OF_TORCH = ("PytorchStreamWriter failed", "unexpected pos")
"""Torch says that a write failed and not why; a file system that is full is the usual reason."""


@contextmanager
def writing_weights() -> Iterator[None]:
    """
    Raises:
        OSError: weights or an optimizer's state could not be written.
    """
    try:
        yield
    except Exception as e:
        number = _number(e)
        if number is None:
            raise
        raise OSError(number, os.strerror(number)) from e


def _number(error: Exception) -> int | None:
    from safetensors import SafetensorError

    if isinstance(error, SafetensorError) and (found := OF_SAFETENSORS.search(str(error))):
        return int(found[1])
    if isinstance(error, RuntimeError) and any(words in str(error) for words in OF_TORCH):
        return errno.ENOSPC
    return None
