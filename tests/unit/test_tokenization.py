from __future__ import annotations

import json
import tracemalloc

import pyarrow as pa
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import NUM_POSITIONS, TINY_SENTIMENT, reviews, save_checkpoint, save_tokenizer
from tidemill.checkpoints.loading import load_config, max_positions
from tidemill.encoding import tokenizer as tokenization
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.errors import ModelError
from tidemill.fingerprints import fingerprint

KINDS = ["wordpiece", "bpe"]
SIDES = ["right", "left"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind in KINDS:
        for side in SIDES:
            folder = tmp_path_factory.mktemp(f"{kind}-{side}")
            save_tokenizer(folder, kind, truncation_side=side)
            made[kind, side] = folder
    return made


@pytest.fixture(scope="module")
def wordpiece(folders):
    return TextTokenizer.load(folders["wordpiece", "right"], max_length=16)


def column(*texts):
    return pa.array(texts, pa.string())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_token_ids_are_those_of_transformers_with_truncation(folders, kind, side, data):
    texts = data.draw(st.lists(st.text() | st.sampled_from(reviews(100)), min_size=1, max_size=8))
    max_length = data.draw(st.integers(3, 40))
    oracle = transformers.AutoTokenizer.from_pretrained(folders[kind, side])

    tokens = TextTokenizer.load(folders[kind, side], max_length=max_length).encode(column(*texts))

    assert tokens.token_ids.to_pylist() == oracle(texts, truncation=True, max_length=max_length)["input_ids"]
    assert tokens.num_tokens.to_pylist() == [len(ids) for ids in oracle(texts)["input_ids"]]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_giant_text_is_cut_at_whitespace_and_gets_the_ids_of_the_whole(folders, kind, side, monkeypatch):
    text = " ".join(reviews(60))
    oracle = transformers.AutoTokenizer.from_pretrained(folders[kind, side])
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 100)

    tokens = TextTokenizer.load(folders[kind, side], max_length=64).encode(column("short", text))

    assert tokens.token_ids[1].as_py() == oracle(text, truncation=True, max_length=64)["input_ids"]
    assert tokens.num_tokens[1].as_py() == len(oracle(text)["input_ids"])


def test_a_giant_text_without_whitespace_is_cut_all_the_same(wordpiece, monkeypatch):
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 100)

    tokens = wordpiece.encode(column("x" * 1_000))

    assert tokens.reason.to_pylist() == [None]
    assert tokens.num_tokens.to_pylist() == [1_002]


def test_a_giant_text_that_begins_with_blanks_still_yields_its_words(wordpiece, monkeypatch):
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 100)

    blank_first, plain = wordpiece.encode(column(" " * 1_000 + "a good film", "a good film")).token_ids.to_pylist()

    assert blank_first == plain


def test_truncation_and_padding_saved_inside_tokenizer_json_are_switched_off():
    saved = json.loads((TINY_SENTIMENT / "tokenizer.json").read_text())
    assert saved["truncation"]["max_length"] == 64
    assert saved["padding"] is not None

    tokens = TextTokenizer.load(TINY_SENTIMENT).encode(column("a good film " * 50, "short"))

    assert [len(ids) for ids in tokens.token_ids.to_pylist()] == [152, 3]


def test_null_texts_stay_null_and_have_no_reason(wordpiece):
    tokens = wordpiece.encode(column("a film", None, ""))

    assert [ids is None for ids in tokens.token_ids.to_pylist()] == [False, True, False]
    assert tokens.num_tokens.to_pylist()[1:] == [None, 2]
    assert tokens.reason.to_pylist() == [None, None, None]


