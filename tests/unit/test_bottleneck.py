"""What `tidemill bench` advises, and that it times what a run does."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.told_engines import OV32, Clock, Engine
from tidemill.config import Inference
from tidemill.encoding.batching import ANY_LENGTHS, EQUAL_LENGTHS, ONE_ROW
from tidemill.encoding.items import prepared_rows
from tidemill.reports import bottleneck

INSTALL = 'On a CPU OpenVINO is often faster: pip install "tidemill[openvino]".'
NO_BFLOAT16 = "It computes in float32: this device has no faster bfloat16, or inference.dtype asks for it."
DRIFT = "bfloat16 moves scores by 0.300 from float32's"


def advice(**resolved: Any) -> list[str]:
    return list(bottleneck._advice_on_engine({"device": "cpu", "engine": "torch", "dtype": "float32", **resolved}))


@pytest.mark.parametrize(("is_installed", "expected"), [(True, []), (False, [INSTALL])])
def test_openvino_is_advised_only_where_it_is_not_installed(monkeypatch, is_installed, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed else None)

    assert advice(dtype="bfloat16") == expected
    assert advice(dtype="bfloat16", device="cuda:0") == []


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [
        ({}, [NO_BFLOAT16]),
        ({"auto": {"products_times_float32": {"bfloat16": 0.5}}}, [NO_BFLOAT16]),
        ({"auto": {"tokens_per_second": {"torch float32": 900.0}}}, []),
        ({"float32_because": DRIFT}, [f"It computes in float32: {DRIFT}."]),
        ({"dtype": "bfloat16"}, []),
    ],
)
def test_it_is_said_why_a_model_is_computed_in_float32_unless_a_trial_found_it_faster(monkeypatch, resolved, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    assert advice(engine="openvino", **resolved) == expected


@pytest.mark.parametrize(("company", "num_batches"), [(ANY_LENGTHS, 1), (EQUAL_LENGTHS, 2), (ONE_ROW, 3)])
def test_the_bare_engine_is_given_rows_that_may_share_a_batch(company, num_batches):
    engine: Any = Engine(OV32, Clock(), [1_000])
    engine.company = company
    runner: Any = SimpleNamespace(engine=engine, token_budget=64)

    rows = prepared_rows(pa.array([[5, 6], [7, 8], [5, 6, 7]], pa.list_(pa.int32())))
    bottleneck._bare_loop(runner, [rows], Inference())

    assert engine.num_batches == num_batches


def test_a_shard_in_which_a_contest_was_held_is_timed_once_more():
    left: list[Any] = [SimpleNamespace(notes=("auto was tried",)), SimpleNamespace(notes=())]

    _, predictions = bottleneck._timed_alone(lambda: left.pop(0))

    assert (predictions.notes, left) == ((), [])
