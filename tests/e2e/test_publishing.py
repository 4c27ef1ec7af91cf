"""`tidemill publish` and `tidemill export`, as they are typed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.commands import TIDEMILL, answer, environment, heed_ctrl_c, tidemill, write_toml
from tests.hub.faults import Failure, Faults
from tests.pipelines import reviews, write_parquet
from tests.processes import PATIENCE_SECONDS
from tests.publications import commits_of, read_back


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pipeline file whose table is there, and its home."""
    folder = tmp_path_factory.mktemp("published")
    write_parquet(folder / "data" / "0.parquet", reviews(0, 8))
    pipeline = write_toml(folder, f"{folder}/data/*.parquet")
    answer("run", pipeline, "--direct", home=folder / "home")
    return pipeline, folder / "home"


def test_a_table_is_published_once_and_read_back(hub, computed, monkeypatch):
    pipeline, home = computed
    monkeypatch.setenv("HF_TOKEN", hub.token)
    typed = ["publish", pipeline, "--to", "typed/reviews"]

    asked = tidemill(*typed, home=home, hub=hub.url, HF_TOKEN=hub.token)
    assert (asked.returncode, commits_of_if_any(hub, "typed/reviews")) == (2, [])
    assert "Nobody is here to ask: say --yes." in asked.stderr
    assert "typed/reviews (new, private)" in asked.stdout
    assert "columns: id, rating, label, score" in asked.stdout
    assert "source: local files (*.parquet), licence: not said" in asked.stdout

    sent = tidemill(*typed, "--yes", home=home, hub=hub.url, HF_TOKEN=hub.token)
    assert (sent.returncode, len(commits_of(hub, "datasets", "typed/reviews"))) == (0, 1)
    assert hub.token not in sent.stdout + sent.stderr
    table = answer("sql", pipeline, "SELECT id, rating, label, score FROM reviews ORDER BY id", home=home)
    found = sorted(read_back("typed/reviews"), key=lambda row: row["id"])
    assert [(row["id"], row["label"]) for row in found] == [(row["id"], row["label"]) for row in table]

    again = tidemill(*typed, "--yes", "--json", home=home, hub=hub.url, HF_TOKEN=hub.token)
    assert json.loads(again.stdout)["state"] == "unchanged"
    assert len(commits_of(hub, "datasets", "typed/reviews")) == 1


def commits_of_if_any(hub, to: str) -> list[str]:
    return commits_of(hub, "datasets", to) if ("datasets", to) in hub.repos else []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "org/reviews"], "To publish takes a token of the Hub, and there is none. Set HF_TOKEN"),
        (["--to", "reviews"], "--to reviews is not OWNER/NAME"),
        ([], "Give --to OWNER/NAME"),
        (["--model", "head", "--to", "org/head"], "Give either a pipeline file"),
        (["--to", "org/reviews", "--split", "a b"], "--split a b is no name of letters, digits and underscores."),
    ],
)
def test_what_cannot_be_published_is_one_message(hub, computed, words, said):
    pipeline, home = computed
    token = {"HF_TOKEN": hub.token} if "--split" in words else {}
    done = tidemill("publish", pipeline, *words, "--yes", home=home, hub=hub.url, **token)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


@pytest.mark.slow
def test_ctrl_c_stops_the_wait_that_a_rate_limit_asks_for(hub, computed):
    pipeline, home = computed
    hub.faults = Faults(script=[Failure("/preupload/", "429", 99, "POST")], retry_after=3600)
    command = [*TIDEMILL, "publish", str(pipeline), "--to", "typed/limited", "--yes"]
    with subprocess.Popen(
        command,
        env=environment(home, hub=hub.url, HF_TOKEN=hub.token),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as publishing:
        assert publishing.stderr is not None
        told = next(line for line in publishing.stderr if "too many requests" in line)
        publishing.send_signal(signal.SIGINT)
        rest = publishing.stderr.read()
        assert publishing.wait(PATIENCE_SECONDS) == 1

    assert told == "waiting 3601 s: the Hub has had too many requests (429). Ctrl-C stops it.\n"
    assert rest.startswith("tidemill: stopped.")
    assert commits_of(hub, "datasets", "typed/limited") == []


def test_a_table_is_exported_to_a_file(computed, tmp_path):
    pipeline, home = computed
    done = answer("export", pipeline, tmp_path / "reviews.parquet", home=home)

    assert (done["num_rows"], pq.read_table(tmp_path / "reviews.parquet").num_rows) == (8, 8)
    refused = tidemill("export", pipeline, tmp_path / "reviews.xml", home=home)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
