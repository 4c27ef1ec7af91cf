"""Names that lakes and stores hold, as literals: a name that moves has rows computed, and texts tokenized, once more.

What a new option adds to a version or a tokenizer must leave out of these names whatever says no more than before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.pipelines import ROOT
from tidemill.config import Pipeline, load_pipeline
from tidemill.encoding.text_hashes import text_hashes
from tidemill.inference.opening import load_preparer
from tidemill.lake import Lake
from tidemill.lake.ducklake.claims import open_claims
from tidemill.lake.requests import Request
from tidemill.planning.plan import make_plan
from tidemill.planning.version_tables import Version
from tidemill.planning.versions import VersionSpec, declared
from tidemill.running.stages.workspace import Workspace
from tidemill.shards import Shard

MODEL = ROOT / "data" / "models" / "tiny-sentiment"
REVIEWS = ROOT / "data" / "pipelines" / "reviews.toml"
EMAILS = ROOT / "data" / "pipelines" / "emails.toml"

VERSIONS: dict[str, tuple[dict[str, object], str]] = {
    "defaults": ({}, "2b2f1bab"),
    "defaults, written out": (
        {
            "model.task": "text-classification",
            "model.all_scores": False,
            "tokenizer.max_length": "auto",
            "tokenizer.long_text": "truncate",
            "tokenizer.overlap": "auto",
            "tokenizer.aggregate": "mean",
            "inference.dtype": "auto",
        },
        "2b2f1bab",
    ),
    "another engine, device and budget": (
        {"inference.engine": "torch", "inference.device": "cpu", "inference.token_budget": 512},
        "2b2f1bab",
    ),
    "all scores": ({"model.all_scores": True}, "1442a3f6"),
    "trusted code": ({"model.trust_remote_code": True}, "f0ba9f9a"),
    "token of padding": ({"model.pad_token_id": 0}, "b5df6848"),
    "float32": ({"inference.dtype": "float32"}, "33ed8d4b"),
    "bfloat16": ({"inference.dtype": "bfloat16"}, "a050aeec"),
    "float16": ({"inference.dtype": "float16"}, "f763bfb7"),
    "int8": ({"inference.dtype": "int8"}, "9810e6f2"),
    "length": ({"tokenizer.max_length": 64}, "367309bc"),
    "quarantine": ({"tokenizer.long_text": "quarantine"}, "3845cb7e"),
    "windows": ({"tokenizer.long_text": "windows"}, "0dfd0ae3"),
    "windows of a length": ({"tokenizer.long_text": "windows", "tokenizer.max_length": 64}, "4edadbd1"),
    "windows, overlap": ({"tokenizer.long_text": "windows", "tokenizer.overlap": 7}, "002ccd03"),
    "windows, largest": ({"tokenizer.long_text": "windows", "tokenizer.aggregate": "max"}, "0fbd97b5"),
    "windows, weighted": ({"tokenizer.long_text": "windows", "tokenizer.aggregate": "length_weighted"}, "2222180b"),
    "a tokenizer of its own": ({"tokenizer.path": str(MODEL)}, "6e9ba20b"),
    "one text in a list": ({"dataset.text": ["text"]}, "2b2f1bab"),
    "another text": ({"dataset.text": "domain"}, "c6cbba4a"),
    "two texts": ({"dataset.text": ["domain", "text"]}, "7e28d838"),
    "two texts, a separator": ({"dataset.text": ["domain", "text"], "dataset.text_separator": " - "}, "8dd6f759"),
    "one text, a separator": ({"dataset.text_separator": " - "}, "2ba0fec1"),
    "much at once": (
        {
            "dataset.text": ["domain", "text"],
            "model.all_scores": True,
            "model.pad_token_id": 0,
            "inference.dtype": "float32",
            "tokenizer.long_text": "windows",
            "tokenizer.max_length": 128,
            "tokenizer.overlap": 16,
            "tokenizer.aggregate": "max",
        },
        "f2641a77",
    ),
}
"""What overrides data/pipelines/reviews.toml, and the version's name."""


@pytest.mark.parametrize(("overrides", "name"), VERSIONS.values(), ids=VERSIONS)
def test_a_version_of_the_bundled_model_has_the_name_that_lakes_hold(overrides, name):
    assert declared(load_pipeline(REVIEWS, overrides)).version == name


