"""Embeddings from files to a table that SQL searches, kept up to date like any other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.commands import tidemill, write_toml
from tests.embedders import save_embedder
from tests.hub.server import files_in
from tests.pipelines import make_pipeline, problems_of, quarantine_of, query, reviews, run, table_of, write_parquet
from tests.versions import compute_version
from tidemill.lake import Lake
from tidemill.results.promotion import promote

NUM_ROWS, SIZE = 40, 32
NEAREST = """
    WITH asked AS (SELECT embedding FROM reviews WHERE id = '{id}')
    SELECT id, array_cosine_similarity(reviews.embedding, asked.embedding) AS similarity
    FROM reviews, asked ORDER BY similarity DESC LIMIT 10
"""


def pipeline_over(folder, name="lake", *, path=None, **options):
    model = {"task": "sentence-similarity", "path": path or f"{folder}/model", "options": options}
    return make_pipeline(folder / name, f"{folder}/data/*", model=model)


def with_texts(rows, **texts):
    column = rows["text"].to_pylist()
    for row, text in texts.items():
        column[int(row.removeprefix("row"))] = text
    return rows.set_column(rows.column_names.index("text"), "text", pa.array(column, pa.string()))


def type_of_embedding(pipeline, table="reviews"):
    found = query(pipeline.lake, f"SELECT typeof(embedding) FROM {table} LIMIT 1")
    return found[0][0]


@pytest.fixture
def folder(tmp_path):
    save_embedder(tmp_path / "model")
    write_parquet(tmp_path / "data" / "export.parquet", with_texts(reviews(0, NUM_ROWS), row3="", row4=None))
    return tmp_path


def test_the_table_is_searched_by_sql_and_of_a_changed_file_only_changed_rows_are_embedded(folder):
    pipeline = pipeline_over(folder)
    assert run(pipeline).num_rows == NUM_ROWS - 1
    rows = reviews(0, NUM_ROWS)["id"].to_pylist()

    first = query(pipeline.lake, NEAREST.format(id=rows[7]))

    assert (first[0][0], len(first)) == (rows[7], 10)
    assert first[0][1] == pytest.approx(1, abs=1e-5)
    assert type_of_embedding(pipeline) == f"FLOAT[{SIZE}]"
    assert list(quarantine_of(pipeline).values()) == [("ingest", "text is null")]
    assert problems_of(pipeline) == []
    before = table_of(pipeline)

    changed = with_texts(reviews(0, NUM_ROWS), row3="", row4="No longer missing.", row9="It was written anew.")
    write_parquet(folder / "data" / "export.parquet", changed)
    again = run(pipeline)

    assert (again.num_rows, again.num_unchanged) == (NUM_ROWS, NUM_ROWS - 2)
    after = table_of(pipeline)
    assert {row for path, row in after if after[path, row] != before.get((path, row))} == {4, 9}
    assert problems_of(pipeline) == []
    assert run(pipeline).num_shards == 0


@pytest.mark.slow
def test_another_size_is_another_version_and_the_view_shows_whichever_is_promoted(folder):
    pipeline, shorter = pipeline_over(folder), pipeline_over(folder, truncate_dim=8, normalize=True)
    first = run(pipeline).version

    second = compute_version(shorter)

    tables = [type_of_embedding(pipeline, f"reviews__{version}") for version in (first, second)]
    assert tables == ["FLOAT[]", "FLOAT[]"]
    for version, size in ((second, 8), (first, SIZE), (second, 8)):
        with Lake(pipeline.lake) as lake:
            promote(lake, "reviews", version)
        assert type_of_embedding(pipeline) == f"FLOAT[{size}]"
        assert problems_of(pipeline) == []
    lengths = query(pipeline.lake, "SELECT DISTINCT round(list_inner_product(embedding, embedding), 4) FROM reviews")
    assert lengths == [(1.0,)]


@pytest.mark.slow
def test_a_model_on_the_hub_is_fetched_with_its_modules_and_another_pooling_is_another_version(hub, folder):
    repo = hub.add_model("org/embedder")
    repo.commit(files_in(folder / "model"))
    pipeline = pipeline_over(folder, "hub", path="org/embedder")
    local = pipeline_over(folder)
    by_hub, by_folder = run(pipeline), run(local)

    assert by_hub.state == by_folder.state == "done"
    ours, theirs = table_of(pipeline), table_of(local)
    assert all(np.array_equal(row["embedding"], theirs[place]["embedding"]) for place, row in ours.items())
    repo.commit({"README.md": b"# Another card"})
    assert compute_version(pipeline) == by_hub.version
    repo.commit({"1_Pooling/config.json": b'{"word_embedding_dimension": 32, "pooling_mode_cls_token": true}'})
    assert compute_version(pipeline) != by_hub.version


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ('task = "feature-extraction"\n', 'needs model.options.pooling: "mean", "cls", "last_token" or "max"'),
        (
            'task = "sentence-similarity"\noptions = { prompt_nam = "query" }\n',
            "Did you mean model.options.prompt_name?",
        ),
        ('task = "sentence-similarity"\noptions = { truncate_dim = 33 }\n', "truncate_dim = 33 is more than the 32"),
        ('task = "text-classification"\n', "needs a ...ForSequenceClassification"),
    ],
)
def test_what_the_pipeline_file_asks_for_in_vain_is_refused_in_one_message(folder, model, said):
    toml = write_toml(folder, f"{folder}/data/*", model=f"{folder}/model")
    toml.write_text(toml.read_text().replace("[model]\n", f"[model]\n{model}"))

    told = tidemill("plan", toml, home=folder / "home")

    assert told.returncode == 2
    assert said in told.stderr
    assert "Traceback" not in told.stderr
