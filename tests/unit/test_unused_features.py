"""What encoders made of texts goes when nobody trains by it any more, and last what was used last."""

from __future__ import annotations

import os
import time

import pytest

from tidemill.storage.features import features_file, note_use, remove_features, unused_features

DAY = 86_400


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    features_file("any").parent.mkdir()


def kept(name: str, *, days_ago: float, num_bytes: int = 10):
    path = features_file(name)
    path.write_bytes(bytes(num_bytes))
    then = time.time() - days_ago * DAY
    os.utime(path, (then, then))
    return path


def test_features_that_no_training_has_used_for_a_month_go():
    old, recent = kept("old", days_ago=31), kept("recent", days_ago=29)

    remove_features(unused_features(max_bytes=1_000, min_age_seconds=DAY))

    assert (old.exists(), recent.exists()) == (False, True)


def test_a_training_that_uses_features_keeps_them_for_another_month():
    note_use(kept("old", days_ago=31))

    assert unused_features(max_bytes=1_000, min_age_seconds=DAY) == {}


def test_of_more_than_fits_the_longest_unused_go_and_none_that_was_used_today():
    oldest, _, today = (kept(name, days_ago=days) for name, days in (("a", 9), ("b", 5), ("c", 0.1)))

    assert unused_features(max_bytes=25, min_age_seconds=DAY) == {oldest: 10}
    assert today not in unused_features(max_bytes=0, min_age_seconds=DAY)
