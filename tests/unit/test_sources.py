"""Which local files a dataset is, and that what it is not is said."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path

import datasets
import pytest

from tests.pipelines import make_pipeline, reviews, write_parquet
from tests.unit.formats.sources import compressed, zipped
from tidemill.errors import DatasetError, FormatError, InputError
from tidemill.planning.plan import make_plan
from tidemill.sources.dataset import Dataset, open_dataset, reopen_dataset
from tidemill.values.columns import JoinedText

ROW = "id,text\n1,good\n"


def lay(folder: Path, *paths: str) -> Path:
    """CSV files of one row each, of other endings too."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(ROW if not path.endswith("jsonl") else json.dumps({"id": 1, "text": "good"}))
    return folder


def listed(tmp_path: Path, path: object, **dataset: object) -> tuple[list[str], str]:
    """The paths that a plan reads, and its notes."""
    options = {"text": "text", "key": [], "keep": [], **dataset}
    plan, _ = make_plan(make_pipeline(tmp_path / "lake", str(path), dataset=options), None)
    return sorted(file.file.path for file in plan.files), "\n".join(plan.notes)


def test_files_that_a_word_in_another_ones_name_keeps_out_are_named(tmp_path):
    paths, notes = listed(tmp_path, lay(tmp_path / "d", "train_tickets.csv", "bus_tickets.csv", "deep/tram.csv"))
    assert paths == ["train_tickets.csv"]
    assert "2 files not read, in no split" in notes
    assert ": bus_tickets.csv, deep/tram.csv." in notes
    assert f'dataset.path = "{tmp_path}/d/**/*.csv"' in notes


def test_a_file_that_a_word_in_its_name_puts_into_another_split_is_named_with_the_split(tmp_path):
    paths, notes = listed(tmp_path, lay(tmp_path / "d", "train.csv", "beta-test.csv"))
    assert paths == ["train.csv"]
    assert "1 file not read, taken for the split 'test' by a word in their names: beta-test.csv." in notes


@pytest.mark.parametrize(
    "files",
    [
        ("train.csv", "test.csv", "validation.csv"),
        ("train/a.csv", "test/b.csv"),
        ("data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv", "data/test-00000-of-00001.csv"),
        ("a.csv", "README.md", "LICENSE", "make.py", "_SUCCESS", "dataset_infos.json", ".git/config", ".DS_Store"),
    ],
)
def test_splits_that_are_laid_out_as_such_and_what_is_no_data_are_passed_over_without_a_word(tmp_path, files):
    folder = lay(tmp_path / "d", *files)
    for about in {"dataset_infos.json", "README.md"}.intersection(files):
        (folder / about).write_text("{}" if about.endswith("json") else "# About\n")
    assert listed(tmp_path, folder)[1] == ""


def test_what_a_card_says_of_splits_is_taken_at_its_word(tmp_path):
    folder = lay(tmp_path / "d", "good.csv", "beta-test.csv", "other.csv")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: x\n  data_files: [{split: train, path: good.csv}]\n---\n"
    )
    assert listed(tmp_path, folder) == (["good.csv"], "")


def test_a_second_format_in_a_folder_hidden_files_and_unknown_endings_are_named(tmp_path):
    folder = lay(tmp_path / "d", "a.csv", "b.csv", "c.jsonl", ".e.csv", "f.xlsx", "part-00000", "n\nl.csv")
    paths, notes = listed(tmp_path, folder)
    assert paths == ["a.csv", "b.csv"]
    assert "1 file not read, of another format than csv: c.jsonl." in notes
    assert "1 file not read, hidden: .e.csv." in notes
    assert "2 files not read, whose names say no format that can be read: f.xlsx, part-00000." in notes
    assert "control characters in their names: 'n\\nl.csv'." in notes


def test_many_files_that_are_left_out_are_counted_and_the_first_named(tmp_path):
    folder = lay(tmp_path / "d", "a.csv", *(f"{i}.xlsx" for i in range(8)))
    assert ": 0.xlsx, 1.xlsx, 2.xlsx, 3.xlsx, 4.xlsx, and 3 more." in listed(tmp_path, folder)[1]


def test_an_empty_file_is_named(tmp_path):
    folder = lay(tmp_path / "d", "a.csv", "b.csv")
    (folder / "a.csv").write_text("")
    assert "1 file not read, empty: a.csv." in listed(tmp_path, folder)[1]


