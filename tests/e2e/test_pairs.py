"""Files of pairs become a table: each pair answered once, bad rows with the text that is wrong, changed ones anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from tests.commands import tidemill, write_toml
from tests.pair_models import save_pair_model
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
from tidemill.config import Pipeline
from tidemill.errors import ModelError
from tidemill.planning.plan import make_plan
from tidemill.reports.sample import sample

NUM_ROWS = 24
NO_SECOND, NO_FIRST, NO_ROOM, EMPTY = 3, 5, 7, 9


def pairs() -> pa.Table:
    """Half of them twice; one text or the other is null, the first leaves no room, the second is empty."""
    first = [text[:80] for text in reviews(0, NUM_ROWS // 2)["text"].to_pylist()] * 2
    second = [text[:80] for text in reviews(100, NUM_ROWS // 2)["text"].to_pylist()] * 2
    second[NO_SECOND], first[NO_FIRST], second[EMPTY] = None, None, ""
    first[NO_ROOM] = "the film " * 60
    return pa.table({"id": [f"p{i}" for i in range(NUM_ROWS)], "text": first, "other": second})


def pipeline_over(folder: Path, checkpoint: Path, name: str = "one", **sections: Any) -> Pipeline:
    dataset = {"text_pair": "other", "keep": [], **sections.pop("dataset", {})}
    return make_pipeline(
        folder / name,
        f"{folder}/data/*",
        dataset=dataset,
        model={"path": str(checkpoint), **sections.pop("model", {})},
        limits={"max_quarantine": 0.2},
        **sections,
    )


def expected(model: Path, rows: list[dict[str, Any]], truncation: str) -> np.ndarray:
    """Logits of each pair alone, by Transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    options = {"truncation": truncation, "max_length": 64, "return_tensors": "pt"}
    with torch.no_grad():
        logits = [module(**tokenizer([row["text"]], [row["other"]], **options)).logits[0].numpy() for row in rows]
    return np.array(logits)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return save_pair_model(tmp_path_factory.mktemp("nli"), "bert", "five labels")


def test_a_table_of_pairs_is_the_models_and_a_changed_file_computes_what_changed(tmp_path, classifier):
    rows = pairs()
    pipeline = pipeline_over(tmp_path, classifier, tokenizer={"truncation": "only_second"})
    write_parquet(tmp_path / "data" / "a.parquet", rows)

    assert run(pipeline).state == "done"

    path = "a.parquet"
    bad = {NO_SECOND, NO_FIRST, NO_ROOM}
    found = table_of(pipeline)
    good = [i for i in range(NUM_ROWS) if i not in bad]
    assert sorted(number for _, number in found) == good
    logits = expected(classifier, [rows.to_pylist()[i] for i in good], "only_second")
    labels = list(transformers.AutoConfig.from_pretrained(classifier).id2label.values())
    assert [found[path, i]["label"] for i in good] == [labels[best] for best in logits.argmax(axis=1)]
    assert quarantine_of(pipeline) == {
        (path, NO_SECOND): ("ingest", "text_pair is null"),
        (path, NO_FIRST): ("ingest", "text is null"),
        (path, NO_ROOM): (
            "tokenize",
            "the first text has 120 tokens, which leaves no room for the second in tokenizer.max_length 64",
        ),
    }
    # Beside a bad row its double is the only one, and so is that of the row whose second text was emptied.
    assert query(pipeline.lake, "SELECT num_distinct FROM _ledger") == [(NUM_ROWS // 2 + 1,)]

    columns = rows.to_pydict()
    # What the last word of one text becomes the first of the other is another pair, though joined it is the same.
    *words, last = columns["text"][0].split()
    columns["text"][0], columns["other"][0] = " ".join(words), f"{last} {columns['other'][0]}"
    columns["other"][1] = "Another answer."
    write_parquet(tmp_path / "data" / "a.parquet", pa.table(columns))
    result = run(pipeline)

    assert result.num_unchanged == len(good) - 2
    fresh = pipeline_over(tmp_path, classifier, "fresh", tokenizer={"truncation": "only_second"})
    run(fresh)
    assert_same_tables(pipeline, fresh)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_a_ranker_gives_one_score_a_row_and_a_sample_shows_both_texts(tmp_path):
    model = save_pair_model(tmp_path / "ranker", "roberta", "one output")
    rows = pairs().slice(10)
    write_parquet(tmp_path / "data" / "a.parquet", rows)
    pipeline = pipeline_over(tmp_path, model, model={"task": "text-ranking"})

    run(pipeline)

    logits = expected(model, rows.to_pylist(), "longest_first")[:, 0]
    scores = [row["score"] for _, row in sorted(table_of(pipeline).items())]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-4)
    (first,) = sample(pipeline, 1)
    assert (first["text"], first["text_pair"]) == (rows["text"][0].as_py(), rows["other"][0].as_py())
    assert first["score"] == pytest.approx(scores[0], abs=1e-6)
    with pytest.raises(ModelError, match=r"Set dataset\.text to the column of the queries, and dataset\.text_pair"):
        make_plan(pipeline_over(tmp_path, model, model={"task": "text-ranking"}, dataset={"text_pair": []}), None)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dataset.text_pair=othr"], "has no column 'othr'. It has: other, text, id. Set dataset.text_pair to one"),
        (["tokenizer.long_text=windows"], 'tokenizer.long_text = "windows" reads one text'),
        (["dataset.text_pair=[]", "tokenizer.truncation=only_second"], "counts only for pairs of texts"),
        (["tokenizer.truncation=only_first"], "tokenizer.truncation = 'only_first'"),
    ],
)
def test_what_pairs_cannot_be_is_one_message_and_exit_code_2(tmp_path, classifier, overrides, said):
    write_parquet(tmp_path / "data" / "a.parquet", pairs())
    extra = 'text_pair = "other"\n'
    path = write_toml(tmp_path, f"{tmp_path}/data/*", model=str(classifier), extra=extra)
    settings = [word for override in [*overrides, "dataset.keep=[]"] for word in ("--set", override)]

    done = tidemill("plan", path, *settings, home=tmp_path / "home")

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
