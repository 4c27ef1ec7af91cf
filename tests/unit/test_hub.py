"""What the Hub may answer, itself or through a proxy: the bytes asked for or an error, in bounded bytes and time."""

from __future__ import annotations

import datasets
import pytest

from tests.hub.faults import Failure, FaultKind, Faults
from tests.hub.server import HubServer
from tidemill import retry
from tidemill.errors import DatasetError, SourceUnavailable
from tidemill.sources import hub as boundary
from tidemill.sources import hub_datasets
from tidemill.sources.listing import Listing
from tidemill.storage import bounded_http

BODY = bytes(range(256)) * 1024
CSV = b"id,text\n1,good\n"
MEBIBYTE = 2**20


def list_split(repo: str, *, revision: str = "main") -> Listing:
    return hub_datasets.list_split(repo, config=None, revision=revision, split="train")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_DELAY_SECONDS", 0.0)


@pytest.fixture
def url(hub: HubServer) -> str:
    sha = hub.add_dataset("org/bytes").commit({"a.bin": BODY})
    return f"hf://datasets/org/bytes@{sha}/a.bin"


def fail(server: HubServer, kind: FaultKind, *, times: int = 1_000, path: str = "a.bin") -> None:
    server.faults = Faults(script=[Failure(path, kind, times)])


@pytest.fixture
def impatient(monkeypatch):
    """Gives up on a silent server soon, and at once on one that sends too slowly."""
    monkeypatch.setattr(bounded_http, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(bounded_http, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(bounded_http, "LEAST_BYTES_PER_SECOND", 1e12)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", "closed|bytes came"),
        ("short", "99 of 100 bytes came"),
        ("long", "more than 100 bytes came"),
        ("elsewhere", r"bytes 1001-1100/262144 came where bytes=1000-1099 was asked for"),
        ("endless", "more than 100 bytes came"),
    ],
)
def test_a_range_that_is_not_what_was_asked_for_is_asked_for_again_and_never_taken(hub, url, kind, said):
    fail(hub, kind, times=2)
    assert boundary.read_range(url, 1000, 1100) == BODY[1000:1100]
    assert len([request for request in hub.log if request.range]) == 3
    fail(hub, kind)
    with pytest.raises(SourceUnavailable, match=said):
        boundary.read_range(url, 1000, 1100)
    assert hub.bytes_sent() < 50 * MEBIBYTE


@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_a_range_that_does_not_come_or_comes_too_slowly_is_given_up(hub, url, kind, impatient):
    fail(hub, kind)
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        boundary.read_range(url, 0, 100)


def test_a_hub_that_ignores_ranges_is_read_as_far_as_the_range_and_not_far_into_large_files(hub, url, monkeypatch):
    fail(hub, "whole")
    assert boundary.read_range(url, 1000, 1100) == BODY[1000:1100]
    assert boundary.read_range(url, len(BODY) - 5, len(BODY)) == BODY[-5:]
    assert [request.status for request in hub.log] == [200, 200]
    monkeypatch.setattr(bounded_http, "MOST_SKIPPED_BYTES", 10)
    assert boundary.read_range(url, 10, 20) == BODY[10:20]
    with pytest.raises(SourceUnavailable, match=r"a\.bin: the server ignores Range.*bytes=1000-1099 was asked for"):
        boundary.read_range(url, 1000, 1100)


@pytest.fixture
def behind_cdn(hub: HubServer, monkeypatch) -> str:
    """A file whose bytes the Hub has elsewhere, where it sends who asks."""
    monkeypatch.setattr(hub, "redirect_lfs", True)
    sha = hub.add_dataset("org/elsewhere").commit({"a.parquet": BODY})
    bounded_http.forwarded.cache_clear()
    return f"hf://datasets/org/elsewhere@{sha}/a.parquet"


def asked(server: HubServer) -> list[tuple[str, int]]:
    """Where each request went, and what came."""
    return [("cdn" if request.path.startswith("/cdn/") else "hub", request.status) for request in server.log]


def test_where_the_hub_sends_us_is_asked_once_a_file_and_not_once_a_range(hub, behind_cdn):
    for start in range(0, 1000, 100):
        assert boundary.read_range(behind_cdn, start, start + 100) == BODY[start : start + 100]
    assert asked(hub) == [("hub", 302)] + 10 * [("cdn", 206)]