def test_runs_of_any_size_chunks_and_slices_give_the_same_columns(wordpiece, monkeypatch):
    texts = [*reviews(50), None, *reviews(20)]
    whole = wordpiece.encode(column(*texts))
    monkeypatch.setattr(tokenization, "BYTES_AT_WORK", 600)

    padded = column("before", *texts, "after")
    for cut in (
        column(*texts),
        padded.slice(1, len(texts)),
        pa.chunked_array([column(*texts[:7]), column(*texts[7:])]),
    ):
        assert wordpiece.encode(cut) == whole
    assert wordpiece.encode(column(*texts).cast(pa.large_string())) == whole


def test_no_texts_give_columns_of_the_right_types(wordpiece):
    for texts in (column(), pa.chunked_array([], pa.string())):
        tokens = wordpiece.encode(texts)
        assert len(tokens.token_ids) == 0
        assert tokens.token_ids.type == pa.list_(pa.int32())
        assert tokens.num_tokens.type == pa.int32()
        assert tokens.reason.type == pa.string()


def test_a_text_over_the_length_is_quarantined_where_the_pipeline_says_so(folders):
    tokenizer = TextTokenizer.load(folders["wordpiece", "right"], max_length=8, long_text="quarantine")

    tokens = tokenizer.encode(column("a film", "the " * 20))

    assert tokens.reason.to_pylist() == [None, "22 tokens exceed tokenizer.max_length 8"]
    assert tokens.token_ids.is_null().to_pylist() == [False, True]
    assert tokens.num_tokens.to_pylist()[1] == 22


def test_a_text_that_is_not_utf8_gets_a_reason_and_its_neighbours_their_tokens(wordpiece):
    binary = pa.array([b"a film", b"\xff\xfe", b"a film"])
    broken = pa.Array.from_buffers(pa.string(), 3, binary.buffers())

    tokens = wordpiece.encode(broken)

    assert tokens.token_ids.is_null().to_pylist() == [False, True, False]
    assert tokens.reason[1].as_py().startswith("cannot be tokenized: ")


def test_a_text_without_any_token_gets_a_reason(tmp_path):
    save_tokenizer(tmp_path, "bpe")
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved | {"post_processor": None}))

    tokens = TextTokenizer.load(tmp_path).encode(column("", "a film"))

    assert tokens.reason.to_pylist() == ["cannot be tokenized: it has no tokens", None]


def test_auto_is_the_smaller_of_what_tokenizer_and_model_take(folders):
    folder = folders["wordpiece", "right"]

    assert TextTokenizer.load(folder, model_max_length=1_000).max_length == NUM_POSITIONS
    assert TextTokenizer.load(folder, model_max_length=20).max_length == 20
    assert TextTokenizer.load(folder).max_length == NUM_POSITIONS


def test_auto_without_any_bound_asks_for_a_length(tmp_path):
    save_tokenizer(tmp_path, "wordpiece", model_max_length=int(1e30))

    with pytest.raises(ModelError, match=r"Set tokenizer\.max_length\."):
        TextTokenizer.load(tmp_path)


@pytest.mark.parametrize(("architecture", "positions"), [("bert", NUM_POSITIONS), ("roberta", NUM_POSITIONS)])
def test_positions_that_follow_the_padding_index_are_not_counted(tmp_path, architecture, positions):
    config = load_config(save_checkpoint(tmp_path, architecture, "two labels"))

    assert max_positions(config) == positions


def test_a_length_above_the_models_is_refused_by_the_options_name(folders):
    with pytest.raises(ModelError, match=r"tokenizer\.max_length = 600 is more than the 512 tokens"):
        TextTokenizer.load(folders["wordpiece", "right"], max_length=600, model_max_length=512)


def test_a_length_that_holds_only_special_tokens_is_refused(folders):
    with pytest.raises(ModelError, match="Raise it to at least 3"):
        TextTokenizer.load(folders["wordpiece", "right"], max_length=2)


@pytest.mark.slow
def test_a_tokenizer_without_a_fast_version_is_refused(tmp_path):
    transformers.CanineTokenizer().save_pretrained(tmp_path)

    with pytest.raises(ModelError, match=r"no fast version\. Set tokenizer\.path"):
        TextTokenizer.load(tmp_path)


