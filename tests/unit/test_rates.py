from __future__ import annotations

import pytest
import torch

from tidemill import places
from tidemill.engines import rates
from tidemill.engines.rates import ProductRates, kept_rates, measure_rates, product_rates
from tidemill.storage.kept import keep


class Clock:
    """Time as products take it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, *seconds):
        left = list(seconds)

        def product():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return product


@pytest.fixture(autouse=True)
def _nothing_measured_before():
    rates._product_rates.cache_clear()
    yield
    rates._product_rates.cache_clear()


@pytest.fixture
def num_measured(monkeypatch):
    """How often it was measured, each time something else."""
    measured: list[int] = []

    def measure():
        measured.append(len(measured) + 1)
        return ProductRates(100.0 * len(measured), 200.0, None)

    monkeypatch.setattr(rates, "measure_rates", measure)
    return measured


def test_the_best_turn_of_each_type_counts():
    clock = Clock()
    products = {"float32": clock.taking(3.0, 2.0, 4.0), "bfloat16": clock.taking(5.0, 6.0, 1.5, 7.0)}

    assert rates._best_seconds(products, 1.0, clock) == {"float32": 2.0, "bfloat16": 1.5}


def test_products_that_are_hopeless_are_tried_once():
    clock, tried = Clock(), []

    def emulated():
        tried.append(clock.now)
        clock.now += 90.0

    rates._best_seconds({"float32": clock.taking(1.0), "bfloat16": emulated}, 100.0, clock)

    assert len(tried) == 1


def test_products_are_timed_in_every_type_that_is_here_and_the_threads_are_as_before():
    torch.set_num_threads(2)

    found = measure_rates(seconds=0.001)

    assert found.float32 > 1e8
    assert (found.bfloat16 is None) == (not torch.ops.mkldnn._is_mkldnn_bf16_supported())
    assert found.times("float32") == 1.0
    assert torch.get_num_threads() == 2


def test_rates_are_measured_once_a_process_and_kept_for_the_next(num_measured):
    assert kept_rates() is None
    assert product_rates() == product_rates() == ProductRates(100.0, 200.0, None)
    rates._product_rates.cache_clear()

    assert product_rates() == kept_rates() == ProductRates(100.0, 200.0, None)
    assert num_measured == [1]


def test_another_processor_is_measured_anew(num_measured, monkeypatch):
    product_rates()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")

    assert kept_rates() is None
    assert product_rates().float32 == 200.0


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"float32": 1}', '{"float32": "fast", "bfloat16": 1, "int8": 1}', '{"float32": null, "bfloat16": 1, '
     '"int8": 1}', '{"float32": 1, "bfloat16": -1, "int8": null}', '{"float32": NaN, "bfloat16": 1, "int8": 1}', "\0",
     f'{{"float32": {10**400}, "bfloat16": null, "int8": null}}'],
    ids=["empty", "list", "few", "words", "nothing", "negative", "NaN", "zero", "many digits"],
)  # fmt: skip
def test_kept_rates_that_are_damaged_are_measured_anew(content, num_measured):
    product_rates()
    [kept] = (places.home() / "calibrations").iterdir()
    kept.write_text(content)
    rates._product_rates.cache_clear()

    assert kept_rates() is None
    assert product_rates().float32 == 200.0
    assert kept_rates() == ProductRates(200.0, 200.0, None)


def test_a_home_that_cannot_be_written_costs_only_the_next_measurement(monkeypatch, tmp_path, num_measured):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "file"))
    keep("anything", {})

    assert product_rates().float32 == 100.0