RECORDS: dict[str, dict[str, Any]] = {
    "2b2f1bab": {
        "task": "text-classification",
        "model_path": "/data/models/tiny-sentiment",
        "model": "sha256:ee03f88ba67e4e9e5158c5aa354228eb",
        "tokenizer_path": "/data/models/tiny-sentiment",
        "tokenizer": "sha256:ee03f88ba67e4e9e5158c5aa354228eb",
        "text": ["text"],
        "text_separator": "\n",
        "max_length": "auto",
        "long_text": "truncate",
        "dtype": "auto",
        "all_scores": False,
        "trust_remote_code": False,
    },
    "002ccd03": {
        "task": "text-classification",
        "model_path": "/data/models/tiny-sentiment",
        "model": "sha256:ee03f88ba67e4e9e5158c5aa354228eb",
        "tokenizer_path": "/data/models/tiny-sentiment",
        "tokenizer": "sha256:ee03f88ba67e4e9e5158c5aa354228eb",
        "text": ["text"],
        "text_separator": "\n",
        "max_length": "auto",
        "long_text": "windows",
        "dtype": "auto",
        "all_scores": False,
        "trust_remote_code": False,
        "overlap": 7,
        "aggregate": "mean",
    },
    "f2641a77": {
        "task": "text-classification",
        "model_path": "/data/models/tiny-sentiment",
        "model": "sha256:ee03f88ba67e4e9e5158c5aa354228eb",
        "tokenizer_path": "/data/models/tiny-sentiment",
        "tokenizer": "sha256:ee03f88ba67e4e9e5158c5aa354228eb",
        "text": ["domain", "text"],
        "text_separator": "\n",
        "max_length": 128,
        "long_text": "windows",
        "dtype": "float32",
        "all_scores": True,
        "trust_remote_code": False,
        "overlap": 16,
        "aggregate": "max",
        "pad_token_id": 0,
    },
    "78414ce0": {
        "task": "text-classification",
        "model_path": "org/sentiment",
        "model": "commit:a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4",
        "tokenizer_path": "org/words",
        "tokenizer": "commit:0f1e2d3c0f1e2d3c0f1e2d3c0f1e2d3c0f1e2d3c/small",
        "text": ["text"],
        "text_separator": "\n",
        "max_length": 384,
        "long_text": "quarantine",
        "dtype": "auto",
        "all_scores": False,
        "trust_remote_code": True,
    },
}
"""As `_versions.spec` has them, by the version's name."""


@pytest.mark.parametrize(("name", "record"), RECORDS.items(), ids=RECORDS)
def test_a_version_that_a_lake_recorded_is_read_and_written_word_for_word(name, record):
    spec = VersionSpec.from_json(record)

    assert spec.version == name
    assert as_recorded(spec) == record


def test_what_a_lake_records_of_the_bundled_pipeline_is_this():
    places = {"model_path": str(MODEL), "tokenizer_path": str(MODEL)}

    assert as_recorded(declared(load_pipeline(REVIEWS))) == RECORDS["2b2f1bab"] | places


def as_recorded(spec: VersionSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(spec.to_json()))
    return found


RESULTS: dict[str, tuple[dict[str, object], list[str]]] = {
    "defaults": ({}, ["label VARCHAR", "score FLOAT"]),
    "all scores": ({"model.all_scores": True}, ["label VARCHAR", "score FLOAT", "scores MAP(VARCHAR, FLOAT)"]),
    "windows": ({"tokenizer.long_text": "windows"}, ["label VARCHAR", "score FLOAT", "num_windows INTEGER"]),
}
"""What overrides data/pipelines/reviews.toml, and the columns of results in the version's table."""


@pytest.mark.parametrize(("overrides", "columns"), RESULTS.values(), ids=RESULTS)
def test_a_table_has_the_columns_of_results_that_lakes_hold(overrides, columns):
    plan, _ = make_plan(load_pipeline(REVIEWS, overrides), None)

    assert [f"{name} {kind}" for name, kind in plan.table.results] == columns


TOKENIZERS: dict[str, tuple[dict[str, object], str]] = {
    "defaults": ({}, "4977da618268a5c83c24348703f3b235"),
    "model's own length": ({"tokenizer.max_length": 512}, "4977da618268a5c83c24348703f3b235"),
    "all scores": (
        {"model.all_scores": True, "inference.dtype": "float32", "model.pad_token_id": 0},
        "4977da618268a5c83c24348703f3b235",
    ),
    "length": ({"tokenizer.max_length": 64}, "c40c7c62004924f83f8c2edc8129aeef"),
    "quarantine": ({"tokenizer.long_text": "quarantine"}, "83610e01b935e4bc0b84184c738d8b2d"),
    "windows": ({"tokenizer.long_text": "windows"}, "84d9f5903a4f85dc608b866bc6137b3e"),
    "windows, overlap": (
        {"tokenizer.long_text": "windows", "tokenizer.overlap": 7},
        "a68bc6dad543822dc042cdee7fa69469",
    ),
    "windows, largest": (
        {"tokenizer.long_text": "windows", "tokenizer.aggregate": "max"},
        "84d9f5903a4f85dc608b866bc6137b3e",
    ),
    "windows of a length": (
        {"tokenizer.long_text": "windows", "tokenizer.max_length": 64},
        "1aefed874297cd0d425e761dd63414f8",
    ),
}
"""What overrides data/pipelines/reviews.toml, and the fingerprint of the tokenizer, by which token shards are named."""