def test_folders_hidden_files_and_broken_links_that_a_pattern_matches_are_named(tmp_path):
    folder = lay(tmp_path / "d", "a.csv", "deep/b.csv", ".c.csv")
    (folder / "gone.csv").symlink_to("nowhere.csv")
    (folder / "loop.csv").symlink_to("loop.csv")
    paths, notes = listed(tmp_path, folder / "*")
    assert paths == ["a.csv"]
    assert "1 folder not read, which match as a whole: deep. `**` in a pattern reaches all below." in notes
    assert "1 file not read, hidden: .c.csv." in notes
    assert "2 files not read, links that lead nowhere: gone.csv, loop.csv." in notes
    assert listed(tmp_path, folder / "**" / "*")[0] == ["a.csv", "deep/b.csv"]
    assert listed(tmp_path, folder / "**")[0] == ["a.csv", "deep/b.csv"]


def test_a_loop_of_links_ends_and_each_file_is_listed_once(tmp_path):
    folder = lay(tmp_path / "d", "a.csv", "deep/b.csv")
    (folder / "self").symlink_to(".")
    (folder / "deep" / "up").symlink_to("..")
    (folder / "also").symlink_to("deep")
    (folder / "link.csv").symlink_to("a.csv")
    os.link(folder / "a.csv", folder / "hard.csv")
    paths, notes = listed(tmp_path, folder / "**" / "*.csv")
    assert paths == ["a.csv", "deep/b.csv", "hard.csv"]
    assert "3 folders not read, links to folders that are read already: also, deep/up, self." in notes
    assert "1 file not read, the same as others through links: link.csv." in notes
    assert listed(tmp_path, f"{folder}/deep/../*/b.csv")[0] == ["deep/b.csv"]
    assert listed(tmp_path, folder)[0] == ["a.csv", "deep/b.csv", "hard.csv"]


def test_what_only_a_link_leads_to_is_read_through_a_pattern_and_named_for_a_folder(tmp_path):
    lay(tmp_path / "elsewhere", "b.csv")
    folder = lay(tmp_path / "d", "a.csv")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path, folder / "**" / "*.csv") == (["a.csv", "more/b.csv"], "")
    paths, notes = listed(tmp_path, folder)
    assert (paths, "links to folders, which are not followed: more." in notes) == (["a.csv"], True)


def test_a_folder_behind_a_link_has_the_paths_that_it_has_itself(tmp_path):
    lay(tmp_path / "d", "deep/a.csv")
    (tmp_path / "link").symlink_to("d")
    assert listed(tmp_path, tmp_path / "link")[0] == ["deep/a.csv"]


@pytest.mark.parametrize("name", ["a[1].csv", "b*.csv", "c'\"d.csv", "e\u0301.csv", "\u00e9.csv", "f g.csv", "%41.csv"])
def test_strange_names_are_listed_as_they_are(tmp_path, name):
    folder = lay(tmp_path / "d", name)
    assert (
        listed(tmp_path, folder)[0]
        == listed(tmp_path, folder / "*.csv")[0]
        == listed(tmp_path, folder / name)[0]
        == [name]
    )


def test_a_name_that_is_not_utf8_is_one_message(tmp_path):
    folder = os.fsencode(lay(tmp_path / "d", "a.csv"))
    Path(os.fsdecode(folder + b"/caf\xe9.csv")).write_text(ROW)
    with pytest.raises(DatasetError, match=r"caf\\xe9\.csv' is not UTF-8\. Rename"):
        listed(tmp_path, tmp_path / "d")


def test_a_folder_named_as_a_pattern_says_how_to_name_its_files(tmp_path):
    folder = lay(tmp_path / "d[1]", "a.csv")
    with pytest.raises(DatasetError, match="character of patterns in its name"):
        listed(tmp_path, folder)
    assert listed(tmp_path, f"{tmp_path}/d[[]1]/**/*")[0] == ["a.csv"]


@pytest.mark.parametrize("name", ["csv", "text", "json", "parquet"])
def test_a_folder_that_is_named_as_a_format_is_that_folder(tmp_path, monkeypatch, name):
    lay(tmp_path, "wrong.csv", f"{name}/a.csv")
    monkeypatch.chdir(tmp_path)
    assert listed(tmp_path, name)[0] == ["a.csv"]


def test_a_split_that_is_not_there_is_named_with_those_that_are_and_what_lies_beside_them(tmp_path):
    folder = lay(tmp_path / "d", "reviews.csv", "beta-test.csv")
    with pytest.raises(
        DatasetError, match=r"no split 'train'; it has test\. Set dataset\.split = 'test'.*reviews\.csv"
    ):
        listed(tmp_path, folder)