def test_an_address_that_has_expired_is_asked_for_again_once(hub, behind_cdn):
    boundary.read_range(behind_cdn, 0, 100)
    hub.reset()
    fail(hub, "expired", times=1, path="/cdn/")
    for start in range(100, 400, 100):
        assert boundary.read_range(behind_cdn, start, start + 100) == BODY[start : start + 100]
    assert asked(hub) == [("cdn", 403), ("hub", 302), ("cdn", 206), ("cdn", 206), ("cdn", 206)]


def test_a_file_that_is_refused_wherever_the_hub_sends_us_may_not_be_read(hub, behind_cdn):
    boundary.read_range(behind_cdn, 0, 100)
    hub.reset()
    fail(hub, "expired", path="/cdn/")
    with pytest.raises(DatasetError, match="may not be read"):
        boundary.read_range(behind_cdn, 0, 100)
    assert asked(hub) == [("cdn", 403), ("hub", 302), ("cdn", 403)]


def test_a_range_that_fails_elsewhere_is_asked_for_at_the_hub_again(hub, behind_cdn):
    boundary.read_range(behind_cdn, 0, 100)
    hub.reset()
    fail(hub, "cut", times=1, path="/cdn/")
    assert boundary.read_range(behind_cdn, 0, 100) == BODY[:100]
    assert asked(hub) == [("cdn", 206), ("hub", 302), ("cdn", 206)]


def test_no_credential_goes_where_the_hub_sends_us(hub, behind_cdn, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    boundary.read_range(behind_cdn, 0, 100)
    boundary.read_range(behind_cdn, 0, 100)
    assert [request.authorized for request in hub.log] == [True, False, False]


@pytest.mark.parametrize("kind", ["endless", "stall", "trickle"])
@pytest.mark.parametrize("path", ["/revision/", "/tree/"])
def test_a_listing_that_does_not_end_is_given_up(hub, kind, path, impatient, monkeypatch):
    monkeypatch.setattr("tidemill.sources.hub.asking.LISTING_RETRIES", 0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(bounded_http, "MOST_ANSWER_BYTES", MEBIBYTE)
    repo = f"org/listing-{kind}-{path.strip('/')}"
    hub.add_dataset(repo).commit({"a.csv": CSV})
    fail(hub, kind, path=path)
    with pytest.raises(SourceUnavailable, match=f"The dataset {repo} cannot be reached"):
        list_split(repo)
    assert hub.bytes_sent() < 50 * MEBIBYTE


def test_what_a_repository_holds_beside_a_split_is_named(hub):
    files = dict.fromkeys(("train_a.csv", "other.csv", "beta-test.csv", "x.xlsx", ".gitignore", "LICENSE"), CSV)
    hub.add_dataset("org/beside").commit({**files, "b.jsonl": b"{}", "README.md": b"# About\n"})
    listing = list_split("org/beside")
    assert [file.path for file in listing.files] == ["train_a.csv"]
    notes = [str(left_out) for left_out in listing.left_out]
    assert {path for left_out in listing.left_out for path in left_out.paths} == {
        "other.csv",
        "beta-test.csv",
        "x.xlsx",
        "b.jsonl",
    }
    assert notes[-1].endswith('set dataset.path = "hf://datasets/org/beside@main/**/*.xlsx".')


def test_splits_of_a_card_are_taken_at_its_word(hub):
    card = b"---\nconfigs:\n- {config_name: x, data_files: [{split: train, path: good.csv}]}\n---\n"
    hub.add_dataset("org/card").commit({"good.csv": CSV, "beta-test.csv": CSV, "other.csv": CSV, "README.md": card})
    listing = list_split("org/card")
    assert ([file.path for file in listing.files], listing.left_out) == (["good.csv"], ())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"scripted.py": b"import datasets\n"},
            r'script, scripted\.py, and scripts are not run.*"refs/convert/parquet"',
        ),
        (
            {"a.csv": CSV, "README.md": b"---\nconfigs: [unclosed\n---\n"},
            r"card, README\.md, whose YAML cannot be read",
        ),
        ({"a.csv": CSV, "README.md": b"---\nconfigs: 5\n---\n"}, r"cannot be read as a dataset.*README\.md"),
        ({}, "no data files that can be read"),
        ({"a.csv": CSV, "beta-test.csv": CSV}, r"no split 'train'; it has test\..*not read, in no split.*: a\.csv"),
    ],
)
def test_a_repository_that_datasets_cannot_read_is_one_message(hub, files, said):
    hub.add_dataset("org/scripted").commit(files)
    with pytest.raises(DatasetError, match=f"The dataset org/scripted .*{said}") as refused:
        list_split("org/scripted")
    assert "\n" not in str(refused.value)


