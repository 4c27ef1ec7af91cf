"""What a table says does not depend on how the work was cut, batched or spread."""

from __future__ import annotations

import pytest

from tests.pipelines import make_pipeline, reviews, run, table_of, write_parquet

# What sums in another order come to, by dtype.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.02}
CUTS = {
    "one shard, small batches": ({"shard_bytes": 2**20}, {"token_budget": 256}, {"shards_in_flight": 1}),
    "many shards, large batches": ({"shard_bytes": 3_000}, {"token_budget": 4_096}, {"shards_in_flight": 6}),
    "many shards, one in flight": ({"shard_bytes": 9_000}, {"token_budget": 600}, {"shards_in_flight": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ("torch", "float32"),
        pytest.param("openvino", "bfloat16", marks=pytest.mark.slow),
        pytest.param("torch", "bfloat16", marks=pytest.mark.soak),
    ],
)
def test_labels_are_the_same_and_scores_within_the_dtypes_tolerance(tmp_path, engine, dtype):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 120), row_group_size=50)
    write_parquet(tmp_path / "data" / "b.parquet", reviews(120, 60))
    tables, num_shards = [], set()
    for name, (dataset, inference, limits) in CUTS.items():
        pipeline = make_pipeline(
            tmp_path / name,
            f"{tmp_path}/data/*.parquet",
            dataset=dataset,
            inference={"engine": engine, "dtype": dtype, **inference},
            limits=limits,
        )
        num_shards.add(run(pipeline).num_shards)
        tables.append(table_of(pipeline))

    assert len(num_shards) > 1
    first, *others = tables
    assert len(first) == 180
    for other in others:
        assert {place: row["label"] for place, row in other.items()} == {
            place: row["label"] for place, row in first.items()
        }
        assert all(abs(row["score"] - first[place]["score"]) <= TOLERANCE[dtype] for place, row in other.items())
