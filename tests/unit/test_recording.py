"""What `_runs` says of a run is what the run did, however it ended."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.pipelines import make_pipeline, query, reviews, run, write_parquet
from tests.prepared import Prepared
from tidemill.cli import render
from tidemill.config import Pipeline
from tidemill.errors import ENDS_RUN, DatasetError, LakeError, ModelError, SourceUnavailable, TidemillError
from tidemill.lake import Lake
from tidemill.lake.ducklake.claims import open_claims
from tidemill.lake.ledger import throughput
from tidemill.lake.runs import RunRecord
from tidemill.progress import Quiet
from tidemill.reports.alerts import recovery
from tidemill.reports.status import pipeline_status
from tidemill.results.commit import Outcome
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.executor import ThreadExecutor
from tidemill.running.recording import Outcomes, Recording
from tidemill.running.run import Run
from tidemill.running.stage_run import StageRun
from tidemill.running.stages.workspace import reopen
from tidemill.upkeep.housekeeping import collect_garbage

ROWS, NUM_FILES = 8, 6


def fail_with(error: BaseException | None) -> None:
    if error is not None:
        raise error


class Stopping(Quiet):
    """Ctrl-C when the first commit is shown: others have been made by then, whose results nobody waited for."""

    def committed(self, path: str, **_: int) -> None:
        raise KeyboardInterrupt


class Telling(Quiet):
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def failed(self, path: str, error: BaseException) -> None:
        self.told.append((path, str(error)))


def make_files(folder: Path) -> Pipeline:
    for i in range(NUM_FILES):
        write_parquet(folder / "data" / f"{i}.parquet", reviews(ROWS * i, ROWS))
    return make_pipeline(folder, f"{folder}/data/*")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Prepared]:
    folder = tmp_path_factory.mktemp("recording") / "done"
    pipeline = make_files(folder)
    run(pipeline)
    return pipeline, Prepared(folder)


@pytest.fixture
def pipeline(once: tuple[Pipeline, Prepared]) -> Pipeline:
    """One that has run."""
    once[1].put_back()
    return once[0]


def last_row(pipeline: Pipeline) -> dict[str, Any]:
    return dict(pipeline_status(pipeline)["runs"][0])


def test_a_stopped_run_tells_all_that_it_committed(tmp_path):
    pipeline = make_files(tmp_path)
    result = run(pipeline, progress=Stopping())
    [(shards, rows, quarantined, tokens)] = query(
        pipeline.lake, "SELECT count(*), sum(num_rows), sum(num_quarantined), sum(num_tokens) FROM _ledger"
    )
    assert result.state == "stopped"
    told = (result.num_shards, result.num_rows, result.num_quarantined, result.num_tokens)
    assert told == (shards, rows, quarantined, tokens)
    row = last_row(pipeline)
    assert tuple(row[name] for name in ("num_shards", "num_rows", "num_quarantined", "num_tokens")) == told


@pytest.mark.slow
def test_a_commit_whose_answer_was_lost_is_counted_once(pipeline):
    """The connection that carried a COMMIT may break behind it: the shard is found done when it is tried again."""
    [(run_id,)] = query(pipeline.lake, "SELECT run_id FROM _runs")
    recording = Recording(pipeline, "run", why="test")
    recording.record.run_id = run_id
    known = query(pipeline.lake, "SELECT shard_id, num_rows, num_quarantined, num_tokens FROM _ledger")
    first, second = known[0], known[1][0]
    recording.outcomes.count(Outcome(committed=(first[0],), num_rows=first[1], num_tokens=first[3]))
    recording.outcomes.count(Outcome(dropped=(second, "of another run")))
    with Lake(pipeline.lake) as lake, pytest.raises(ZeroDivisionError), recording.failing(lake):
        raise ZeroDivisionError("in between")
    row = last_row(pipeline)
    assert (row["state"], row["num_shards"], row["num_rows"]) == ("failed", len(known), sum(n for _, n, _, _ in known))
    assert (row["num_dropped"], row["message"]) == (1, "in between")


def no_model(pipeline: Pipeline) -> Run:
    return Run(make_pipeline(Path(pipeline.store.path).parent, pipeline.dataset.path, model={"path": "nowhere/at/all"}))


def no_files(pipeline: Pipeline) -> Run:
    return Run(make_pipeline(Path(pipeline.store.path).parent, "nowhere/*.parquet"))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (no_model, ModelError),
        (no_files, DatasetError),
        (lambda pipeline: StageRun(no_files(pipeline).pipeline, "ingest"), DatasetError),
        (lambda pipeline: BackfillRun(pipeline, "b-unknown"), LakeError),
        (lambda pipeline: StageRun(pipeline.model_copy(update={"name": "another"}), "infer"), LakeError),
    ],
    ids=["model", "dataset", "ingest", "backfill", "stage"],
)
def test_a_run_that_fails_before_its_work_begins_has_a_row_that_says_why(pipeline, make, error):
    broken = make(pipeline)
    with pytest.raises(error) as raised:
        broken.execute()
    found = query(pipeline.lake, f"SELECT state, message, finished_at FROM _runs WHERE run_id = '{broken.run_id}'")
    assert [row[:2] for row in found] == [("failed", str(raised.value))]
    assert found[0][2] is not None


@pytest.mark.slow
def test_housekeeping_that_fails_has_a_row_that_says_why(pipeline):
    store = Path(pipeline.store.path)
    store.rename(store.with_name("away"))
    store.write_text("a file in the folder's place")
    with pytest.raises(TidemillError, match=r"store\.path"):
        collect_garbage(pipeline, dry_run=False)
    row = last_row(pipeline)
    assert (row["kind"], row["state"]) == ("gc", "failed")
    assert "store.path" in row["message"]


def test_status_says_why_the_last_failed_run_failed(pipeline):
    with pytest.raises(DatasetError) as raised:
        no_files(pipeline).execute()
    run(pipeline)
    told = render.status(pipeline_status(pipeline))
    assert f"failed: {str(raised.value).splitlines()[0]}" in told


def test_status_tells_of_a_killed_run_what_it_committed(pipeline):
    """Its row in `_runs` was written when it began."""
    with Lake(pipeline.lake) as lake:
        lake.write(
            lambda cursor: cursor.execute(
                "UPDATE _runs SET state = 'running', num_shards = 0, num_rows = 0, num_tokens = 0, finished_at = NULL"
            ),
            message="as a killed run leaves it",
        )
    row = last_row(pipeline)
    [(tokens,)] = query(pipeline.lake, "SELECT sum(num_tokens) FROM _ledger")
    assert (row["alive"], row["num_shards"], row["num_rows"], row["num_tokens"]) == (
        False,
        NUM_FILES,
        NUM_FILES * ROWS,
        tokens,
    )
    assert "killed" in render.status(pipeline_status(pipeline))


def test_copies_count_as_rows_and_shards_and_cost_no_tokens(pipeline):
    data = Path(pipeline.dataset.path).parent
    (data / "same.parquet").write_bytes((data / "0.parquet").read_bytes())
    result = run(pipeline)
    assert (result.num_shards, result.num_copied, result.num_rows, result.num_tokens) == (1, 1, ROWS, 0)


def test_rows_that_were_forgotten_since_make_no_throughput_negative(pipeline):
    forgotten = "UPDATE _ledger SET num_unchanged = 2, num_rows = if(path = '0.parquet', 0, num_rows)"
    with Lake(pipeline.lake) as lake:
        before = throughput(lake.cursor(), *one_version(lake))[0]["rows_per_second"]
        lake.write(lambda cursor: cursor.execute(forgotten), message="as a lake of unchanged rows")
        after = throughput(lake.cursor(), *one_version(lake))[0]["rows_per_second"]
    assert after / before == pytest.approx((NUM_FILES - 1) * (ROWS - 2) / (NUM_FILES * ROWS))


def one_version(lake: Lake) -> tuple[str, str]:
    [version] = lake.cursor().execute("SELECT pipeline, version FROM _versions").fetchall()
    return version


def test_what_two_stages_note_is_told_once(pipeline):
    recording = Recording(pipeline, "run", why="test")
    with Lake(pipeline.lake) as lake, closing(open_claims(lake.spec)) as claims:
        version = one_version(lake)[1]
        workspace = reopen(pipeline, lake, claims, version, run_id=recording.run_id, tally=recording.tally)
        with recording.executing(ThreadExecutor(workspace, Quiet()), workspace):
            workspace.notes += ["One.", "Another.", "One."]
    assert recording.notes == ["One.", "Another."]


def test_a_failure_is_told_once_however_many_shards_and_steps_it_meets():
    telling = Telling()
    outcomes = Outcomes(RunRecord("r", "reviews", "run", why="test"), telling)
    error = SourceUnavailable("It is cut short.")
    outcomes.fail("a.parquet", error)
    outcomes.fail("a.parquet", error)
    outcomes.fail("a.parquet", SourceUnavailable("It is cut short."))
    outcomes.fail("b.parquet", SourceUnavailable("It is cut short."))
    assert telling.told == [("a.parquet", "It is cut short."), ("b.parquet", "It is cut short.")]
    assert len(outcomes.failures) == 3


@pytest.mark.parametrize("error", [SourceUnavailable("It is cut short."), ValueError("a fault"), DatasetError("none")])
def test_a_shard_fails_alone_whatever_it_raises(error):
    outcomes, after = Outcomes(RunRecord("r", "reviews"), Quiet()), []
    for path, raised in (("a.parquet", error), ("b.parquet", None)):
        with outcomes.failing_alone(path, then=lambda: after.append("let go")):
            fail_with(raised)
    assert outcomes.failures == [("a.parquet", error)]
    assert after == ["let go"]


@pytest.mark.parametrize("error", [*(ends("it ends") for ends in ENDS_RUN), KeyboardInterrupt()])
def test_what_ends_a_run_is_no_failure_of_one_shard(error):
    outcomes = Outcomes(RunRecord("r", "reviews"), Quiet())
    with pytest.raises(type(error)), outcomes.failing_alone("a.parquet"):
        fail_with(error)
    assert outcomes.failures == []


class AskedAnew(Quiet):
    """As soon as one shard is read, the others are asked for by somebody else, under other ids."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline: Pipeline | None = pipeline

    def ingested(self, path: str, *, rows: int) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            anew = (
                "UPDATE _requests SET request_id = 'anew-' || shard_id WHERE shard_id NOT IN "
                f"(SELECT shard_id FROM _shards WHERE path = '{path}')"
            )
            with Lake(pipeline.lake) as lake:
                lake.write(lambda cursor: cursor.execute(anew), message="asked anew")


