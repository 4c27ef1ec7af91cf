"""A table of lists of structs, and one of vectors, through all that may happen to a table.

The model tasks are the tests' own: nothing but their class knows of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.e2e.test_forget import places_of
from tests.embedders import save_embedder
from tests.pipelines import (
    assert_same_tables,
    make_pipeline,
    problems_of,
    quarantine_of,
    query,
    reviews,
    run,
    table_of,
    write_parquet,
)
from tests.prepared import Prepared
from tests.processes import Process
from tests.token_classifiers import save_token_classifier
from tests.toy_tasks import REFUSED, register, run_in_process_with_toys, toys
from tests.variants import variants
from tests.versions import compute_version
from tidemill.cli.comparison import comparison
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection
from tidemill.reports.compare import compare_versions
from tidemill.reports.status import pipeline_status
from tidemill.results.promotion import promote
from tidemill.upkeep.forget import forget, preview
from tidemill.upkeep.housekeeping import collect_garbage

__all__ = ["toys"]

pytestmark = pytest.mark.usefixtures("toys")

SEED = 5
PERSON = "Zzzwilhelmine"
"""Sorts last, so that it is the greatest value in the statistics of the columns that it lies in."""
CHANGED_ROW = 3
NUM_FILES, NUM_ROWS = 3, 16
SHORT: dict[str, Any] = {"tokenizer": {"max_length": 6}}
"""Another version: it reads the beginnings of texts, and most answers are others."""


@dataclass(frozen=True)
class Kind:
    """One of the two tables."""

    task: str
    column: str
    model: dict[str, Any]
    type: str
    condition: str
    """SQL that looks into a result column."""
    holds: Callable[[Any], bool]
    """The same of its value in Python."""
    save: Callable[[Path], Path] | None = None
    """Makes a checkpoint in a folder, where it is not the tests' small classifier."""


ENTITIES = 'STRUCT(entity VARCHAR, score FLOAT, word VARCHAR, "start" INTEGER, "end" INTEGER)[]'
TOYS = [
    Kind(
        "toy-entities",
        "entities",
        {"all_scores": True},
        ENTITIES,
        f"len(list_filter(entities, lambda x: x.word = '{PERSON}')) > 0",
        lambda found: any(entity["word"] == PERSON for entity in found),
    ),
    Kind("toy-embedding", "embedding", {}, "FLOAT[8]", "embedding[1] > 0.9", lambda found: found[0] > np.float32(0.9)),
]
REAL = [
    Kind(
        "token-classification",
        "entities",
        {"options": {"aggregation_strategy": "simple"}},
        ENTITIES,
        "len(entities) % 2 = 1",
        lambda found: len(found) % 2 == 1,
        lambda folder: save_token_classifier(folder, "bert", surer=8),
    ),
    Kind(
        "sentence-similarity",
        "embedding",
        {},
        "FLOAT[32]",
        "embedding[1] > 0.1",
        lambda found: found[0] > np.float32(0.1),
        save_embedder,
    ),
]
KINDS = variants([*TOYS, *REAL], TOYS[:1])


def pipeline_of(kind: Kind, folder: Path, files: Path, **sections: Any) -> Pipeline:
    given: dict[str, Any] = {"dataset": {"shard_bytes": 900}, "limits": {"max_quarantine": 0.5}, "model": {}}
    given |= sections
    own = {"path": str(files.parent / "model")} if kind.save else {}
    given["model"] = {"task": kind.task, **own, **kind.model, **given["model"]}
    return make_pipeline(folder, f"{files}/*", **given)


def write_files(folder: Path, *, num_files: int = NUM_FILES) -> Path:
    """Two shards a file; a row of the first has no text, one has all texts of the others, and one a person's name."""
    for i in range(num_files):
        rows = reviews(20 * i, NUM_ROWS)
        if i == 0:
            texts = [None, " ".join(rows["text"].to_pylist()), f"{PERSON} says: a film.", *rows["text"].to_pylist()[3:]]
            rows = rows.set_column(rows.column_names.index("text"), "text", [texts])
        write_parquet(folder / f"part-{i}.parquet", rows, row_group_size=8)
    return folder


def with_change(path: Path, row: int) -> pa.Table:
    rows = pa.parquet.read_table(path)
    texts = rows["text"].to_pylist()
    texts[row] = "Written anew, and Badly."
    return rows.set_column(rows.column_names.index("text"), "text", [texts])


def name_of(kind: Kind) -> str:
    return kind.task


@dataclass(frozen=True)
class Made:
    """A lake with a table of the kind, over the files in `files`."""

    kind: Kind
    folder: Path

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def pipeline(self) -> Pipeline:
        return pipeline_of(self.kind, self.folder, self.files)

    def fresh(self, folder: Path) -> Pipeline:
        """Another lake, of the files as they are now."""
        pipeline = pipeline_of(self.kind, folder, self.files)
        assert run(pipeline).state == "done"
        return pipeline


