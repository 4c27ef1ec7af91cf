"""Two versions held against what people say is right: which has more rows right, and whether that is more than chance.

Rows whose text either model learned from are left out, as far as this machine knows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.checkpoints.learned import learned_texts
from tidemill.errors import ConfigError, InputError, RetryableError
from tidemill.lake import Cursor
from tidemill.lake.ducklake.reading import check_condition, check_definitions, readable
from tidemill.lake.tables import identifier, literal
from tidemill.models.comparing import Pair
from tidemill.models.comparing.significance import difference, macro_f1, mcnemar
from tidemill.planning.versions import VersionSpec, config_of

STATEMENT = re.compile(r"\s*(\(\s*)*(select|with|from)\b", re.IGNORECASE)
PLACE = ("shard_id", "row_number")
"""What names a row where a query gives both: marks do."""
NAMES = ("truth", "label")
"""What the column of right answers is called; else it is the last one."""


@dataclass(frozen=True)
class Judge:
    """`truth` is a query with key columns and the right answer, or an expression over key and kept columns.

    `models` are the versions' models, by their identities. Where `truth` gives true and false, `positive` finds the
    label that true means.
    """

    truth: str
    models: Sequence[str]
    positive: Callable[[], str | None]


def labels_of_boolean(positive: str, labels: Sequence[str]) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """SQL of an answer, and of the right one by a boolean: true means `positive`, false the other label where there are
    two. Where there are more, each answer counts as `positive` or as none.
    """
    others = [label for label in labels if label != positive]
    yes, no = literal(positive), literal(others[0] if len(others) == 1 else f"not {positive}")

    def said(answer: str) -> str:
        return answer if len(others) == 1 else f"if({answer} IS NULL, NULL, if({answer} = {yes}, {yes}, {no}))"

    return said, lambda truth: f"if(({truth}) IS NULL, NULL, if({truth}, {yes}, {no}))"


def highest_label(spec: VersionSpec) -> str | None:
    """The label of the model's highest id; None where its configuration is not at hand."""
    try:
        names = config_of(spec).id2label
    except (InputError, RetryableError):
        return None
    return str(names[max(names)]) if names else None


def held_against(cursor: Cursor, judge: Judge, answer: Pair, kept: Sequence[str], by: str | None) -> dict[str, Any]:
    """What the view `pairs` has of two versions, against what is right.

    Raises:
        InputError: the SQL is wrong, does more than read, or names no row.
    """
    try:
        _name_judged(cursor, judge, answer, kept, by)
        return _measured(cursor, by)
    except duckdb.Error as e:
        raise InputError(f"--truth: {e}") from e


def _name_judged(cursor: Cursor, judge: Judge, answer: Pair, kept: Sequence[str], by: str | None) -> None:
    """Make the table `judged`: both answers, the right one, and whether a model learned from the row's text."""
    truth = judge.truth
    learned = sorted({text for model in judge.models for text in learned_texts(model)})
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE learned AS SELECT unnest(?::UUID[]) AS _text_hash",
        [[text.hex() for text in learned]],
    )
    value = f"pairs.{identifier(by)}" if by else "NULL"
    columns = (
        f"{answer.first}::VARCHAR AS _first, {answer.second}::VARCHAR AS _second, {value} AS slice, "
        "_text_hash IN (FROM learned) AS is_learned"
    )
    if STATEMENT.match(truth):
        truth = truth.strip().rstrip("; \n\t")
        keys, right = _query_columns(cursor, truth, kept)
        using = ", ".join(map(identifier, keys))
        # The place of a row is there in any case, under a name that no kept column has.
        same = " AND ".join(
            f"pairs.{identifier(f'_{name}' if name in PLACE else name)} = t.{identifier(name)}" for name in keys
        )
        source = f"SELECT {columns}, t._truth AS _right FROM pairs JOIN truths t ON {same}"
        cursor.execute(
            f"CREATE OR REPLACE TEMP TABLE truths AS SELECT {using}, {identifier(right)} AS _truth FROM (\n{truth}\n)"
        )
        _refuse_repeated(cursor, using)
    else:
        check_condition(truth, option="--truth")
        source = f"SELECT {columns}, (\n{truth}\n) AS _right FROM pairs"
    as_label, as_right = _meaning(cursor, judge, answer, source)
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE judged AS "
        f"SELECT {as_label('_first')} AS first, {as_label('_second')} AS second, slice, "
        f"is_learned, {as_right('_right')} AS truth FROM ({source}) WHERE _right IS NOT NULL"
    )


def _meaning(
    cursor: Cursor, judge: Judge, answer: Pair, source: str
) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """SQL of an answer, and of the right one, as labels."""
    asked = cursor.execute(f"SELECT _right FROM ({source}) LIMIT 0").description or []
    if str(asked[0][1]) != "BOOLEAN":
        return str, lambda right: f"{right}::VARCHAR"
    either = f"SELECT {answer.first} AS label FROM pairs UNION SELECT {answer.second} FROM pairs"
    rows = cursor.execute(f"SELECT label::VARCHAR FROM ({either}) WHERE label IS NOT NULL ORDER BY label").fetchall()
    labels = [label for (label,) in rows]
    positive = judge.positive()
    if positive is None or (labels and positive not in labels):
        raise ConfigError(
            f"--truth gives true or false, and true means the label {positive}, which no row has. Set report.positive "
            f"to one of: {', '.join(labels[:20])}."
            if positive
            else "--truth gives true or false, and which label true means is not known. Set report.positive to one of: "
            f"{', '.join(labels[:20])}."
        )
    return labels_of_boolean(positive, labels)


def _query_columns(cursor: Cursor, truth: str, kept: Sequence[str]) -> tuple[list[str], str]:
    """The columns by which the query's rows are found, and the one with the right answer."""
    check_definitions(cursor, truth)
    if len(readable(cursor, truth)) != 1:
        raise ConfigError("--truth is several statements. Give one query.")
    names = [column[0] for column in cursor.execute(f"SELECT * FROM (\n{truth}\n) LIMIT 0").description or []]
    right = next((name for name in NAMES if name in names), names[-1])
    keys = list(PLACE) if set(PLACE) <= set(names) else [name for name in names if name != right and name in kept]
    if not keys:
        raise ConfigError(
            f"--truth gives {', '.join(names)}: none of them but {right} is a key or kept column of both tables, so "
            f"that no row is found. Give one of: {', '.join(kept) or 'none; name some in dataset.key'}."
        )
    return keys, right


def _refuse_repeated(cursor: Cursor, using: str) -> None:
    found = cursor.execute(f"SELECT count(*) FROM truths GROUP BY {using} HAVING count(*) > 1 LIMIT 1").fetchone()
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
