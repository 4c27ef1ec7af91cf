"""Tables on the Hub: what is published is what the table holds, in one commit, and is sent once."""

from __future__ import annotations

import pytest

from tests.pipelines import query, reviews, run, write_parquet
from tests.publications import ROWS, commits_of, objects_sent, publish, read_back, table_of_files
from tidemill.config import Pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return table_of_files(tmp_path_factory.mktemp("table"))


def test_the_table_is_read_back_as_it_is_without_the_text(hub, pipeline):
    done = publish(pipeline, "org/plain")

    rows = read_back("org/plain")
    expected = query(pipeline.lake, "SELECT id, domain, rating, label, score FROM reviews ORDER BY id")
    assert sorted(tuple(row.values()) for row in rows) == expected
    assert list(rows[0]) == ["id", "domain", "rating", "label", "score"]
    assert hub.repos["datasets", "org/plain"].private
    [(revision,)] = query(pipeline.lake, "SELECT target_revision FROM _pipelines")
    assert commits_of(hub, "datasets", "org/plain") == [f"reviews {done.facts['version']} at {revision[:12]}"]


def test_publishing_twice_sends_nothing(hub, pipeline):
    publish(pipeline, "org/twice")
    hub.reset()

    assert publish(pipeline, "org/twice").state == "unchanged"
    assert len(commits_of(hub, "datasets", "org/twice")) == 1
    assert {request.method for request in hub.log} == {"GET"}


def test_of_a_changed_source_only_the_changed_files_are_sent_again(hub, tmp_path):
    pipeline = table_of_files(tmp_path, 5)
    publish(pipeline, "org/moving")
    assert objects_sent(hub) == 5
    hub.reset()
    write_parquet(tmp_path / "data" / "1.parquet", reviews(500, ROWS))
    (tmp_path / "data" / "3.parquet").unlink()
    run(pipeline, yes=True)

    done = publish(pipeline, "org/moving")

    assert objects_sent(hub) == 1
    assert len(done.facts["deletions"]) == 1
    assert len(commits_of(hub, "datasets", "org/moving")) == 2
    assert sorted(row["id"] for row in read_back("org/moving")) == [
        row[0] for row in query(pipeline.lake, "SELECT id FROM reviews ORDER BY id")
    ]