@pytest.fixture(scope="module", params=KINDS, ids=name_of)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Made]:
    made = Made(request.param, tmp_path_factory.mktemp("made"))
    write_files(made.files)
    if made.kind.save:
        made.kind.save(made.folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        result = run(made.pipeline)
    assert (result.state, result.num_quarantined) == ("done", 1)
    return Prepared(made.folder), made


@pytest.fixture
def done(prepared: tuple[Prepared, Made]) -> Made:
    lake, made = prepared
    lake.put_back()
    return made


def take_up_another_revision(files: Path) -> None:
    """A file is changed in a row, and one is called another name."""
    changed = files / "part-1.parquet"
    write_parquet(changed, with_change(changed, CHANGED_ROW), row_group_size=8)
    (files / "part-2.parquet").rename(files / "renamed.parquet")


def by_id(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in table_of(pipeline).values()}


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [1, pytest.param(60, marks=pytest.mark.soak)])
def test_a_run_killed_at_any_moment_is_completed_by_the_next(prepared, tmp_path, num_kills):
    draw = random.Random(SEED)
    lake, made = prepared
    lake.put_back()
    take_up_another_revision(made.files)
    started = time.monotonic()
    expected = pipeline_of(made.kind, tmp_path, made.files)
    Process(run_in_process_with_toys, expected, tmp_path / "home").result()
    duration = time.monotonic() - started
    for _ in range(num_kills):
        lake.put_back()
        take_up_another_revision(made.files)
        process = Process(run_in_process_with_toys, made.pipeline, tmp_path / "home")
        time.sleep(draw.uniform(0.0, duration))
        process.kill()
        assert run(made.pipeline).state == "done"
        assert problems_of(made.pipeline) == []
        assert_same_tables(made.pipeline, expected)


def test_of_a_changed_file_the_changed_row_is_computed_and_a_renamed_one_is_copied(done, tmp_path):
    column = done.kind.column
    types = dict(query(done.pipeline.lake, "SELECT column_name, column_type FROM (DESCRIBE reviews)"))
    assert types[column] == done.kind.type
    assert (problems_of(done.pipeline), list(quarantine_of(done.pipeline))) == ([], [("part-0.parquet", 0)])
    before = by_id(done.pipeline)
    take_up_another_revision(done.files)

    result = run(done.pipeline)

    assert (result.state, result.num_copied, result.num_rows - result.num_unchanged) == ("done", 2, 1)
    after = by_id(done.pipeline)
    changed = {name for name, row in after.items() if row[column] != before[name][column]}
    assert changed == {reviews(20, NUM_ROWS)["id"][CHANGED_ROW].as_py()}
    assert problems_of(done.pipeline) == []
    assert_same_tables(done.pipeline, done.fresh(tmp_path))


@pytest.mark.slow
def test_other_kept_columns_and_housekeeping_leave_the_answers_as_they_are(done):
    before = by_id(done.pipeline)
    [(num_shards,)] = query(done.pipeline.lake, "SELECT count(*) FROM _ledger")
    other = pipeline_of(done.kind, done.folder, done.files, dataset={"shard_bytes": 900, "keep": ["rating"]})

    result = run(other)
    collect_garbage(other, dry_run=False)

    assert (result.state, result.num_rewritten, result.num_tokens) == ("done", num_shards, 0)
    for name, row in by_id(other).items():
        assert row == {column: value for column, value in before[name].items() if column != "domain"}
    assert problems_of(other) == []
    told = pipeline_status(other)
    assert (told["rows"], told["rows_quarantined"]) == (len(before), 1)


@pytest.mark.slow
@pytest.mark.parametrize("prepared", variants(TOYS, TOYS[:1]), indirect=True, ids=name_of)
def test_what_a_task_refuses_is_quarantined_with_its_reason_and_mended_alone(done, tmp_path, monkeypatch):
    monkeypatch.setenv(REFUSED, "film")
    pipeline = done.fresh(tmp_path)
    reasons = quarantine_of(pipeline)
    assert len(reasons) > 2
    assert set(reasons.values()) == {("ingest", "text is null"), ("infer", "the word film is refused")}
    assert problems_of(pipeline) == []
    before = table_of(pipeline)
    monkeypatch.delenv(REFUSED)

    compute_version(pipeline, Selection(quarantined=True))

    assert list(quarantine_of(pipeline)) == [("part-0.parquet", 0)]
    mended = table_of(pipeline)
    assert len(mended) == len(before) + len(reasons) - 1
    assert {place: mended[place] for place in before} == before
    assert problems_of(pipeline) == []
    assert_same_tables(pipeline, done.pipeline)


