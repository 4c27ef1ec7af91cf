"""What a run shows of itself, told by events and a clock that stands still."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tidemill.cli import silence
from tidemill.cli.live import LineProgress, LiveProgress, plan_line
from tidemill.cli.meter import Meter, duration
from tidemill.cli.silence import break_silence, telling
from tidemill.errors import RunFailed
from tidemill.progress import Expected


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def expected(num_shards: int = 1, num_rows: int = 1000, *, more: bool = False) -> Expected:
    return Expected("reviews", "33ed8d4b", "e79e42011312aa", num_shards, num_rows, more)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> Meter:
    meter = Meter(clock)
    meter.planned(expected())
    return meter


def infer(meter: Meter, clock: Clock, tokens: list[int], *, every: float, total: int = 10_000) -> None:
    for done in tokens:
        clock.now += every
        meter.worked("a.csv:0", "infer", done=done, total=total, rows=1000)


def test_rows_move_with_batches_long_before_a_commit(meter, clock):
    infer(meter, clock, [0, 2_500], every=1.0)
    assert meter.text(78).startswith("250/1,000 rows")

    infer(meter, clock, [5_000], every=1.0)
    assert meter.text(78).startswith("500/1,000 rows")
    assert meter.share == 0.5


def test_what_a_model_writes_is_counted_beside_what_it_reads(meter, clock):
    infer(meter, clock, [0, 1_000, 2_000, 3_000], every=2.0)
    assert "new token" not in meter.text(78)
    meter.wrote(1_200)
    meter.wrote(34)
    assert meter.text(78) == "300/1,000 rows  500 tokens/s  1,234 new tokens  ~15 s left"
    meter.planned(expected())
    infer(meter, clock, [0, 100], every=1.0)
    assert "new token" not in meter.text(78)


def test_there_is_no_time_left_until_there_is_a_measure(meter, clock):
    assert meter.seconds_left() is None
    infer(meter, clock, [0, 100, 200], every=1.0)
    assert meter.seconds_left() is None
    assert "left" not in meter.text(78)


def test_the_time_left_follows_from_tokens_and_the_time_that_they_took(meter, clock):
    infer(meter, clock, [0, 1_000, 2_000, 3_000, 4_000], every=10.0)

    assert meter.seconds_left() == pytest.approx(60.0)
    assert meter.text(78) == "400/1,000 rows  100 tokens/s  ~60 s left"


def test_what_comes_before_the_first_batch_is_not_part_of_the_measure(meter, clock):
    infer(meter, clock, [0], every=600.0)
    infer(meter, clock, [1_000, 2_000, 3_000, 4_000], every=1.0)
    assert meter.seconds_left() == pytest.approx(6.0)

    meter.doing("finding the best token budget")
    assert meter.seconds_left() is None
    clock.now += 7
    assert meter.text(78) == "finding the best token budget  7 s"


def test_a_batch_that_takes_long_makes_the_time_left_longer(meter, clock):
    infer(meter, clock, [1_000, 2_000, 3_000, 4_000], every=1.0)
    before = meter.seconds_left()
    clock.now += 27.0

    assert meter.seconds_left() > 5 * before


def test_shards_that_are_not_read_yet_count_with_their_rows(clock):
    meter = Meter(clock)
    meter.planned(expected(4, 4_000))
    infer(meter, clock, [2_000, 4_000, 6_000, 8_000], every=10.0)

    assert meter.seconds_left() == pytest.approx((2_000 + 30_000) / 200)
    assert meter.text(78) == "800/4,000 rows  0/4 shards  200 tokens/s  ~3 min left"


def test_copied_shards_count_with_the_rows_that_they_bring(clock):
    meter = Meter(clock)
    meter.planned(expected(2, 2_000))
    meter.committed(shards=1, rows=990, tokens=0, quarantined=10)
    infer(meter, clock, [5_000], every=1.0)

    assert meter.share == 0.75


def test_more_rows_than_were_expected_have_no_share(clock):
    meter = Meter(clock)
    meter.planned(expected(0, 900, more=True))
    infer(meter, clock, [9_900], every=1.0)

    assert meter.share is None
    assert meter.text(78) == "990 rows  1 s"


def test_a_shard_that_failed_or_is_tried_again_is_not_counted_twice(meter, clock):
    infer(meter, clock, [5_000], every=1.0)
    meter.failed("a.csv")
    assert meter.text(78) == "reading  1 s"

    infer(meter, clock, [0, 1_000], every=1.0)
    assert meter.text(78).startswith("100/1,000 rows")


def test_between_the_last_batch_and_the_commit_it_says_so(meter, clock):
    infer(meter, clock, [10_000], every=1.0)
    assert meter.text(78) == "committing  1 s"

    meter.committed(shards=1, rows=999, tokens=10_000, quarantined=1)
    assert meter.text(78) == "finishing  1 s"


def test_tokenization_shows_its_own_rows(meter, clock):
    meter.doing("loading the tokenizer")
    meter.worked("a.csv:0", "tokenize", done=500, total=1000, rows=1000)
    clock.now = 3
    assert meter.text(78) == "tokenizing 500/1,000 rows  3 s"

    meter.worked("a.csv:0", "tokenize", done=1000, total=1000, rows=1000)
    assert meter.text(78) == "loading the tokenizer  3 s"


@pytest.mark.parametrize("width", [20, 30, 40, 60, 78])
def test_a_line_is_never_wider_than_asked_and_keeps_rows_and_time(clock, width):
    meter = Meter(clock)
    meter.planned(expected(4_000, 123_456_789))
    infer(meter, clock, [2_000, 4_000, 6_000, 8_000], every=10.0)

    assert len(meter.text(width)) <= width
    assert meter.text(width).startswith("800/123,456,789")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.1, "5 s"), (61, "65 s"), (100, "2 min"), (1_801, "31 min"), (7_300, "2.0 h")]
)
def test_a_duration_is_rounded_up(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (expected(1, 1), "1 shard, 1 row"),
        (expected(2, 20_087), "2 shards, 20,087 rows"),
        (expected(0, 9, more=True), "~9 rows"),
        (expected(1, 9, more=True), "1+ shards, ~9 rows"),
    ],
)
def test_the_plan_is_told_in_one_line_that_fits(work, said):
    assert plan_line(work) == f"reviews at e79e42011312, version 33ed8d4b: {said}"
    assert len(plan_line(work)) <= 80


@pytest.fixture
def lines(clock: Clock) -> LineProgress:
    return LineProgress(clock)


def test_a_pipe_gets_a_line_at_once_and_then_one_every_few_seconds(lines, clock, capsys):
    lines.doing("reviews: listing files")
    lines.tick()
    assert capsys.readouterr().err == "reviews: listing files\n"

    for _ in range(40):
        clock.now += 0.25
        lines.tick()
    assert capsys.readouterr().err == "".join(f"  reviews: listing files  {n} s\n" for n in (2, 4, 6, 8, 10))


def test_a_pipe_gets_fewer_lines_the_longer_it_takes(lines, clock, capsys):
    lines.planned(expected())
    clock.now = 3_600.0
    lines.tick()
    capsys.readouterr()
    for _ in range(240):
        clock.now += 0.25
        lines.tick()

    assert len(capsys.readouterr().err.splitlines()) == 1


def test_few_commits_have_a_line_each_and_many_fast_ones_share_some(lines, clock, capsys):
    lines.planned(expected(2_000, 4_000))
    for i in range(2_000):
        clock.now += 0.01
        lines.committed(f"{i}.csv", shards=1, rows=1, tokens=3, quarantined=0)

    told = capsys.readouterr().err.splitlines()[1:]
    assert told[0] == "shard 1/2,000  0.csv  1 row  (100 rows/s, 300 tokens/s)"
    assert 20 < len(told) < 40


def test_a_terminal_shows_a_bar_once_the_rows_are_known(clock):
    shown = on_a_terminal(clock, width=80)
    shown.doing("reviews: listing files")
    assert drawn(shown) == "reviews: listing files  0 s"

    shown.planned(expected(2, 2_000))
    for done in (2_000, 4_000, 6_000, 8_000):
        clock.now += 10
        shown.worked("a.csv:0", "infer", done=done, total=10_000, rows=1000)

    assert re.fullmatch(r"reviews [━╸╺ ]+ 40% 800/2,000 rows +0/2 shards +200 tokens/s +~60 s left", drawn(shown))


@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_terminals_line_fits_it(clock, width):
    shown = on_a_terminal(clock, width=width)
    shown.planned(Expected("a_name_that_is_rather_long", "33ed8d4b", "e79e42011312aa", 4_000, 123_456_789))
    for done in (2_000, 4_000, 6_000, 8_000):
        clock.now += 10
        shown.worked("a.csv:0", "infer", done=done, total=10_000, rows=1000)

    assert len(drawn(shown)) <= width


def test_without_color_nothing_is_colored(clock, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = on_a_terminal(clock, width=80)
    shown.planned(expected())
    shown.worked("a.csv:0", "infer", done=5_000, total=10_000, rows=1000)
    shown._console.print(shown.line())

    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", printed(shown._console))


def test_what_failed_is_told_on_a_terminal_above_the_line(clock):
    shown = on_a_terminal(clock, width=80)
    shown.failed("a.csv", RunFailed("it broke"))
    shown.note("\x1b]0;owned\x07")

    assert "failed  a.csv: it broke\n" in printed(shown._console)
    assert "\x1b]0" not in printed(shown._console)


def test_what_takes_a_moment_only_is_not_told(capsys, monkeypatch):
    monkeypatch.setattr(silence, "MOMENT_SECONDS", 3_600.0)
    with telling("listing files"):
        pass

    assert capsys.readouterr().err == ""


def test_what_takes_longer_is_told_unless_something_was_said(capsys, monkeypatch):
    monkeypatch.setattr(silence, "MOMENT_SECONDS", 0.0)
    with telling("listing files"):
        wait_for_timers()
    monkeypatch.setattr(silence, "MOMENT_SECONDS", 3_600.0)
    with telling("checking every row"):
        break_silence()
        wait_for_timers()

    assert capsys.readouterr().err == "listing files ...\n"


def wait_for_timers() -> None:
    for timer in silence._waiting:
        timer.join()


def on_a_terminal(clock: Clock, *, width: int) -> LiveProgress:
    return LiveProgress(clock, Console(file=io.StringIO(), force_terminal=True, width=width))


def drawn(shown: LiveProgress) -> str:
    console = Console(file=io.StringIO(), width=shown._console.width, color_system=None)
    console.print(shown.line(), end="")
    return printed(console).rstrip()


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_begun_goes_on_while_the_last_batches_of_the_shard_before_come_in():
    meter = Meter(lambda: 0.0)
    meter.planned(Expected("reviews", "v", "r", 2, 200))
    meter.worked("a:0", "infer", done=90, total=100, rows=100)
    meter.doing("finding the best token budget")
    meter.worked("a:0", "infer", done=100, total=100, rows=100)
    assert meter.text(80).startswith("finding the best token budget")
    meter.worked("a:100", "infer", done=10, total=100, rows=100)
    assert not meter.text(80).startswith("finding")