def test_a_tokenizer_that_needs_token_type_ids_is_refused(tmp_path):
    save_tokenizer(tmp_path, "wordpiece")
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 2}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}}
    saved["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": [*single, *single[1:]]}
    saved["post_processor"]["special_tokens"] = special
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))

    with pytest.raises(ModelError, match="token type ids"):
        TextTokenizer.load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        TextTokenizer.load(tmp_path)


def test_the_fingerprint_names_content_and_options_and_no_more(folders, tmp_path):
    right = folders["wordpiece", "right"]
    same = TextTokenizer.load(right).fingerprint
    save_tokenizer(tmp_path, "wordpiece")
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    truncation = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved | {"truncation": truncation}))

    assert TextTokenizer.load(right, max_length=NUM_POSITIONS).fingerprint == same
    assert TextTokenizer.load(tmp_path).fingerprint == same
    others = {
        TextTokenizer.load(right, max_length=10).fingerprint,
        TextTokenizer.load(right, long_text="quarantine").fingerprint,
        TextTokenizer.load(folders["wordpiece", "left"]).fingerprint,
        TextTokenizer.load(folders["bpe", "right"]).fingerprint,
    }
    assert len(others | {same}) == 5


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_windows_are_those_of_transformers_with_overflowing_tokens(folders, kind, side, data):
    texts = data.draw(st.lists(st.text() | st.sampled_from(reviews(100)), min_size=1, max_size=8))
    max_length = data.draw(st.integers(3, 40))
    overlap = data.draw(st.integers(0, max_length - 3))
    oracle = transformers.AutoTokenizer.from_pretrained(folders[kind, side])

    tokenizer = TextTokenizer.load(folders[kind, side], max_length=max_length, long_text="windows", overlap=overlap)
    tokens = tokenizer.encode(column(*texts))

    assert tokens.token_ids.to_pylist() == [
        oracle(text, truncation=True, max_length=max_length, stride=overlap, return_overflowing_tokens=True)[
            "input_ids"
        ]
        for text in texts
    ]
    assert tokens.num_tokens.to_pylist() == [len(ids) for ids in oracle(texts)["input_ids"]]


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_around_the_room_of_a_window_are_cut_as_transformers_cuts_them(folders, kind):
    oracle = transformers.AutoTokenizer.from_pretrained(folders[kind, "right"])
    room = 8
    texts = [" ".join(["a"] * n) for n in range(3 * room)]
    tokenizer = TextTokenizer.load(folders[kind, "right"], max_length=room + 2, long_text="windows", overlap=3)

    found = tokenizer.encode(column(*texts)).token_ids.to_pylist()

    assert {len(windows) for windows in found} == {1, 2, 3, 4}
    assert found == [
        oracle(text, truncation=True, max_length=room + 2, stride=3, return_overflowing_tokens=True)["input_ids"]
        for text in texts
    ]


def test_a_text_that_one_window_holds_has_the_ids_that_truncation_gives_it(folders, wordpiece):
    texts = column("a film", None, "", *(text for text in reviews(200) if len(text) < 40))
    windows = TextTokenizer.load(folders["wordpiece", "right"], max_length=16, long_text="windows").encode(texts)
    truncated = wordpiece.encode(texts)
    one = [number is not None and number <= 16 for number in truncated.num_tokens.to_pylist()]

    assert sum(one) > 5
    for is_one, ids, found in zip(one, truncated.token_ids.to_pylist(), windows.token_ids.to_pylist(), strict=True):
        assert found == [ids] if is_one else found is None or (found[0] == ids and len(found) > 1)
    assert windows.num_tokens == truncated.num_tokens


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_giant_text_is_read_in_the_windows_of_the_whole(folders, kind, side, monkeypatch):
    text = " ".join(reviews(60))
    tokenizer = TextTokenizer.load(folders[kind, side], max_length=64, long_text="windows", overlap=10)
    whole = tokenizer.encode(column("short", text, None))
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 100)

    assert len(whole.token_ids[1]) > 20
    assert tokenizer.encode(column("short", text, None)) == whole


