"""Do our tables say what `transformers.pipeline` says in fp32?

    python -m benchmarks.agreement [--rows 1200]

Runs the sample e-mails (cut at 512 tokens) and the reviews from files to table
with the device's own dtype, and the pipeline over the same texts, sorted and in
batches of 32. Prints labels in common, score drift, and accuracy on the reviews
that the model has not seen (the sign of the human rating).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import BATCH_SIZE, Answers, Work, pipeline_classifier
from benchmarks.corpora import DATA, MAX_LENGTH, TINY_SENTIMENT
from benchmarks.machine import this_machine
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.running.run import Run


def table(dataset: str, keep: Sequence[str]) -> list[dict[str, object]]:
    """The rows of a new table, by file and row number, with their text."""
    home = Path(tempfile.mkdtemp(prefix="tidemill-agreement-"))
    pipeline = Pipeline.model_validate(
        {
            "name": "sample",
            "dataset": {"path": f"{DATA}/{dataset}/*.parquet", "text": "text", "keep": [*keep, "text as original"]},
            "tokenizer": {"max_length": MAX_LENGTH},
            "model": {"path": str(TINY_SENTIMENT)},
            "lake": {"catalog": f"sqlite:{home}/lake.sqlite", "data": f"{home}/lake"},
            "store": {"path": f"{home}/store"},
        }
    )
    assert Run(pipeline).execute().state == "done"
    with Lake(pipeline.lake, read_only=True) as lake:
        cursor = lake.cursor().execute(
            "SELECT t.* FROM sample t JOIN _target_shards s USING (shard_id) ORDER BY s.path, t.row_number"
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def oracle(rows: Sequence[dict[str, object]]) -> Answers:
    """The pipeline's answers, in the rows' order; sorted by length, which makes it faster and changes no answer."""
    order = sorted(range(len(rows)), key=lambda i: len(str(rows[i]["original"])))
    classify = pipeline_classifier(Work(TINY_SENTIMENT, [], Path(), options={"batch_size": BATCH_SIZE}))
    answers = classify([str(rows[i]["original"]) for i in order])
    placed = dict(zip(order, answers, strict=True))
    return [placed[i] for i in range(len(rows))]


def report(name: str, rows: Sequence[dict[str, object]], answers: Answers) -> None:
    same = sum(row["label"] == label for row, (label, _) in zip(rows, answers, strict=True))
    drift = sorted(abs(float(str(row["score"])) - score) for row, (_, score) in zip(rows, answers, strict=True))
    print(
        f"{name}: {len(rows):,} rows, {same / len(rows):.3%} same label, drift p99 {drift[int(0.99 * len(drift))]:.4f}"
    )


def accuracy(rows: Sequence[dict[str, object]], labels: Sequence[object]) -> float:
    judged = [
        (label == "POSITIVE") == (float(str(row["rating"])) > 0)
        for row, label in zip(rows, labels, strict=True)
        if row["part"] == "test" and row["rating"] != 0
    ]
    return sum(judged) / len(judged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="compare only the first rows of each")
    args = parser.parse_args()
    print(this_machine())
    for name, keep in (("emails", ()), ("reviews", ("rating", "part"))):
        rows = table(name, keep)[: args.rows]
        answers = oracle(rows)
        report(name, rows, answers)
        if name == "reviews" and args.rows is None:
            ours, theirs = (
                accuracy(rows, [row["label"] for row in rows]),
                accuracy(rows, [label for label, _ in answers]),
            )
            print(f"unseen reviews: accuracy {ours:.4f} ours, {theirs:.4f} the pipeline's")


if __name__ == "__main__":
    main()
