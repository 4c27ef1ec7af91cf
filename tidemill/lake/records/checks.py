"""What must hold of marks."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.errors import counted
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import identifier

NEVER = {
    "a row is marked more than once": """
        SELECT shard_id FROM _marks WHERE pipeline = $pipeline GROUP BY shard_id, row_number HAVING count(*) > 1""",
    "a row that was forgotten is marked": """
        SELECT m.shard_id
        FROM (SELECT * FROM _marks WHERE pipeline = $pipeline) m
        JOIN (SELECT DISTINCT shard_id, content, first_row FROM _shards WHERE pipeline = $pipeline) s USING (shard_id)
        JOIN (SELECT * FROM _forgotten WHERE pipeline = $pipeline) f
            ON f.content = s.content AND f.row_offset = m.row_number - s.first_row""",
}
"""What must never be found of a pipeline's marks."""


def problems_of_marks(cursor: Cursor, pipeline: str) -> Iterator[str]:
    for problem, query in NEVER.items():
        if found := cursor.execute(query, {"pipeline": pipeline}).fetchall():
            yield f"{problem}: {len(found)} found"


def marks_without_rows(cursor: Cursor, pipeline: str, table: str) -> Iterator[str]:
    """A note of marks whose rows the table does not have."""
    left = cursor.execute(
        "SELECT count(*) FROM (SELECT * FROM _marks WHERE pipeline = ?) m "
        f"ANTI JOIN (SELECT shard_id, row_number FROM {identifier(table)} "
        "WHERE shard_id IN (SELECT shard_id FROM _marks WHERE pipeline = ?)) t USING (shard_id, row_number)",
        [pipeline, pipeline],
    ).fetchall()[0][0]
    if left:
        yield f"{counted(left, 'mark')} of rows that the table does not have now; they count when the rows are back."