def test_a_config_that_is_not_there_is_named_with_those_that_are(tmp_path):
    folder = lay(tmp_path / "d", "a.csv", "b.csv")
    card = "configs:\n- {config_name: one, data_files: a.csv}\n- {config_name: two, data_files: b.csv}\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")
    with pytest.raises(DatasetError, match=r"several configs: one, two\. Set dataset\.config"):
        listed(tmp_path, folder)
    with pytest.raises(DatasetError, match=r"no config 'tow'; it has one, two\. Set dataset\.config = 'two'"):
        listed(tmp_path, folder, config="tow")
    assert listed(tmp_path, folder, config="two") == (["b.csv"], "")


def test_a_dataset_script_is_not_run_and_says_what_to_name_instead(tmp_path):
    folder = lay(tmp_path / "d", "d.py", "a.csv")
    with pytest.raises(DatasetError, match=r"dataset script, d\.py, and scripts are not run\. Name the data files"):
        listed(tmp_path, folder)


@pytest.mark.parametrize(
    "card",
    [
        b"---\nconfigs: [unclosed\n---\n",
        b"---\nconfigs:\n\t- tab\n---\n",
        b"---\nconfigs: 5\n---\n",
        b"---\nconfigs:\n- config_name: x\n  data_files: {split: 1}\n---\n",
        b"---\nconfigs:\n- data_files: a.csv\n---\n",
        b"---\nconfigs:\n- config_name: x\n  data_files: absent.csv\n---\n",
        b"---\ndataset_info: [1, 2]\n---\n",
        b"---\ndataset_info:\n  features:\n  - {name: x, dtype: nonsense}\n---\n",
        b"---\n!!python/object:os.system {}\n---\n",
        b"---\nlicense: \xff\xfe\n---\n",
    ],
)
def test_a_card_that_says_nonsense_is_one_message_or_passed_over(tmp_path, card):
    folder = lay(tmp_path / "d", "a.csv")
    (folder / "README.md").write_bytes(card)
    refusal = ""
    try:
        paths, _ = listed(tmp_path, folder)
    except DatasetError as e:
        refusal, paths = str(e), []
    assert paths == ["a.csv"] or (f"The folder {folder}" in refusal and "\n" not in refusal)


def test_an_empty_folder_and_one_without_data_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no data files that can be read"):
        listed(tmp_path, tmp_path / "empty")
    with pytest.raises(InputError):
        listed(tmp_path, lay(tmp_path / "d", "a.xlsx"))
    (tmp_path / "empty" / "a.csv").symlink_to("nowhere")
    with pytest.raises(DatasetError, match=r"matches no files.*links that lead nowhere: a\.csv"):
        listed(tmp_path, tmp_path / "empty" / "*.csv")


def test_a_path_that_cannot_be_a_path_is_one_message(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot be listed: .*File name too long"):
        listed(tmp_path, "x" * 300 + ".csv")


def test_formats_that_a_pattern_mixes_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"mixes formats: a\.csv \(csv\), b\.jsonl \(jsonl\)"):
        listed(tmp_path, lay(tmp_path / "d", "a.csv", "b.jsonl") / "*")


@pytest.fixture
def as_nobody():
    """Run without the right to read everything that root has."""
    effective = os.geteuid()
    if effective == 0:
        os.seteuid(65534)
    yield
    os.seteuid(effective)