@pytest.mark.slow
def test_a_shard_whose_request_was_made_anew_since_the_plan_is_computed_for_that_one(tmp_path):
    pipeline = make_files(tmp_path)
    result = Run(pipeline, progress=AskedAnew(pipeline)).execute()
    assert (result.state, result.num_shards) == ("done", NUM_FILES)
    anew = "SELECT count(*) FROM _ledger WHERE starts_with(request_id, 'anew-')"
    assert query(pipeline.lake, anew) == [(NUM_FILES - 1,)]


@pytest.mark.slow
def test_nothing_works_again_while_the_rows_that_failed_it_are_in_quarantine(tmp_path):
    table = reviews(0, ROWS)
    texts = pa.array([None] * 4 + table["text"].to_pylist()[4:], pa.string())
    write_parquet(tmp_path / "a.parquet", table.set_column(table.column_names.index("text"), "text", texts))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/a.parquet")
    assert run(pipeline).state == "failed"
    again = run(pipeline)
    assert (again.state, again.num_rows) == ("done", 0)
    lenient = make_pipeline(tmp_path, f"{tmp_path}/a.parquet", limits={"max_quarantine": 0.5})
    with Lake(pipeline.lake, read_only=True) as lake:
        assert recovery(lake.cursor(), pipeline, 0) is None
        assert recovery(lake.cursor(), lenient, 0) == "reviews works again: 0 rows."
    write_parquet(tmp_path / "a.parquet", reviews(100, ROWS))
    mended = run(pipeline)
    with Lake(pipeline.lake, read_only=True) as lake:
        assert recovery(lake.cursor(), pipeline, mended.num_rows) == f"reviews works again: {ROWS} rows."