def test_what_the_hub_keeps_as_parquet_is_read_in_place_of_a_script(hub):
    repo = hub.add_dataset("org/converted")
    repo.branch("refs/convert/parquet", repo.commit({"converted.py": b"import datasets\n"}))
    sha = repo.commit({"converted.py": None, "default/train/0000.parquet": b"PAR1"}, branch="refs/convert/parquet")
    listing = list_split("org/converted", revision="refs/convert/parquet")
    assert (listing.revision, [file.path for file in listing.files]) == (sha, ["default/train/0000.parquet"])
    addressed = hub_datasets.list_address("hf://datasets/org/converted@refs/convert/parquet/default/train/*.parquet")
    assert (addressed.revision, addressed.files) == (sha, listing.files)


@pytest.mark.parametrize("spelling", ["refs/convert/parquet", "refs%2Fconvert%2Fparquet", "~parquet"])
def test_what_the_hub_converted_may_be_spelled_as_others_spell_it(hub, spelling):
    repo = hub.add_dataset("org/spelled")
    repo.branch("refs/convert/parquet", repo.commit({}))
    sha = repo.commit({"default/train/0000.parquet": b"PAR1"}, branch="refs/convert/parquet")
    assert list_split("org/spelled", revision=spelling).revision == sha
    address = f"hf://datasets/org/spelled@{spelling}"
    assert hub_datasets.list_address(f"{address}/default/train/*.parquet").revision == sha
    match = boundary.ADDRESS.fullmatch(address)
    assert match is not None
    assert (match["revision"], match["path"]) == (spelling, None)


def test_configs_and_splits_of_what_the_hub_converted_are_its_folders(hub):
    repo = hub.add_dataset("org/many")
    repo.branch("refs/convert/parquet", repo.commit({}))
    paths = ["en/train/0000.parquet", "en/train/0001.parquet", "en/test/0000.parquet", "de/partial-train/0000.parquet"]
    repo.commit(dict.fromkeys(paths, b"PAR1"), branch="refs/convert/parquet")

    def listed(config: str | None) -> list[str]:
        listing = hub_datasets.list_split("org/many", config=config, revision="~parquet", split="train")
        return [file.path for file in listing.files]

    assert listed("en") == paths[:2]
    with pytest.raises(DatasetError, match=r"has several configs: .*Set dataset\.config to one of them"):
        listed(None)
    with pytest.raises(DatasetError, match=r"has no config 'fr'; it has .*Set dataset\.config"):
        listed("fr")
    with pytest.raises(DatasetError, match=r"has no split 'train'; it has partial-train\."):
        listed("de")


def test_what_a_card_on_the_hub_says_of_how_files_are_read_is_known(hub):
    card = b'---\nconfigs:\n- {config_name: x, data_files: a.csv, sep: "\\t"}\n- {config_name: y, sep: ";"}\n---\n'
    hub.add_dataset("org/tabs").commit({"a.csv": CSV, "README.md": card})
    listing = hub_datasets.list_split("org/tabs", config="x", revision="main", split="train")
    assert listing.options == {"delimiter": "\t"}


def test_a_files_path_is_found_behind_a_revision_that_says_how_it_is_read():
    for way in ("", ";quote=", ";read=field=a.b&encoding=latin-1", ";quote=';read=names=a%2Fb&delimiter=%09"):
        match = boundary.FILE_URL.fullmatch(f"hf://datasets/org/a@{'0' * 40}{way}/data/x.csv")
        assert match is not None
        assert match["path"] == "data/x.csv"


def test_what_datasets_saved_and_somebody_uploaded_is_its_arrow_files(hub, tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "d")
    hub.add_dataset("org/saved").commit({path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()})
    assert [file.path for file in list_split("org/saved").files] == ["data-00000-of-00001.arrow"]