@pytest.mark.slow
def test_two_versions_are_compared_promoted_and_swapped_back(done):
    lake = done.pipeline.lake
    first = by_id(done.pipeline)
    [(promoted,)] = query(lake, "SELECT promoted_version FROM _pipelines")
    version = compute_version(pipeline_of(done.kind, done.folder, done.files, **SHORT))
    with Lake(lake, read_only=True) as opened:
        report = compare_versions(opened, "reviews", promoted, version, by="domain", num_examples=3)

    with Lake(lake) as opened:
        assert promote(opened, "reviews", version).state == "promoted"
    second = by_id(done.pipeline)
    check = {"entities": check_entities, "embedding": check_embedding}[done.kind.column]
    check(report, first, second)
    assert report["rows"]["compared"] == len(first) == len(second)
    assert sum(part["rows"] for part in report["slices"]) == len(first)
    assert report["versions"][1] in comparison(report)
    assert problems_of(done.pipeline) == []

    with Lake(lake) as opened:
        assert promote(opened, "reviews", promoted).state == "promoted"
    assert by_id(done.pipeline) == first
    assert problems_of(done.pipeline) == []


def check_entities(report: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    def found(row: dict[str, Any]) -> set[tuple[Any, ...]]:
        return {(entity["start"], entity["end"], entity["entity"]) for entity in row["entities"]}

    both = sum(len(found(row) & found(second[name])) for name, row in first.items())
    ours, theirs = (sum(len(found(row)) for row in table.values()) for table in (first, second))
    facts = report["lists"]["entities"]
    assert facts["by"] == ["start", "end", "entity"]
    assert facts["agreement"] == pytest.approx(2 * both / (ours + theirs))
    assert 0 < facts["only_first"] == ours - both
    assert facts["same"] == sum(found(row) == found(second[name]) for name, row in first.items())
    drifts = [
        abs(score - second[name]["scores"][label])
        for name, row in first.items()
        for label, score in row.get("scores", {}).items()
    ]
    if drifts:
        assert report["maps"]["scores"]["absolute"]["max"] == pytest.approx(max(drifts))
    agreements = [part["lists"]["entities"]["agreement"] for part in report["slices"]]
    assert agreements == sorted(agreements)
    example = report["examples"][0]
    assert example["apart"]["entities"]["only_first"] == first[example["columns"]["id"]]["entities"]


def check_embedding(report: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> None:
    cosines = {}
    for name, row in first.items():
        a, b = (np.array(each["embedding"], dtype=float) for each in (row, second[name]))
        cosines[name] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    facts = report["vectors"]["embedding"]["cosine"]
    assert (facts["min"], facts["mean"]) == pytest.approx((min(cosines.values()), np.mean(list(cosines.values()))))
    assert facts["min"] < 0.99
    nearest_last = sorted(cosines, key=lambda name: cosines[name])
    assert [example["columns"]["id"] for example in report["examples"]] == nearest_last[:3]


@pytest.mark.slow
@pytest.mark.parametrize("prepared", TOYS[1:], indirect=True, ids=name_of)
def test_vectors_of_another_size_are_a_version_of_their_own_and_are_not_compared(done):
    version = compute_version(pipeline_of(done.kind, done.folder, done.files, model={"options": {"size": 4}}))

    with Lake(done.pipeline.lake, read_only=True) as lake:
        report = compare_versions(lake, "reviews", "promoted", version)

    assert (report["vectors"], report["examples"]) == ({}, [])
    assert f"embedding is FLOAT[8] in {report['versions'][0]} and FLOAT[4] in {version}" in report["notes"][0]
    assert problems_of(done.pipeline) == []


@pytest.mark.slow
def test_rows_are_forgotten_by_what_their_answers_are_and_do_not_come_back(done):
    pipeline, kind = done.pipeline, done.kind
    before = table_of(pipeline)
    gone = {place for place, row in before.items() if kind.holds(row[kind.column])}
    assert 0 < len(gone) < len(before)
    is_named = kind is TOYS[0]
    assert not is_named or in_lake(done)

    assert preview(pipeline, kind.condition).num_rows == len(gone)
    forget(pipeline, kind.condition)

    rest = {place: row for place, row in before.items() if place not in gone}
    assert table_of(pipeline) == rest
    assert not is_named or in_lake(done) == set()
    assert query(pipeline.lake, f"SELECT count(*) FROM reviews WHERE {kind.condition}") == [(0,)]
    assert problems_of(pipeline) == []
    (done.files / "part-2.parquet").rename(done.files / "renamed.parquet")
    assert run(pipeline).state == "done"
    assert len(table_of(pipeline)) == len(rest)
    assert problems_of(pipeline) == []


def in_lake(made: Made) -> set[str]:
    """The files of the lake, its catalog among them, that have the person's name: as a word of an entity."""
    found = places_of(made.pipeline, PERSON)
    return {place for place in found if place.startswith("lake")}
