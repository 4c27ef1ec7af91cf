"""Two versions held against what people say is right: which has more rows right, and whether that is more than chance.

Rows whose text either model learned from are left out, as far as this machine knows them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.checkpoints.learned import learned_texts
from tidemill.errors import ConfigError, InputError
from tidemill.lake import Cursor
from tidemill.lake.ducklake.reading import check_condition, check_definitions, readable
from tidemill.lake.tables import identifier
from tidemill.models.comparing import Pair
from tidemill.models.comparing.significance import difference, macro_f1, mcnemar

STATEMENT = re.compile(r"\s*(\(\s*)*(select|with|from)\b", re.IGNORECASE)
PLACE = ("shard_id", "row_number")
"""What names a row where a query gives both: marks do."""
NAMES = ("truth", "label")
"""What the column of right answers is called; else it is the last one."""


def held_against(
    cursor: Cursor, truth: str, answer: Pair, kept: Sequence[str], models: Sequence[str], by: str | None
) -> dict[str, Any]:
    """What the view `pairs` has of two versions, against `truth`: a query with key columns and the right answer, or an
    expression over key and kept columns. `models` are the versions' models, by their identities.

    Raises:
        InputError: the SQL is wrong, does more than read, or names no row.
    """
    try:
        _name_judged(cursor, truth, answer, kept, models, by)
        return _measured(cursor, by)
    except duckdb.Error as e:
        raise InputError(f"--truth: {e}") from e


def _name_judged(
    cursor: Cursor, truth: str, answer: Pair, kept: Sequence[str], models: Sequence[str], by: str | None
) -> None:
    """Make the table `judged`: both answers, the right one, and whether a model learned from the row's text."""
    learned = sorted({text for model in models for text in learned_texts(model)})
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE learned AS SELECT unnest(?::UUID[]) AS _text_hash",
        [[text.hex() for text in learned]],
    )
    value = f"pairs.{identifier(by)}" if by else "NULL"
    columns = (
        f"{answer.first}::VARCHAR AS first, {answer.second}::VARCHAR AS second, {value} AS slice, "
        "_text_hash IN (FROM learned) AS is_learned"
    )
    if STATEMENT.match(truth):
        keys, right = _query_columns(cursor, truth, kept)
        using = ", ".join(map(identifier, keys))
        # The place of a row is there in any case, under a name that no kept column has.
        same = " AND ".join(
            f"pairs.{identifier(f'_{name}' if name in PLACE else name)} = t.{identifier(name)}" for name in keys
        )
        source = f"SELECT {columns}, t._truth::VARCHAR AS truth FROM pairs JOIN truths t ON {same}"
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE truths AS SELECT {using}, {identifier(right)} AS _truth FROM ({truth})"
        )
        _refuse_repeated(cursor, using)
    else:
        check_condition(truth, option="--truth")
        source = f"SELECT {columns}, (\n{truth}\n)::VARCHAR AS truth FROM pairs"
    cursor.execute(f"CREATE OR REPLACE TEMP TABLE judged AS FROM ({source}) WHERE truth IS NOT NULL")


def _query_columns(cursor: Cursor, truth: str, kept: Sequence[str]) -> tuple[list[str], str]:
    """The columns by which the query's rows are found, and the one with the right answer."""
    check_definitions(cursor, truth)
    (statement,) = found if len(found := readable(cursor, truth)) == 1 else (None,)
    if statement is None:
        raise ConfigError("--truth is several statements. Give one query.")
    names = [column[0] for column in cursor.execute(f"SELECT * FROM ({truth}) LIMIT 0").description or []]
    right = next((name for name in NAMES if name in names), names[-1])
    keys = list(PLACE) if set(PLACE) <= set(names) else [name for name in names if name != right and name in kept]
    if not keys:
        raise ConfigError(
            f"--truth gives {', '.join(names)}: none of them but {right} is a key or kept column of both tables, so "
            f"that no row is found. Give one of: {', '.join(kept) or 'none; name some in dataset.key'}."
        )
    return keys, right


def _refuse_repeated(cursor: Cursor, using: str) -> None:
    found = cursor.execute(
        f"SELECT count(*), count(DISTINCT _truth) FROM truths GROUP BY {using} HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    if found:
        raise ConfigError(f"--truth gives {found[0]} rows for one value of {using}. Give one row each.")


def _measured(cursor: Cursor, by: str | None) -> dict[str, Any]:
    (num_learned,) = cursor.execute("SELECT count(*) FROM judged WHERE is_learned").fetchone() or (0,)
    counts = cursor.execute(
        "SELECT slice, first, second, truth, count(*) FROM judged WHERE NOT coalesce(is_learned, false) GROUP BY ALL"
    ).fetchall()
    if not counts:
        beside = f" beside {num_learned:,} that a model learned from" if num_learned else ""
        raise ConfigError(f"--truth names no row that both versions have{beside}. Check its keys.")
    found = {**_facts([row[1:] for row in counts]), "learned": num_learned}
    unknown = {row[3] for row in counts} - {said for row in counts for said in row[1:3]}
    found["never_said"] = sorted(map(str, unknown))
    if by:
        values = sorted({row[0] for row in counts}, key=lambda value: (value is None, str(value)))
        slices = [{"value": value, **_facts([row[1:] for row in counts if row[0] == value])} for value in values]
        found["slices"] = sorted(slices, key=lambda part: -part["rows"])
    return found


def _facts(counts: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Of (first answer, second answer, right answer, rows)."""
    num = sum(row[3] for row in counts)
    only_first = sum(rows for first, second, truth, rows in counts if first == truth != second)
    only_second = sum(rows for first, second, truth, rows in counts if second == truth != first)
    right = [sum(row[3] for row in counts if row[side] == row[2]) for side in (0, 1)]
    return {
        "rows": num,
        "accuracy": [share / num for share in right],
        "f1": [macro_f1([(row[side], row[2], row[3]) for row in counts]) for side in (0, 1)],
        "only_first_right": only_first,
        "only_second_right": only_second,
        "difference": difference(only_first, only_second, num),
        "test": "mcnemar",
        "p_value": mcnemar(only_first, only_second),
    }
