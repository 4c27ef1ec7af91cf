"""Conversions are kept whole or not at all, and what is dropped of a checkpoint's settings is known before."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from transformers import GenerationConfig

from tidemill.engines.probing.conversion import CannotConvert
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.holding import (
    CHANGE_NOTHING,
    HELD,
    ctranslate2_options,
    least_new_tokens,
    probed_settings,
)
from tidemill.storage.conversions import (
    conversion_folder,
    is_kept,
    keep_conversion,
    remove_conversions,
    unused_conversions,
)


@pytest.fixture(autouse=True)
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    return tmp_path


def write(folder):
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")


def fail(folder):
    write(folder)
    raise OSError("No space left on device")


def settings_of(**said):
    generation = GenerationConfig(**{"decoder_start_token_id": 0, "eos_token_id": 1, "do_sample": False, **said})
    return Settings(generation, 100, is_encoder_decoder=True, end_ids=frozenset([1]))


def test_a_conversion_is_kept_with_every_byte():
    keep_conversion("a", write)

    assert is_kept("a")
    assert not is_kept("b")


@pytest.mark.parametrize("damage", [b"", b"weight", b"Weights"])
def test_one_that_is_damaged_is_none_and_is_made_anew(damage):
    keep_conversion("a", write)
    (conversion_folder("a") / "model.bin").write_bytes(damage)

    was_kept = is_kept("a")
    keep_conversion("a", write)

    assert (was_kept, is_kept("a")) == (False, True)


@pytest.mark.parametrize("sums", ["", "[]", "{}", '{"model.bin": "0", "config.json": "0"}'])
def test_one_whose_sums_say_nothing_of_it_is_none(sums):
    keep_conversion("a", write)
    (conversion_folder("a") / "sums.json").write_text(sums)

    assert not is_kept("a")


def aged(name: str, days: float) -> Path:
    """A conversion that was last used so many days ago."""
    keep_conversion(name, write)
    then = time.time() - days * 86_400
    os.utime(conversion_folder(name), (then, then))
    return conversion_folder(name)


def names(found: Iterable[Path]) -> list[str]:
    return [folder.name for folder in found]


def test_what_nobody_has_used_for_a_month_may_go_and_what_somebody_uses_may_not():
    aged("old", 40)
    aged("used again", 40)
    aged("young", 20)
    assert is_kept("used again")
    found = unused_conversions(max_bytes=10**9, min_age_seconds=86_400)
    assert names(found) == ["old"]
    assert found[conversion_folder("old")] == sum(file.stat().st_size for file in conversion_folder("old").iterdir())

    remove_conversions(found)
    assert [is_kept(name) for name in ("old", "used again", "young")] == [False, True, True]


def test_of_more_than_fits_the_longest_unused_may_go_first_and_none_of_today():
    one = sum(file.stat().st_size for file in aged("a", 3).iterdir())
    aged("b", 2)
    keep_conversion("today", write)
    assert names(unused_conversions(max_bytes=2 * one, min_age_seconds=86_400)) == ["a"]
    assert names(unused_conversions(max_bytes=0, min_age_seconds=86_400)) == ["a", "b"]
    assert unused_conversions(max_bytes=3 * one, min_age_seconds=86_400) == {}


def test_what_a_killed_process_has_begun_may_go_after_a_day():
    keep_conversion("a", write)
    begun, just_begun = (conversion_folder(f".{name}.partial") for name in ("begun", "just-begun"))
    write(begun)
    write(just_begun)
    os.utime(begun, (time.time() - 2 * 86_400,) * 2)
    assert names(unused_conversions(max_bytes=10**9, min_age_seconds=86_400)) == [begun.name]


def test_nothing_may_go_where_nothing_was_converted():
    assert unused_conversions(max_bytes=0, min_age_seconds=0) == {}


def test_nothing_is_left_of_one_that_fails(house):
    with pytest.raises(OSError, match="No space"):
        keep_conversion("a", fail)

    assert list((house / "conversions").iterdir()) == []


def test_what_ctranslate2_limits_unless_told_is_told():
    options = ctranslate2_options(settings_of())

    assert options["max_input_length"] == 0
    assert options["max_decoding_length"] == 100
    assert options["min_decoding_length"] == 0
    assert options["beam_size"] == 1
    assert options["end_token"] == [1]


@pytest.mark.parametrize(
    ("said", "least"),
    [({}, 0), ({"min_length": 1}, 0), ({"min_length": 9}, 8), ({"min_new_tokens": 9}, 9), ({"min_length": 200}, 199)],
)
def test_a_least_length_counts_the_decoders_start_and_a_least_number_of_new_tokens_does_not(said, least):
    settings = settings_of(**said)

    assert least_new_tokens(settings) == least
    assert ctranslate2_options(settings)["min_decoding_length"] == min(least, 100)


def test_words_that_are_forbidden_are_named_by_their_ids_but_for_an_end():
    options = ctranslate2_options(settings_of(bad_words_ids=[[1], [7], [8, 9]], suppress_tokens=[3]))

    assert options["suppress_sequences"] == [["7"], ["8", "9"], ["3"]]


def test_a_setting_that_nobody_knows_is_refused_before_it_is_dropped():
    generation = settings_of().generation
    generation.some_later_penalty = 0.5

    with pytest.raises(CannotConvert, match=r"it has no some_later_penalty, .* some_later_penalty = 0\.5"):
        ctranslate2_options(Settings(generation, 100, is_encoder_decoder=True, end_ids=frozenset([1])))


def test_every_setting_of_transformers_is_held_or_changes_nothing_or_is_refused():
    """By values that are not their defaults, those of sampling apart, which `Settings` switches off."""
    known = HELD | CHANGE_NOTHING
    others = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - known
    assert {"diversity_penalty", "encoder_no_repeat_ngram_size", "sequence_bias", "stop_strings", "max_time"} <= others


@pytest.mark.parametrize(
    "said",
    [
        {"encoder_repetition_penalty": 1.0, "num_beam_groups": 1, "diversity_penalty": 0.0, "num_return_sequences": 1},
        {"remove_invalid_values": False, "encoder_no_repeat_ngram_size": 0, "use_cache": True, "pad_token_id": 3},
    ],
)
def test_a_setting_at_a_value_that_does_nothing_is_no_reason(said):
    assert ctranslate2_options(settings_of(**said))["beam_size"] == 1


def test_the_probe_writes_less_than_a_run_and_more_than_is_forbidden():
    assert probed_settings(settings_of()).max_new_tokens == 32
    assert probed_settings(settings_of(min_new_tokens=60)).generation.max_new_tokens == 76
