"""How a run's record says with which rows a row may share a batch, and why."""

from __future__ import annotations

from tidemill.encoding.batching import EQUAL_LENGTHS, ONE_ROW, Company


def facts_of(company: Company, *, changes_itself: bool = False) -> dict[str, str]:
    """`rows` for lineage; nothing where any rows share a batch, as almost every model allows.

    >>> facts_of("equal lengths")
    {'rows': "of equal length in a batch: padding changes this model's answers"}
    """
    if changes_itself:
        why = "computing changes this model, which is made what it was before each batch"
    elif company == EQUAL_LENGTHS:
        why = "padding changes this model's answers"
    elif company == ONE_ROW:
        why = "whatever is computed with a row changes this model's answers"
    else:
        return {}
    return {"rows": f"{'one' if company == ONE_ROW else 'of equal length'} in a batch: {why}"}
