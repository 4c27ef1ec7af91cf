"""Whatever the Hub answers, a publication is complete and made once, or nothing of it is there."""

from __future__ import annotations

import logging

import pytest

from tests.hub.faults import Failure, FaultKind, Faults, Request
from tests.pipelines import query
from tests.publications import ROWS, commits_of, objects_sent, publish, rows_there, table_of_files
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InputError, SourceUnavailable
from tidemill.publishing.repositories.shipment import Shipment, send
from tidemill.publishing.repositories.writing import Repository


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return table_of_files(tmp_path_factory.mktemp("table"), 4)


def assert_whole(hub, pipeline, to):
    hub.faults = Faults()
    assert len(commits_of(hub, "datasets", to)) == 1
    found = sorted((row["id"], row["label"]) for row in rows_there(hub, to))
    assert found == query(pipeline.lake, "SELECT id, label FROM reviews ORDER BY id")


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 40))])
def test_a_fifth_of_the_requests_may_fail(hub, pipeline, seed):
    kinds: list[FaultKind] = ["429", "503", "cut", "reset", "late", "lost"]
    hub.faults = Faults(rate=0.2, seed=seed, kinds=kinds, retry_after=0)
    sent: list[str] = []
    while not any(request.fault is not None for request in hub.log):  # Of some thirty, all may be spared.
        sent.append(f"org/stormy-{seed}-{len(sent)}")
        assert publish(pipeline, sent[-1]).state == "published"

    for to in sent:
        assert_whole(hub, pipeline, to)


@pytest.mark.parametrize("kind", ["late", "lost", "503", "reset"])
def test_a_commit_that_was_made_or_not_and_has_no_answer_is_there_once(hub, pipeline, kind):
    hub.faults = Faults(script=[Failure("/commit/", kind, 2, "POST"), Failure("/repos/create", kind, 1, "POST")])

    assert publish(pipeline, f"org/unclear-{kind}").state == "published"

    assert next(request.fault for request in hub.log if "/commit/" in request.path) == kind
    assert_whole(hub, pipeline, f"org/unclear-{kind}")


@pytest.mark.slow
def test_large_files_go_in_parts_where_the_hub_says_so(hub, pipeline, monkeypatch):
    monkeypatch.setattr(hub.uploads, "part_bytes", 1000)
    hub.faults = Faults(rate=0.2, seed=5, kinds=["503", "reset"], only=lambda request: request.method == "PUT")

    publish(pipeline, "org/parts")

    assert objects_sent(hub) > 4
    assert_whole(hub, pipeline, "org/parts")


def test_what_was_sent_before_an_interruption_is_not_sent_again(hub, pipeline):
    hub.faults = Faults(rate=1, kinds=["503"], only=lambda request: "/commit/" in request.path)
    with pytest.raises(SourceUnavailable, match="the Hub answered 503"):
        publish(pipeline, "org/interrupted")
    assert (objects_sent(hub), commits_of(hub, "datasets", "org/interrupted")) == (4, [])
    hub.faults = Faults()
    hub.reset()

    publish(pipeline, "org/interrupted")

    assert objects_sent(hub) == 0
    assert_whole(hub, pipeline, "org/interrupted")


@pytest.mark.slow
def test_somebody_elses_commit_in_the_middle_is_not_written_over(hub, pipeline):
    """Their words come while the files are sent: the commit is made anew on top of them."""
    publish(pipeline, "org/together", split="first")
    repo = hub.repos["datasets", "org/together"]

    def edit_once(request: Request) -> bool:
        if "/commit/" in request.path and repo.at("main").message != "by hand":
            card = b"".join(repo.at("main").files["README.md"].pieces(0, 10**6))
            repo.commit({"README.md": card.replace(b"# reviews", b"# Our reviews")}, message="by hand")
        return False

    hub.faults = Faults(rate=1, only=edit_once)
    publish(pipeline, "org/together", split="second")
    hub.faults = Faults()

    # The edit came behind the second commit's parent was read, and before the commit.
    assert commits_of(hub, "datasets", "org/together")[1] == "by hand"
    card = b"".join(repo.at("main").files["README.md"].pieces(0, 10**6)).decode()
    assert "# Our reviews" in card
    assert "## Split second" in card
    assert len(rows_there(hub, "org/together")) == 2 * 4 * ROWS