@pytest.mark.parametrize(("overrides", "name"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_has_the_fingerprint_by_which_stores_name_its_shards(overrides, name):
    assert load_preparer(declared(load_pipeline(REVIEWS, overrides))).fingerprint == name


CSV = b"id;text;title\n1;A good film.;Good\n2;A bad film.;Bad\n"
SEMICOLON: dict[str, object] = {"dataset.delimiter": ";", "dataset.key": ["id"], "dataset.keep": []}

STORES: dict[str, tuple[Path | bytes, dict[str, object], dict[str, str]]] = {
    "reviews": (
        REVIEWS,
        {},
        {
            "revision": "a1e8f0178159bbd07bdf2775699b5030",
            "table": "reviews__2b2f1bab",
            "shard": "49dc9ee3462916d1",
            "kept": "3848b16e",
            "rows": "rows/ececb134a3412aeb1bd9191ed9750cbf.arrow",
            "tokens": "tokens/5ac1864841b4fc0dd7e7959ea2189ab1.arrow",
            "predictions": "predictions/80709e255c2051ecfde54d0f7ef72c0c.arrow",
        },
    ),
    "reviews, float32": (
        REVIEWS,
        {"inference.dtype": "float32"},
        {
            "revision": "a1e8f0178159bbd07bdf2775699b5030",
            "table": "reviews__33ed8d4b",
            "shard": "49dc9ee3462916d1",
            "kept": "3848b16e",
            "rows": "rows/ececb134a3412aeb1bd9191ed9750cbf.arrow",
            "tokens": "tokens/5ac1864841b4fc0dd7e7959ea2189ab1.arrow",
            "predictions": "predictions/26ca672d6b0570316ddeb0756f7d0e26.arrow",
        },
    ),
    "reviews, no columns": (
        REVIEWS,
        {"dataset.key": [], "dataset.keep": []},
        {
            "revision": "a1e8f0178159bbd07bdf2775699b5030",
            "table": "reviews__2b2f1bab",
            "shard": "49dc9ee3462916d1",
            "kept": "e3b0c442",
            "rows": "rows/4858ca065ffe884137370b4bd8bb8682.arrow",
            "tokens": "tokens/6475eada548f36dccb956d052b70d38e.arrow",
            "predictions": "predictions/80709e255c2051ecfde54d0f7ef72c0c.arrow",
        },
    ),
    "reviews, renamed": (
        REVIEWS,
        {"dataset.keep": ["domain as field"]},
        {
            "revision": "a1e8f0178159bbd07bdf2775699b5030",
            "table": "reviews__2b2f1bab",
            "shard": "49dc9ee3462916d1",
            "kept": "78d52082",
            "rows": "rows/e79cb1770e0e71b83bc10f17883a5ea1.arrow",
            "tokens": "tokens/fe9d3134fd3c4d4ba577167aa2d079c2.arrow",
            "predictions": "predictions/80709e255c2051ecfde54d0f7ef72c0c.arrow",
        },
    ),
    "reviews, small shards": (
        REVIEWS,
        {"dataset.shard_bytes": 65_536},
        {
            "revision": "a1e8f0178159bbd07bdf2775699b5030",
            "table": "reviews__2b2f1bab",
            "shard": "6154a42b9e93c0d9",
            "kept": "3848b16e",
            "rows": "rows/cc8a3ea78a8ce5099f552932ac352063.arrow",
            "tokens": "tokens/7ef416261e58e264acccc8f0f4a1ab17.arrow",
            "predictions": "predictions/5febd93975683c835912a28fda4ae967.arrow",
        },
    ),
    "reviews, two texts": (
        REVIEWS,
        {"dataset.text": ["domain", "text"], "dataset.text_separator": " - "},
        {
            "revision": "a1e8f0178159bbd07bdf2775699b5030",
            "table": "reviews__8dd6f759",
            "shard": "49dc9ee3462916d1",
            "kept": "3848b16e",
            "rows": "rows/b7696187409df161a3129474c369c195.arrow",
            "tokens": "tokens/884c0a5a7bac66862fe212770320339e.arrow",
            "predictions": "predictions/ade9b55febae7bde5de05b5b6fd4e0ec.arrow",
        },
    ),
    "reviews, windows": (
        REVIEWS,
        {"tokenizer.long_text": "windows"},
        {
            "revision": "a1e8f0178159bbd07bdf2775699b5030",
            "table": "reviews__0dfd0ae3",
            "shard": "49dc9ee3462916d1",
            "kept": "3848b16e",
            "rows": "rows/ececb134a3412aeb1bd9191ed9750cbf.arrow",
            "tokens": "tokens/e9898c93ce2a5ed8cbe428d60fa91be4.arrow",
            "predictions": "predictions/74f9ee234954193e5597626ff0b75442.arrow",
        },
    ),
    "e-mails": (
        EMAILS,
        {},
        {
            "revision": "14059b2c8491068855ec52d396733dd2",
            "table": "emails__2b2f1bab",
            "shard": "694dea773d593be4",
            "kept": "6f4d7b32",
            "rows": "rows/a84982b24365e18a1bace6dec2e188e5.arrow",
            "tokens": "tokens/451daee61628f5e2c9c8a1b47f1102ec.arrow",
            "predictions": "predictions/f1a85bb018cc39358dedaef40906d5ec.arrow",
        },
    ),
    "a table of text": (
        CSV,
        SEMICOLON,
        {
            "revision": "106139e5a24e307a0e7eb24e0d8bf736",
            "table": "reviews__2b2f1bab",
            "shard": "a70783070ba345fa",
            "kept": "205cad1d",
            "rows": "rows/ba29e1c6fcb28b472d239673365a9ad9.arrow",
            "tokens": "tokens/fa4a3b18fd6eff3ea62e1b07881b70b7.arrow",
            "predictions": "predictions/5330b8972fe7aa226e8833af2fd6163f.arrow",
        },
    ),
}
"""A pipeline file or a file to read, what overrides the one or reviews.toml, and the names that come of it."""


@pytest.mark.parametrize(("source", "overrides", "names"), STORES.values(), ids=STORES)
def test_shards_and_their_files_have_the_names_that_lakes_and_stores_hold(source, overrides, names, tmp_path):
    assert names_of(pipeline_of(source, overrides, tmp_path)) == names


def pipeline_of(source: Path | bytes, overrides: Mapping[str, object], folder: Path) -> Pipeline:
    places: dict[str, object] = {
        "lake.catalog": f"sqlite:{folder}/lake.sqlite",
        "lake.data": f"{folder}/lake",
        "store.path": f"{folder}/store",
    }
    if isinstance(source, bytes):
        (folder / "texts").mkdir()
        (folder / "texts" / "films.csv").write_bytes(source)
        places["dataset.path"] = f"{folder}/texts/*.csv"
    return load_pipeline(source if isinstance(source, Path) else REVIEWS, places | dict(overrides))


def names_of(pipeline: Pipeline) -> dict[str, str]:
    """Names of a dataset, its last shard, its columns and of what the stages write of that shard, for request `r`."""
    plan, dataset = make_plan(pipeline, None)
    file = plan.files[-1]
    cut = list(dataset.reader(file.file).slices(shard_bytes=dataset.shard_bytes))[-1]
    with Lake(pipeline.lake) as lake, closing(open_claims(pipeline.lake)) as claims:
        version = Version(plan.spec, plan.kept, plan.table)
        workspace = Workspace(pipeline, version, lake, claims, revision=plan.revision, run_id="test")
        request = Request(Shard(file.file, cut), "r")
        return {
            "revision": plan.revision,
            "table": plan.table.name,
            "shard": request.shard.shard_id,
            "kept": workspace.target.kept,
            "rows": workspace.rows_file(request.shard).name,
            "tokens": workspace.tokens_file(request.shard).name,
            "predictions": workspace.predictions_file(request).name,
        }


def test_a_text_has_the_hash_by_which_lakes_know_it_again():
    hashes = text_hashes(pa.array(["A good film.", "", "Gut – so’n Film 🎬", None])).to_pylist()

    assert [hashed and hashed.hex for hashed in hashes] == [
        "fb491e507f876c835cf58c4e1c3cc2c5",
        "cae66941d9efbd404e4d88758ea67670",
        "c6ddc6620c3ffb0514a192de2045c01b",
        None,
    ]
