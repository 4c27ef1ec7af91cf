"""The rows that two versions of a table both have, side by side, as one query of SQL."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.lake import Cursor, ResultTable
from tidemill.lake.pipelines import load_spec
from tidemill.lake.tables import identifier
from tidemill.models.comparing import Comparison, Pair, Scores, comparison_of
from tidemill.models.tasks import MODEL_TASKS
from tidemill.planning.versions import NUM_WINDOWS, VersionSpec
from tidemill.results.promotion import existing_state, find_version, load_table, standings

Compared = tuple[Comparison, Pair]


@dataclass(frozen=True)
class Shared:
    """What two versions' tables are compared by; other result columns are left out."""

    columns: tuple[Compared, ...]
    kept: tuple[str, ...]
    """Key and kept columns that either table has."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, a: ResultTable, b: ResultTable, specs: tuple[VersionSpec, VersionSpec]) -> Shared:
        theirs, columns, notes = dict(b.results), [], []
        own = _comparisons_of(*specs)
        for name, kind in a.results:
            comparison = own.get(name) or comparison_of(kind)
            if name == NUM_WINDOWS or name not in theirs or comparison is None:
                continue
            if kind == theirs[name]:
                columns.append((comparison, Pair(name, kind)))
            else:
                notes.append(f"{name} is {kind} in {a.version} and {theirs[name]} in {b.version}, and is not compared.")
        kept = dict.fromkeys(name for name, _ in (*a.kept, *b.kept))
        return cls(tuple(columns), tuple(kept), tuple(notes))

    @property
    def names(self) -> list[str]:
        return [pair.name for _, pair in self.columns]

    @property
    def answers(self) -> tuple[Compared, ...]:
        """Those of which a row's two answers are the same one or not."""
        return tuple((comparison, pair) for comparison, pair in self.columns if comparison.differs(pair))

    @property
    def numbers(self) -> tuple[Compared, ...]:
        """Those that only drift."""
        return tuple((comparison, pair) for comparison, pair in self.columns if not comparison.differs(pair))


@dataclass(frozen=True)
class TwoVersions:
    """Two versions of a pipeline's table, and what they are compared by."""

    a: ResultTable
    b: ResultTable
    specs: tuple[VersionSpec, VersionSpec]
    shared: Shared
    promoted_version: str
    differences: tuple[str, ...]
    """What the second was made of that the first was not, in words."""
    notes: tuple[str, ...]
    """What is not compared, and which of the two is incomplete."""

    @classmethod
    def of(cls, cursor: Cursor, pipeline: str, first: str, second: str) -> TwoVersions:
        """Each is named by the beginning of its name, or is `promoted`.

        Raises:
            LakeError: there is no such pipeline or version.
        """
        state = existing_state(cursor, pipeline)
        by_name = {standing.version: standing for standing in standings(cursor, pipeline)}
        a, b = (
            load_table(cursor, pipeline, find_version(list(by_name), asked, state.promoted_version))
            for asked in (first, second)
        )
        specs = _spec_of(cursor, a), _spec_of(cursor, b)
        shared = Shared.of(a, b, specs)
        lacking = [
            f"{version} is incomplete at the target revision: {by_name[version].lacking}."
            for version in dict.fromkeys((a.version, b.version))
            if not by_name[version].is_complete
        ]
        differences = specs[0].differences(specs[1])
        return cls(a, b, specs, shared, state.promoted_version, tuple(differences), (*shared.notes, *lacking))


def pairs_query(a: ResultTable, b: ResultTable, shared: Shared, *, text_hash: str | None = None) -> str:
    """SQL: a row for each row that both versions have.

    Answers are `a.<column>` and `b.<column>`, beside the kept columns, what comparisons derive of the two,
    `_shard_id` and `_row_number`, and `_text_hash` where `text_hash` is SQL of it.
    """
    results = [f"{side}.{identifier(name)} AS {identifier(f'{side}.{name}')}" for name in shared.names for side in "ab"]
    own = {name for name, _ in a.kept}
    kept = [f"{'a' if name in own else 'b'}.{identifier(name)}" for name in shared.kept]
    derived = [
        f"{value} AS {pair.derived(name)}"
        for comparison, pair in shared.columns
        for name, value in comparison.derived(pair).items()
    ]
    names = [*results, *kept, "a.shard_id AS _shard_id", "a.row_number AS _row_number"]
    if text_hash is not None:
        names.append(f"{text_hash} AS _text_hash")
    tables = f"lake.{identifier(a.name)} a JOIN lake.{identifier(b.name)} b USING (shard_id, row_number)"
    return f"SELECT {', '.join(['*', *derived])}\nFROM (SELECT {', '.join(names)}\n  FROM {tables})"


def different_pairs(shared: Shared) -> tuple[str, list[str]]:
    """SQL: which pairs are examples, and in which order: the farthest apart first, then the surest."""
    if not shared.answers:
        condition = " OR ".join(f"{pair.first} IS DISTINCT FROM {pair.second}" for _, pair in shared.numbers)
        return condition, [comparison.order(pair) for comparison, pair in shared.numbers]
    condition = " OR ".join(str(comparison.differs(pair)) for comparison, pair in shared.answers)
    order = [comparison.order(pair) for comparison, pair in shared.answers]
    surest = [comparison.surest(pair) for comparison, pair in shared.numbers if isinstance(comparison, Scores)]
    return condition, [*filter(None, order), *surest]


def _spec_of(cursor: Cursor, table: ResultTable) -> VersionSpec:
    return VersionSpec.from_json(load_spec(cursor, table.pipeline, table.version) or {})


def _comparisons_of(*specs: VersionSpec) -> dict[str, Comparison]:
    """By result column, where the versions' model tasks say how it is compared: the first one's word counts."""
    tasks = [MODEL_TASKS[spec.task] for spec in reversed(specs) if spec.task in MODEL_TASKS]
    return {name: comparison for task in tasks for name, comparison in task.comparisons.items()}
