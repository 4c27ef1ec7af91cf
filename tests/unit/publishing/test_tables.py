"""Tables on the Hub: what is published is what the table holds, in one commit, and is sent once."""

from __future__ import annotations

import tomllib

import pytest

from tests.pipelines import make_pipeline, query, reviews, run, write_parquet
from tests.publications import ROWS, commits_of, objects_sent, publish, read_back, rows_there, table_of_files
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InputError, LakeError
from tidemill.lake import Lake
from tidemill.planning.versions import declared


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return table_of_files(tmp_path_factory.mktemp("table"))


@pytest.mark.slow
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
    assert sorted(row["id"] for row in rows_there(hub, "org/moving")) == [
        row[0] for row in query(pipeline.lake, "SELECT id FROM reviews ORDER BY id")
    ]


@pytest.mark.slow
def test_configs_and_splits_stand_beside_each_other(hub, pipeline):
    publish(pipeline, "org/parts", query="FROM reviews ORDER BY score LIMIT 5", split="low")
    publish(pipeline, "org/parts", query="SELECT label, count(*) AS n FROM reviews GROUP BY ALL", config="labels")

    assert len(read_back("org/parts", split="low")) == 5
    assert sum(row["n"] for row in read_back("org/parts", "labels")) == 3 * ROWS
    assert publish(pipeline, "org/parts", query="FROM reviews ORDER BY score LIMIT 5", split="low").state == "unchanged"


def test_another_pipelines_split_is_not_written_over(hub, pipeline):
    publish(pipeline, "org/shared")
    other = pipeline.model_copy(update={"name": "others"})

    with pytest.raises(InputError, match=r"has the pipeline reviews as default/train\. Give --config"):
        publish(other, "org/shared")


def test_a_public_repository_takes_a_table_only_where_that_is_said(hub, pipeline):
    hub.add_dataset("org/open")

    with pytest.raises(ConfigError, match=r"is public\. Say --public"):
        publish(pipeline, "org/open")
    assert publish(pipeline, "org/open", public=True).state == "published"


@pytest.mark.slow
def test_the_card_says_where_the_rows_come_from_and_nothing_of_this_machine(hub, pipeline, tmp_path):
    publish(pipeline, "org/card")

    card = b"".join(hub.repos["datasets", "org/card"].at("main").files["README.md"].pieces(0, 10**6)).decode()
    [(version, revision)] = query(pipeline.lake, "SELECT promoted_version, target_revision FROM _pipelines")
    assert "36 rows that [Tidemill](https://pypi.org/project/tidemill/) computed by the pipeline `reviews`" in card
    assert f"version `{version}`" in card
    assert f"| source | local files (*.parquet) | `{revision}` | not said |" in card
    assert "| `rating` | the dataset's column `rating` |" in card
    assert "| `label` | the model's best label |" in card
    assert str(tmp_path.parent) not in card
    assert str(tmp_path.parent) not in str(hub.repos["datasets", "org/card"].at("main").files["tidemill.json"].content)


@pytest.mark.slow
def test_maps_are_read_back_as_lists_of_their_entries(hub, tmp_path):
    pipeline = table_of_files(tmp_path, 1, model={"all_scores": True})
    publish(pipeline, "org/maps")

    [scores] = {tuple(entry["key"] for entry in row["scores"]) for row in read_back("org/maps")}
    assert set(scores) == {"NEGATIVE", "POSITIVE"}


def over_hub(hub, tmp_path, name: str, **facts) -> Pipeline:
    repo = hub.add_dataset(f"source/{name}")
    write_parquet(tmp_path / "train.parquet", reviews(0, ROWS))
    card = f"---\nlicense: {facts.get('licence', 'mit')}\n---\n".encode()
    repo.commit({"train.parquet": (tmp_path / "train.parquet").read_bytes(), "README.md": card})
    pipeline = make_pipeline(tmp_path, f"source/{name}", dataset={"keep": ["text as words", "rating"]})
    run(pipeline)
    repo.gated = facts.get("gated", False)
    return pipeline


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "facts", "why"),
    [
        ("gated", {"gated": True}, "is gated"),
        ("nd", {"licence": "cc-by-nc-nd-4.0"}, r"has the licence cc-by-nc-nd-4\.0, which forbids handing on"),
    ],
)
def test_kept_text_that_may_not_be_handed_on_is_refused_until_somebody_says_so(hub, tmp_path, name, facts, why):
    pipeline = over_hub(hub, tmp_path, name, **facts)
    to = f"org/of-{name}"

    with pytest.raises(ConfigError, match=f"source/{name} {why}.* words holds its texts.*--without-text.*--with-text"):
        publish(pipeline, to)
    with pytest.raises(ConfigError, match="shown"):
        publish(pipeline, to, query="SELECT id, upper(words) AS shown FROM reviews")
    assert ("datasets", to) not in hub.repos

    publish(pipeline, to, with_text=False)
    assert list(rows_there(hub, to)[0]) == ["id", "rating", "label", "score"]
    publish(pipeline, to, with_text=True)
    assert list(rows_there(hub, to)[0]) == ["id", "words", "rating", "label", "score"]


@pytest.mark.slow
def test_kept_text_of_an_open_source_goes_along_with_its_licence(hub, tmp_path):
    pipeline = over_hub(hub, tmp_path, "open")
    done = publish(pipeline, "org/of-open")

    assert "words" in rows_there(hub, "org/of-open")[0]
    assert done.facts["source"]["licence"] == "mit"
    assert done.facts["source"]["revision"] == hub.repos["datasets", "source/open"].branches["main"]


def test_a_table_that_is_not_complete_is_not_published(hub, tmp_path):
    pipeline = table_of_files(tmp_path, 2)
    with Lake(pipeline.lake) as lake:
        lake.write(
            lambda cursor: cursor.execute("DELETE FROM _ledger WHERE path LIKE '%0.parquet'"), message="as if lost"
        )

    with pytest.raises(LakeError, match=r"is not complete: 1 shard missing\. Complete it with `tidemill run`"):
        publish(pipeline, "org/incomplete")


@pytest.mark.slow
def test_the_pipeline_file_in_the_card_is_the_same_version(hub, tmp_path):
    tokenizer = {"max_length": 64, "long_text": "windows", "overlap": 8}
    pipeline = table_of_files(tmp_path, 1, tokenizer=tokenizer, model={"all_scores": True})
    done = publish(pipeline, "org/again")

    facts = tomllib.loads(done.facts["pipeline_file"])
    facts["model"]["path"], facts["dataset"]["path"] = pipeline.model.path, pipeline.dataset.path
    assert declared(Pipeline.model_validate(facts)).version == done.facts["version"]