@pytest.mark.slow
def test_a_rate_limit_is_announced_whoever_has_switched_off_loggers(hub, pipeline, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("huggingface_hub.utils._http"), "disabled", True)
    hub.faults = Faults(script=[Failure("/preupload/", "429", 1, "POST")], retry_after=61)

    publish(pipeline, "org/limited")

    said = [record.getMessage() for record in caplog.records if record.name == "tidemill"]
    assert said == ["waiting 62 s: the Hub has had too many requests (429). Ctrl-C stops it."]


def test_a_rate_limit_of_the_commit_itself_is_announced_and_waited_for(hub, pipeline, caplog):
    """`huggingface_hub` asks for a commit once, and does not wait by itself."""
    waited: list[float] = []
    hub.faults = Faults(script=[Failure("/commit/", "429", 1, "POST")], retry_after=61)
    repository = Repository("dataset", "org/limited-commit")

    send(repository, Shipment({"a.txt": b"a"}, (), "one"), None, private=True, sleep=waited.append)

    said = [record.getMessage() for record in caplog.records if record.name == "tidemill"]
    assert said == ["waiting 61 s: the Hub has had too many requests (429). Ctrl-C stops it."]
    assert (waited, commits_of(hub, "datasets", "org/limited-commit")) == ([61], ["one"])


def test_what_somebody_changed_there_is_told_and_nothing_is_sent(hub, pipeline):
    publish(pipeline, "org/touched")
    repo = hub.repos["datasets", "org/touched"]
    first, second, *_ = sorted(path for path in repo.at("main").files if path.startswith("data/"))
    repo.commit({first: b"other", second: None, "data/mine.parquet": b"PAR1", "notes.txt": b"kept"}, message="by hand")
    hub.reset()

    with pytest.raises(InputError) as refused:
        publish(pipeline, "org/touched")

    said = f"{second} is gone; {first} has another content; data/mine.parquet was added. Nothing was sent."
    assert said in str(refused.value)
    assert repo.at("main").message == "by hand"
    assert {request.method for request in hub.log} == {"GET"}


def test_a_repository_with_other_peoples_files_is_refused(hub, pipeline):
    repo = hub.add_dataset("org/theirs")
    repo.private = True
    repo.commit({"train.csv": b"text\na\n"})

    with pytest.raises(InputError, match=r"files that Tidemill did not put there: train\.csv\. Nothing was sent"):
        publish(pipeline, "org/theirs")


@pytest.mark.parametrize("is_there", [True, False])
def test_somebody_elses_repository_is_one_message_and_no_commit(hub, pipeline, monkeypatch, is_there):
    monkeypatch.setattr(hub.uploads, "foreign", {"somebody"})
    if is_there:
        hub.add_dataset("somebody/reviews")

    with pytest.raises(ConfigError, match="The token may not write to somebody/reviews on the Hub"):
        publish(pipeline, "somebody/reviews", public=True)

    if is_there:
        assert commits_of(hub, "datasets", "somebody/reviews") == []


def test_a_token_that_the_hub_does_not_know_is_one_message(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")

    with pytest.raises(ConfigError, match=r"does not accept the token\. Set HF_TOKEN") as refused:
        Repository("dataset", "org/any").check_token()

    assert "hf_wrong" not in str(refused.value)


@pytest.mark.parametrize("to", ["reviews", "org/", "org/a/b", "org/..", "-org/a", "org/a--b", ""])
def test_a_name_that_is_no_repositorys_is_refused_before_anything_is_asked(hub, to):
    with pytest.raises(ConfigError, match="is not OWNER/NAME"):
        Repository("dataset", to)

    assert hub.log == []


def test_without_a_token_nothing_is_asked(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")

    with pytest.raises(ConfigError, match=r"takes a token of the Hub, and there is none\. Set HF_TOKEN"):
        Repository("dataset", "org/any")

    assert hub.log == []
