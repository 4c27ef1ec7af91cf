"""Versions beside each other: compared as SQL would, shown one at a time, dropped on command only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.commands import answer, tidemill, write_toml
from tests.pipelines import make_pipeline, problems_of, query, reviews, run, table_of, write_parquet
from tests.prepared import Prepared
from tests.processes import Process, wait_until
from tests.variants import variants
from tests.versions import compute_version
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, LakeError
from tidemill.lake import Lake
from tidemill.reports.compare import compare_versions
from tidemill.results.promotion import drop, promote

NUM_FILES, ROWS_PER_FILE = 3, 30
SECOND: dict[str, Any] = {
    "tokenizer": {"max_length": 8},
    "model": {"all_scores": True},
    "dataset": {"keep": ["domain", "part"]},
}
"""What the second version has differently: most labels, one result column and the kept columns."""


@dataclass(frozen=True)
class Two:
    """A lake with two complete versions, the first of them promoted, and the pipelines that ask for them."""

    folder: Path
    pipeline: Pipeline
    second_pipeline: Pipeline
    first: str
    second: str

    @property
    def toml(self) -> Path:
        path, lake = write_toml(self.folder, f"{self.folder}/data/*"), self.pipeline.lake
        path.write_text(path.read_text() + f'\n[lake]\ncatalog = "{lake.catalog}"\ndata = "{lake.data}"\n')
        return path

    @property
    def home(self) -> Path:
        return self.folder / "home"


def make_two(folder: Path, *, catalog: str | None = None) -> Two:
    for i in range(NUM_FILES):
        write_parquet(folder / "data" / f"{i}.parquet", reviews(2500 * i, ROWS_PER_FILE), row_group_size=15)
    lake = {"lake": {"catalog": catalog}} if catalog else {}
    pipeline = make_pipeline(folder, f"{folder}/data/*", **lake)
    second_pipeline = make_pipeline(folder, f"{folder}/data/*", **lake, **SECOND)
    return Two(folder, pipeline, second_pipeline, run(pipeline).version, compute_version(second_pipeline))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Two:
    """To be left as it was: the first version promoted."""
    return make_two(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def kept_two(two) -> Prepared:
    return Prepared(two.folder)


@pytest.fixture
def own_two(two, kept_two) -> Iterator[Two]:
    """To be changed at will: it is put back."""
    yield two
    kept_two.put_back()


def compared(two: Two, *args: Any, **options: Any) -> dict[str, Any]:
    with Lake(two.pipeline.lake, read_only=True) as lake:
        return compare_versions(lake, "reviews", *(args or (two.first, two.second)), **options)


def promoted(two: Two, version: str) -> str:
    with Lake(two.pipeline.lake) as lake:
        return promote(lake, "reviews", version).state


def joined(two: Two) -> str:
    """Rows of both versions by file and row number, as someone would write it by hand."""
    of_version = (
        "SELECT s.path, t.* FROM reviews__{} t JOIN _revision_shards s ON s.shard_id = t.shard_id "
        "AND s.revision = (SELECT target_revision FROM _pipelines)"
    )
    return (
        f"({of_version.format(two.first)}) a JOIN ({of_version.format(two.second)}) b "
        "ON a.path = b.path AND a.row_number = b.row_number"
    )


def test_the_numbers_of_a_comparison_are_those_of_a_hand_written_query(two):
    report = compared(two)
    drift = "b.score::DOUBLE - a.score::DOUBLE"
    [by_hand] = query(
        two.pipeline.lake,
        "SELECT count(*), avg((a.label = b.label)::INT), count(*) FILTER (a.label <> b.label), "
        + ", ".join(f"quantile_cont(abs({drift}), {q})" for q in (0.5, 0.9, 0.95, 0.99))
        + f", max(abs({drift})), min({drift}), quantile_cont({drift}, 0.05), median({drift}), "
        f"quantile_cont({drift}, 0.95), max({drift}), avg({drift}) FROM {joined(two)}",
    )
    label, score = report["labels"]["label"], report["scores"]["score"]
    assert list(score["absolute"]) == ["p50", "p90", "p95", "p99", "max"]
    assert list(score["signed"]) == ["min", "p05", "p50", "p95", "max", "mean"]
    found = [report["rows"]["compared"], label["agreement"], label["flipped"]]
    assert [*found, *score["absolute"].values(), *score["signed"].values()] == pytest.approx(by_hand)
    assert by_hand[0] == NUM_FILES * ROWS_PER_FILE
    assert 0 < by_hand[2] < by_hand[0]
    confusion = {(pair["first"], pair["second"]): pair["rows"] for pair in label["confusion"]}
    counted = query(two.pipeline.lake, f"SELECT a.label, b.label, count(*) FROM {joined(two)} GROUP BY ALL")
    assert confusion == {(a, b): count for a, b, count in counted}


def test_a_comparison_by_slice_is_the_comparison_of_each_slices_rows(two):
    report = compared(two, by="domain")
    drift = "abs(b.score::DOUBLE - a.score::DOUBLE)"
    by_hand = query(
        two.pipeline.lake,
        f"SELECT a.domain, count(*), count(*) FILTER (a.label <> b.label), quantile_cont({drift}, 0.99), max({drift}) "
        f"FROM {joined(two)} GROUP BY ALL",
    )
    found = {
        part["value"]: (
            part["rows"],
            part["labels"]["label"]["flipped"],
            *(part["scores"]["score"]["absolute"][name] for name in ("p99", "max")),
        )
        for part in report["slices"]
    }
    assert len(found) > 1
    assert found.keys() == {domain for domain, *_ in by_hand}
    for domain, *facts in by_hand:
        assert found[domain] == pytest.approx(facts)
    agreements = [part["labels"]["label"]["agreement"] for part in report["slices"]]
    assert agreements == sorted(agreements)


def test_examples_are_flipped_rows_with_both_answers_and_the_surest_come_first(two):
    everything = compared(two, num_examples=1000)
    examples = everything["examples"]
    assert len(examples) == everything["labels"]["label"]["flipped"]
    rows = table_of(two.pipeline)
    for example in examples:
        row = rows[example["path"], example["row_number"]]
        assert {name: example["columns"][name] for name in ("id", "rating")} == {
            "id": row["id"],
            "rating": row["rating"],
        }
        assert list(example["columns"]) == ["id", "domain", "rating", "part"]
        assert example["first"] == {"label": row["label"], "score": row["score"]}
        assert example["second"]["label"] != row["label"]
    surest = [min(example[side]["score"] for side in ("first", "second")) for example in examples]
    assert surest == sorted(surest, reverse=True)
    assert compared(two, num_examples=2)["examples"] == examples[:2]


def test_a_truth_that_is_true_or_false_means_the_positive_label_and_the_other(two):
    found = compared(two, truth="rating > 0", positive="POSITIVE")["truth"]
    right = "count(*) FILTER ((a.rating > 0) = ({}.label = 'POSITIVE')) / count(*)"
    [by_hand] = query(two.pipeline.lake, f"SELECT {right.format('a')}, {right.format('b')} FROM {joined(two)}")
    assert list(found["accuracy"].values()) == pytest.approx(by_hand)
    assert found["accuracy"].keys() == {two.first, two.second}
    # Of the model's two labels, the one with the highest id is what true means if nobody says otherwise.
    assert compared(two, truth="rating > 0")["truth"] == found
    swapped = compared(two, truth="rating > 0", positive="NEGATIVE")["truth"]["accuracy"]
    assert list(swapped.values()) == pytest.approx([1 - share for share in by_hand])


def test_a_positive_label_that_no_row_has_is_refused_with_those_there_are(two):
    with pytest.raises(ConfigError, match=r"report\.positive to one of: NEGATIVE, POSITIVE"):
        compared(two, truth="rating > 0", positive="GOOD")


def test_a_version_agrees_with_itself(two):
    report = compared(two, "promoted", two.first)
    assert report["versions"] == [two.first, two.first]
    assert report["labels"]["label"]["agreement"] == 1
    assert (report["differences"], report["scores"]["score"]["absolute"]["max"], report["examples"]) == ([], 0, [])


def test_a_versions_name_may_be_shortened_and_a_wrong_one_is_answered_with_those_there_are(two):
    assert compared(two, two.first[:5], two.second[:5])["versions"] == [two.first, two.second]
    with pytest.raises(LakeError, match=rf"'nope' names no version.*{two.first} \(promoted\), {two.second}"):
        compared(two, "promoted", "nope")
    with pytest.raises(LakeError, match="'' names no version"):
        compared(two, "promoted", "")
    with pytest.raises(ConfigError, match=r"--by nope is not .* Known: id, domain, rating, part\."):
        compared(two, by="nope")


@pytest.mark.slow
def test_compare_answers_in_words_and_in_json(two):
    told = tidemill("compare", two.toml, "promoted", two.second, "--by", "domain", "--examples", "2", home=two.home)
    assert told.returncode == 0, told.stderr
    report = answer("compare", two.toml, two.first, two.second[:6], home=two.home)
    assert f"{two.first} (promoted) against {two.second}" in told.stdout
    assert "differs in max_length: auto → 8" in told.stdout
    assert f"label: {report['labels']['label']['agreement']:.2%} agree" in told.stdout
    assert "signed:" in told.stdout
    assert "Flipped, the surest first:" in told.stdout
    refused = tidemill("compare", two.toml, "nope", two.second, home=two.home)
    assert (refused.returncode, two.second in refused.stderr) == (2, True)


@pytest.mark.slow
def test_the_view_has_the_columns_of_the_version_that_it_shows(two):
    assert promoted(two, two.second) == "promoted"
    assert names(two, "reviews")[:6] == ["id", "domain", "part", "label", "score", "scores"]
    assert promoted(two, two.first) == "promoted"
    assert names(two, "reviews")[:5] == ["id", "domain", "rating", "label", "score"]
    assert problems_of(two.pipeline) == []


def names(two: Two, table: str) -> list[str]:
    return [name for name, *_ in query(two.pipeline.lake, f"DESCRIBE {table}")]


def test_what_is_promoted_can_be_promoted_again_and_swapped_back(two):
    before, num_promotions = table_of(two.pipeline), len(promotions(two))
    assert promoted(two, two.first) == "unchanged"
    assert promoted(two, two.second) == "promoted"
    assert table_of(two.pipeline) != before
    again = tidemill("promote", two.toml, two.second, home=two.home)
    assert (again.returncode, "is promoted already" in again.stdout) == (0, True)
    assert promoted(two, two.first[:6]) == "promoted"
    assert table_of(two.pipeline) == before
    assert promotions(two)[num_promotions:] == [
        (two.second, "done", f"in place of {two.first}", True),
        (two.first, "done", f"in place of {two.second}", True),
    ]


def promotions(two: Two) -> list[tuple[Any, ...]]:
    return query(
        two.pipeline.lake,
        "SELECT version, state, why, who IS NOT NULL FROM _runs WHERE kind = 'promote' ORDER BY started_at",
    )


@pytest.mark.slow
def test_an_incomplete_version_is_refused_with_the_backfill_that_completes_it_and_kept_fresh_once_promoted(own_two):
    two = own_two
    write_parquet(two.folder / "data" / "1.parquet", reviews(1000, 20))
    write_parquet(two.folder / "data" / "9.parquet", reviews(2000, 10))
    run(two.pipeline)
    report = compared(two)
    assert report["rows"] == {"compared": 60, "only_in": {two.first: 30, two.second: 0}}
    assert report["notes"] == [f"{two.second} is incomplete at the target revision: 2 shards missing."]
    refused = tidemill("promote", two.toml, two.second, home=two.home)
    assert refused.returncode == 1
    assert "2 shards missing" in refused.stdout
    assert f"tidemill backfill {two.toml} --version {two.second}" in refused.stdout
    assert query(two.pipeline.lake, "SELECT promoted_version FROM _pipelines") == [(two.first,)]
    assert compute_version(two.second_pipeline) == two.second
    done = answer("promote", two.toml, two.second, home=two.home)
    assert (done["state"], done["previous_version"], done["standing"]["rows"]) == ("promoted", two.first, 90)
    write_parquet(two.folder / "data" / "8.parquet", reviews(3000, 10))
    assert run(two.second_pipeline).version == two.second
    assert len(table_of(two.pipeline)) == 100
    assert promoted(two, two.first) == "incomplete"
    assert problems_of(two.pipeline) == []


@pytest.mark.parametrize("num_swaps", [4, pytest.param(40, marks=pytest.mark.soak)])
@pytest.mark.parametrize("catalog", variants(["sqlite", "postgres"], ["sqlite"]))
def test_a_reader_sees_one_version_or_the_other_and_nothing_between(tmp_path, catalog, num_swaps, request):
    if catalog == "postgres":
        two = make_two(tmp_path, catalog=request.getfixturevalue("postgres_catalog"))
    else:
        two = request.getfixturevalue("two")
    shown = "(SELECT * EXCLUDE (_text_hash) FROM reviews__{})"
    answers = {tuple(*query(two.pipeline.lake, ANSWER.format(shown.format(v)))) for v in (two.first, two.second)}
    reader = Process(look_on, two.pipeline, tmp_path)
    wait_until(lambda: (tmp_path / "looking").exists())
    for i in range(num_swaps):
        assert promoted(two, (two.second, two.first)[i % 2]) == "promoted"
        (tmp_path / "looking").unlink(missing_ok=True)
        wait_until(lambda: (tmp_path / "looking").exists())  # One look may have begun before the swap.
        (tmp_path / "looking").unlink(missing_ok=True)
        wait_until(lambda: (tmp_path / "looking").exists())
    (tmp_path / "stop").touch()
    assert {tuple(seen) for seen in reader.result()} == answers


ANSWER = "SELECT count(*), bit_xor(hash(r))::VARCHAR FROM {} r"
"""All columns of all rows in two numbers."""


def look_on(pipeline: Pipeline, folder: Path) -> list[tuple[Any, ...]]:
    """Every answer that a reader got until it was told to stop."""
    seen = set()
    with Lake(pipeline.lake, read_only=True) as lake:
        while not (folder / "stop").exists():
            seen.add(tuple(*lake.cursor().execute(ANSWER.format("reviews")).fetchall()))
            (folder / "looking").touch()
    return sorted(seen)


@pytest.mark.slow
def test_a_dropped_version_leaves_nothing_behind_and_can_be_computed_again(two):
    before = table_of(two.pipeline)
    refused = tidemill("drop", two.toml, two.first, "--yes", home=two.home)
    assert (refused.returncode, "tidemill promote" in refused.stderr) == (2, True)
    unasked = tidemill("drop", two.toml, two.second, home=two.home)
    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
    dropped = answer("drop", two.toml, two.second[:6], "--yes", home=two.home)
    assert dropped == {"pipeline": "reviews", "version": two.second, "rows": 90, "dropped": True}
    for table in ("_versions", "_ledger", "_requests", "_quarantine"):
        assert query(two.pipeline.lake, f"SELECT count(*) FROM {table} WHERE version = '{two.second}'") == [(0,)]
    assert query(two.pipeline.lake, "SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE 'reviews%'") == [(1,)]
    assert table_of(two.pipeline) == before
    assert problems_of(two.pipeline) == []
    with Lake(two.pipeline.lake) as lake, pytest.raises(LakeError, match="names no version"):
        drop(lake, "reviews", two.second)
    assert compute_version(two.second_pipeline) == two.second
    assert compared(two)["rows"]["compared"] == 90


@pytest.mark.slow
def test_the_table_is_there_as_it_was_before_a_run_a_promote_and_a_drop(own_two):
    two = own_two
    moments = [now(two)]
    write_parquet(two.folder / "data" / "9.parquet", reviews(2000, 10))
    run(two.pipeline)
    moments.append(now(two))
    assert compute_version(two.second_pipeline) == two.second
    promoted(two, two.second)
    moments.append(now(two))
    with Lake(two.pipeline.lake) as lake:
        drop(lake, "reviews", two.first)
    facts = "count(*) AS rows, sum(truncated::INT) > 0 AS short"
    selects = [
        f"SELECT {i} AS i, {facts} FROM reviews AT (TIMESTAMP => TIMESTAMPTZ '{moment}')"
        for i, moment in enumerate(moments)
    ]
    told = answer("sql", two.toml, f"{' UNION ALL '.join(selects)} ORDER BY i", home=two.home)
    assert [(was["rows"], was["short"]) for was in told] == [(90, False), (100, False), (100, True)]
    before = query(
        two.pipeline.lake,
        f"SELECT promoted_version FROM _pipelines AT (TIMESTAMP => TIMESTAMPTZ '{moments[0]}')",
    )
    assert before == [(two.first,)]


def now(two: Two) -> str:
    time.sleep(0.01)
    return str(query(two.pipeline.lake, "SELECT now()::VARCHAR")[0][0])
