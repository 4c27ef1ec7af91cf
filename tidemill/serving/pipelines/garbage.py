"""Python's garbage collector, which would stop the service for half a second whenever it looks at everything."""

from __future__ import annotations

import gc


def leave_out_what_is_there() -> None:
    """Collect the garbage, and let later collections look at none of the objects that are left: there are a million.

    What is left out is freed when nothing refers to it. In cycles, as a model may be, it is not until this is called
    again, which takes as long as one whole collection.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
