"""What an error says of memory: a model that finds none is no model that cannot be converted."""

from __future__ import annotations


def began_with_memory(error: BaseException | None) -> bool:
    """Whether that error, or any that it was raised from, is out of memory."""
    while error is not None:
        if isinstance(error, Exception) and is_out_of_memory(error):
            return True
        error = error.__cause__
    return False


def is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator and cuBLAS raise a plain RuntimeError.
    said = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in said for sign in signs)
