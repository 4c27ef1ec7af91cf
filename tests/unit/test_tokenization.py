from __future__ import annotations

import json

import pyarrow as pa
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import NUM_POSITIONS, TINY_SENTIMENT, reviews, save_checkpoint, save_tokenizer
from tidemill import tokenization
from tidemill.checkpoint import load_config, max_positions
from tidemill.errors import ModelError
from tidemill.tokenization import TextTokenizer

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
    monkeypatch.setattr(tokenization, "BATCH_BYTES", 300)

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