@pytest.fixture
def open_folder():
    """A folder that others than its owner may enter and write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_a_file_and_a_folder_that_may_not_be_read_are_named_and_the_others_planned(open_folder, monkeypatch, request):
    monkeypatch.setenv("TIDEMILL_HOME", str(open_folder / "home"))
    for number, name in enumerate("abc"):
        write_parquet(open_folder / "d" / f"{name}.parquet", reviews(20 * number, 20))
    write_parquet(open_folder / "d" / "closed" / "e.parquet", reviews(60, 20))
    (open_folder / "d" / "a.parquet").chmod(0)
    (open_folder / "d" / "closed").chmod(0)
    request.getfixturevalue("as_nobody")
    facts = make_plan(make_pipeline(open_folder / "lake", f"{open_folder}/d/**/*.parquet"), None)[0].to_json()
    assert facts["files"]["new"] == ["b.parquet", "c.parquet"]
    assert "may not be read: permission denied" in facts["files"]["failed"]["a.parquet"]
    assert facts["notes"] == ["1 folder not read, that may not be listed: closed."]


def saved(*texts: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"id": list(range(len(texts))), "text": list(texts)})


def test_what_datasets_saved_is_the_files_that_it_names(tmp_path):
    saved(*"abcdef").save_to_disk(tmp_path / "d", num_shards=2)
    saved("old").save_to_disk(tmp_path / "e")
    (tmp_path / "e" / "data-00000-of-00001.arrow").rename(tmp_path / "d" / "cache-1.arrow")
    paths, notes = listed(tmp_path, tmp_path / "d")
    assert paths == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert notes == "1 file not read, that state.json does not name: cache-1.arrow."


def test_of_what_datasets_saved_in_splits_one_is_read(tmp_path):
    both = datasets.DatasetDict(train=saved("a", "b"), test=saved("c"))
    both.save_to_disk(tmp_path / "d")
    assert listed(tmp_path, tmp_path / "d")[0] == ["train/data-00000-of-00001.arrow"]
    assert listed(tmp_path, tmp_path / "d", split="test") == (["test/data-00000-of-00001.arrow"], "")
    with pytest.raises(DatasetError, match="has no split 'dev'; it has train, test"):
        listed(tmp_path, tmp_path / "d", split="dev")
    with pytest.raises(DatasetError, match=r"has no configs\. Remove dataset\.config"):
        listed(tmp_path, tmp_path / "d", config="x")


def test_one_split_that_was_saved_by_itself_is_read_whatever_its_name(tmp_path):
    saved("a").save_to_disk(tmp_path / "d")
    state = tmp_path / "d" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"_split": "test"}))
    assert listed(tmp_path, tmp_path / "d")[0] == listed(tmp_path, tmp_path / "d", split="test")[0]
    with pytest.raises(DatasetError, match="has no split 'dev'; it has test"):
        listed(tmp_path, tmp_path / "d", split="dev")


def test_what_was_saved_in_part_is_refused(tmp_path):
    saved("a").save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DatasetError, match=r"lacks data-00000-of-00001\.arrow, which state\.json should name"):
        listed(tmp_path, tmp_path / "d")
    (tmp_path / "d" / "state.json").write_text("{")
    with pytest.raises(DatasetError, match=r"has a state\.json that is not JSON"):
        listed(tmp_path, tmp_path / "d")


def test_an_archive_whose_name_says_no_format_is_what_is_in_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "reviews.zip", "w") as archive:
        archive.writestr("reviews.csv", ROW)
    assert listed(tmp_path, tmp_path / "reviews.zip") == (["reviews.zip"], "")
    with zipfile.ZipFile(tmp_path / "columns.zip", "w") as archive:
        archive.writestr("a.parquet", b"PAR1")
    with pytest.raises(FormatError, match=r"columns\.zip holds a\.parquet, which is read by ranges"):
        listed(tmp_path, tmp_path / "columns.zip")
    with zipfile.ZipFile(tmp_path / "reviews.zip", "a") as archive:
        archive.writestr("more.csv", ROW)
    with pytest.raises(FormatError, match=r"holds 2 files: reviews\.csv, more\.csv"):
        listed(tmp_path, tmp_path / "reviews.zip")


OPTIONS = {
    "encoding": "latin-1",
    "escape": "\\",
    "header": False,
    "names": ["id", "text"],
    "quote": "",
    "format": "json",
    "field": "data",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_what_makes_other_rows_of_the_same_bytes_is_another_revision_and_another_content(tmp_path, option):
    path = lay(tmp_path / "d", "a.csv") / "a.csv"
    text = JoinedText(("text",), "\n")
    plain = open_dataset(make_pipeline(tmp_path, str(path), dataset={"keep": [], "key": []}), text)
    other = make_pipeline(tmp_path, str(path), dataset={"keep": [], "key": [], option: OPTIONS[option]})
    opened = open_dataset(other, text)
    assert opened.revision.startswith(f"{plain.revision};")
    assert opened.files[0].content.startswith(f"{plain.files[0].content};")
    assert opened.files[0].stored == plain.files[0].content
    again = reopen_dataset(make_pipeline(tmp_path, str(path)), text, opened.revision, opened.files)
    assert again.columns((), {}) == opened.columns((), {})


def test_what_is_the_default_is_no_part_of_a_revision(tmp_path):
    path = lay(tmp_path / "d", "a.csv") / "a.csv"
    said = {"encoding": "utf-8", "header": True, "delimiter": ";", "format": "csv", "keep": [], "key": []}
    without: dict[str, object] = {"keep": [], "key": []}
    for options in (without, said):
        opened = open_dataset(make_pipeline(tmp_path, str(path), dataset=options), JoinedText(("text",), "\n"))
        assert ";" not in opened.revision + opened.files[0].content


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz", ".zip"])
def test_a_folder_of_compressed_files_is_listed_and_read(tmp_path, ending):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / f"a.csv{ending}").write_bytes(compressed(ROW.encode(), ending))
    opened = opened_by(tmp_path, tmp_path / "d")
    [cut] = opened.reader(opened.files[0]).slices(shard_bytes=100)
    assert opened.reader(opened.files[0]).rows(cut)["text"].to_pylist() == ["good"]


def test_the_way_out_for_an_archive_of_several_files_reads_them(tmp_path):
    (tmp_path / "all.zip").write_bytes(zipped(ROW.encode(), "a.csv", "b.csv"))
    assert listed(tmp_path, f"zip://**/*.csv::{tmp_path}/all.zip") == (["a.csv", "b.csv"], "")


def carded(folder: Path, config: str, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="latin-1")
    (folder / "README.md").write_text(f"---\nconfigs:\n- {{config_name: default, {config}}}\n---\n")
    return folder


def opened_by(tmp_path: Path, folder: Path, **dataset: object) -> Dataset:
    options = {"text": "text", "key": [], "keep": [], **dataset}
    return open_dataset(make_pipeline(tmp_path / "lake", str(folder), dataset=options), JoinedText(("text",), "\n"))


CARDS = {
    'data_files: a.csv, sep: "\\t"': "id\ttext\n1\tgood\n",
    'data_files: a.csv, delimiter: ";", encoding: latin-1': "id;text\n1;schön\n",
    "data_files: a.csv, names: [id, text]": "1,good\n2,fine\n",
    "data_files: a.csv, names: [id, text], header: 0": "x,y\n1,good\n",
    "data_files: a.csv, column_names: [id, text], header: null": "1,good\n",
    'data_files: a.csv, quotechar: "\'"': "id,text\n1,'good, fine'\n",
    "data_files: a.csv, quoting: 3": 'id,text\n1,"good\n2,fine\n',
    'data_files: a.csv, escapechar: "\\\\"': "id,text\n1,good\\, fine\n",
}


@pytest.mark.parametrize("config", CARDS)
def test_what_a_card_says_of_how_files_are_read_is_done_as_datasets_does_it(tmp_path, config):
    folder = carded(tmp_path / "d", config, a_csv=CARDS[config])
    opened = opened_by(tmp_path, folder)
    [cut] = opened.reader(opened.files[0]).slices(shard_bytes=2**20)
    expected = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))["text"]
    assert opened.reader(opened.files[0]).rows(cut)["text"].to_pylist() == list(expected)
    assert ";" in opened.revision
    again = reopen_dataset(
        make_pipeline(tmp_path / "lake", str(folder)), JoinedText(("text",), "\n"), opened.revision, opened.files
    )
    assert again.columns((), {}) == opened.columns((), {})


def test_what_the_pipeline_says_wins_over_the_card(tmp_path):
    folder = carded(tmp_path / "d", 'data_files: a.csv, sep: "|"', a_csv="id;text\n1;good\n")
    opened = opened_by(tmp_path, folder, delimiter=";")
    assert (opened.columns((), {}).delimiter, ";" in opened.revision) == (";", False)


def test_a_card_that_says_what_is_done_anyway_is_no_part_of_the_revision(tmp_path):
    for name, config in (("a.csv", 'sep: ","'), ("a.tsv", 'sep: "\\t"'), ("a.csv", "header: infer")):
        folder = carded(tmp_path / "d", f"data_files: {name}, {config}", **{name.replace(".", "_"): "text\ngood\n"})
        assert ";" not in opened_by(tmp_path, folder).revision


def test_what_a_card_says_and_is_not_done_is_told(tmp_path):
    folder = carded(tmp_path / "d", "data_files: a.csv, nrows: 1", a_csv="text\ngood\nfine\n")
    assert "The card says nrows = 1, which is not done." in listed(tmp_path, folder)[1]
    folder = carded(tmp_path / "d", 'data_files: a.csv, sep: "[ ,]"', a_csv="id,text\n1,good\n")
    with pytest.raises(DatasetError, match=r"card says delimiter = '\[ ,\]': .* Set dataset\.delimiter"):
        listed(tmp_path, folder)


def test_data_that_git_lfs_was_not_asked_to_fetch_is_refused_by_name(tmp_path):
    folder = lay(tmp_path / "d", "a.csv", "b.csv")
    (folder / "b.csv").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 437\n")
    for path in (folder, folder / "*.csv", folder / "b.csv"):
        with pytest.raises(DatasetError, match=r"1 file not read, pointers of Git LFS .*: .*b\.csv\. .*`git lfs pull`"):
            listed(tmp_path, path)