def test_runs_of_any_size_give_the_same_windows(folders, monkeypatch):
    tokenizer = TextTokenizer.load(folders["wordpiece", "right"], max_length=16, long_text="windows")
    texts = column(*reviews(50), None, *reviews(20))
    whole = tokenizer.encode(texts)
    monkeypatch.setattr(tokenization, "BYTES_AT_WORK", 600)

    assert tokenizer.encode(texts) == whole
    assert tokenizer.encode(texts.slice(7, 9)).token_ids == whole.token_ids.slice(7, 9)
    assert tokenizer.encode(column()).token_ids.type == whole.token_ids.type == pa.list_(pa.list_(pa.int32()))


@pytest.mark.parametrize("piece_chars", [100, 2**20])
def test_a_text_of_more_windows_than_memory_is_to_hold_is_counted_and_quarantined(folders, monkeypatch, piece_chars):
    tokenizer = TextTokenizer.load(folders["wordpiece", "right"], max_length=12, long_text="windows", overlap=5)
    monkeypatch.setattr(tokenization, "PIECE_CHARS", piece_chars)
    monkeypatch.setattr(tokenization, "MAX_ROW_TOKENS", 200)

    tokens = tokenizer.encode(column("a " * 86, "a " * 87, "a film"))

    # 86 tokens are one window of 10 and 16 that have 5 new ones or less, each beside 5 old ones and 2 special ones.
    assert [windows and len(windows) for windows in tokens.token_ids.to_pylist()] == [17, None, 1]
    assert tokens.reason.to_pylist() == [None, "89 tokens are 201 in windows, more than the 200 of one row", None]
    assert tokens.num_tokens.to_pylist() == [88, 89, 4]


def test_a_text_of_too_many_windows_is_counted_without_being_held(folders, monkeypatch):
    tokenizer = TextTokenizer.load(folders["wordpiece", "right"], max_length=12, long_text="windows")
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 2_000)
    monkeypatch.setattr(tokenization, "MAX_ROW_TOKENS", 10_000)
    text = column("a " * 300_000)

    tracemalloc.start()
    tokens = tokenizer.encode(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert tokens.num_tokens.to_pylist() == [300_002]
    # The text itself takes two bytes a token, and its ids would take four.
    assert peak < 4 * 300_000


def test_an_overlap_that_leaves_nothing_new_to_read_is_refused(folders):
    with pytest.raises(ModelError, match=r"room for 14 tokens of text\. Lower overlap to at most 13"):
        TextTokenizer.load(folders["wordpiece", "right"], max_length=16, long_text="windows", overlap=14)
    for long_text in ("truncate", "quarantine"):
        TextTokenizer.load(folders["wordpiece", "right"], max_length=16, long_text=long_text, overlap=14)


def test_an_overlap_left_to_itself_is_an_eighth_of_the_room(folders):
    folder = folders["wordpiece", "right"]
    auto = TextTokenizer.load(folder, max_length=34, long_text="windows")

    assert auto.fingerprint == TextTokenizer.load(folder, max_length=34, long_text="windows", overlap=4).fingerprint
    assert auto.fingerprint != TextTokenizer.load(folder, max_length=34, long_text="windows", overlap=3).fingerprint
    TextTokenizer.load(folder, max_length=3, long_text="windows")


def test_only_the_overlap_of_windows_is_in_a_fingerprint(folders):
    folder = folders["wordpiece", "right"]
    backend = transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer

    for long_text in ("truncate", "quarantine"):
        as_before = fingerprint(backend.to_str(), False, "right", 32, long_text)
        assert TextTokenizer.load(folder, max_length=32, long_text=long_text, overlap=5).fingerprint == as_before
