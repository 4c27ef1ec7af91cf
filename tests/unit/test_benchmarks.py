"""What the benchmark's numbers rest on: the counting of padding, what is shown of whom, and where tables are put."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.comparison import PIPELINES, num_padded_by
from benchmarks.contenders import Skipped, Work, prepare
from benchmarks.corpora import Corpus
from benchmarks.measure import Contender, Turn, notes
from benchmarks.processes import CpuWatch, memory_bytes
from benchmarks.report import Report, Section

CORPUS = Corpus("emails", Path("nowhere"), 5, (5, 1, 4, 2, 8))


def section(title: str, number: str) -> Section:
    return Section(title, "measured", ("", "tokens/s"), [("ours", number)])


def test_padding_is_counted_by_how_each_contender_cuts_its_batches():
    one_by_one, _, by_32 = (num_padded_by(one, Turn(one.label), CORPUS) for one in PIPELINES)
    pairs = Contender("pairs", "pipeline", {"batch_size": 2})
    sorted_pairs = Contender("sorted", "sorted batches", {"batch_size": 2})

    assert one_by_one == CORPUS.num_tokens
    assert by_32 == 5 * 8
    assert num_padded_by(pairs, Turn(""), CORPUS) == 2 * 5 + 2 * 4 + 8
    assert num_padded_by(sorted_pairs, Turn(""), CORPUS) == 2 * 8 + 2 * 4 + 1
    assert num_padded_by(pairs, Turn("", facts={"num_padded_tokens": 23}), CORPUS) == 23


def test_a_contender_that_was_skipped_or_disturbed_is_named_in_a_note():
    quiet = Turn("a", seconds=2.0, cpu_seconds=3.0, busy_seconds=3.1)
    disturbed = Turn("b", seconds=2.0, cpu_seconds=3.0, busy_seconds=4.0)

    assert notes([quiet]) == ()
    assert notes([Turn("Ray", skipped="No module named 'ray'"), quiet, disturbed]) == (
        "Ray: No module named 'ray'",
        "Other work on the machine kept cores busy during b (0.5).",
    )


def test_an_option_that_tidemill_does_not_know_skips_the_contender_and_says_so(tmp_path):
    with pytest.raises(Skipped, match="engine"):
        prepare("bare loop", Work(tmp_path, [], tmp_path, options={"engine": "abacus"}))


def test_a_later_run_of_the_day_replaces_its_own_tables_and_leaves_the_others(tmp_path):
    Report("a Xeon", "xeon", "2026-11-23", [section("E-mails", "1"), section("SQL", "2")]).save(tmp_path)

    path = Report("a Xeon", "xeon", "2026-11-23", [section("SQL", "3")]).save(tmp_path)

    found = Report.load(path.with_suffix(".json"))
    assert [(one.title, one.rows) for one in found.sections] == [("E-mails", [("ours", "1")]), ("SQL", [("ours", "3")])]
    other = Report("another Xeon", "xeon", "2026-11-23", [section("SQL", "4")]).save(tmp_path)
    assert len(Report.load(other.with_suffix(".json")).sections) == 1


def test_a_table_is_put_between_its_marks_and_again_without_a_change(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text("before\n\n<!-- benchmark: SQL -->\nold\n<!-- /benchmark -->\n\nafter\n")
    monkeypatch.setattr(report, "PUBLISHED", (page,))
    made = Report("a Xeon", "xeon", "2026-11-23", [section("SQL", "7")])

    report.publish(made, tmp_path / "results" / "made.json")
    once = page.read_text()
    report.publish(made, tmp_path / "results" / "made.json")

    assert page.read_text() == once
    assert "| ours |        7 |" in once
    assert "old" not in once
    assert once.startswith("before\n\n<!-- benchmark: SQL -->\n")
    assert once.endswith("<!-- /benchmark -->\n\nafter\n")


def test_memory_and_time_of_a_child_count_for_its_parent():
    script = "import time\nblock = bytearray(64 << 20)\nwhile time.process_time() < 0.5: pass\ntime.sleep(60)"
    watch = CpuWatch(os.getpid())
    watch.sample()
    started, before = time.perf_counter(), memory_bytes(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 30
        while watch.between(started, time.perf_counter()) < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
            watch.sample()
        assert watch.between(started, time.perf_counter()) >= 0.3
        assert memory_bytes(os.getpid()) - before > 60 << 20
    finally:
        child.kill()
        child.wait()
