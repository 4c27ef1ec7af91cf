from __future__ import annotations

import pyarrow as pa
import pytest
import tokenizers
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from tests.checkpoints import NUM_POSITIONS, reviews
from tests.pair_models import POST_PROCESSORS, save_pair_tokenizer
from tidemill.checkpoints.fast_tokenizer import open_fast
from tidemill.encoding import pairs as pairing
from tidemill.encoding import tokenizer as tokenization
from tidemill.encoding.pairs import PairTokenizer
from tidemill.encoding.text_hashes import pair_hashes, row_hashes, text_hashes
from tidemill.errors import ModelError

KINDS = list(POST_PROCESSORS)
SIDES = ["right", "left"]
STRATEGIES = ["longest_first", "only_first", "only_second"]


def saved(folder, kind, **options):
    save_pair_tokenizer(folder, kind, **options)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        (kind, side): saved(tmp_path_factory.mktemp(f"{kind}-{side}"), kind, truncation_side=side)
        for kind in KINDS
        for side in SIDES
    }


@pytest.fixture(scope="module")
def opened(folders):
    return {key: open_fast(folder) for key, folder in folders.items()}


@pytest.fixture(scope="module")
def oracles(folders):
    return {key: transformers.AutoTokenizer.from_pretrained(folder) for key, folder in folders.items()}


def column(*texts):
    return pa.array(texts, pa.string())


def encode(tokenizer, *pairs):
    return tokenizer.encode(column(*(first for first, _ in pairs)), column(*(second for _, second in pairs)))


def truncated(oracle, pair, strategy, max_length):
    """What Transformers makes of a pair; None where it says that there is no room."""
    try:
        return oracle([pair[0]], [pair[1]], truncation=strategy, max_length=max_length)
    except Exception as e:
        if "too short" in str(e):
            return None
        raise


TEXTS = st.sampled_from(["", " ", "a", *reviews(40)]) | st.text(max_size=40)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    max_length=st.integers(5, 60),
    strategy=st.sampled_from(STRATEGIES),
)
@example(pairs=[("", ""), ("a", ""), ("", "a")], max_length=5, strategy="longest_first")
@example(pairs=[("the " * 30, ""), ("the " * 30, "the"), ("", "the " * 30)], max_length=20, strategy="only_second")
@example(pairs=[("the " * 7, "the " * 7), ("the " * 8, "the " * 7)], max_length=12, strategy="longest_first")
def test_pairs_are_truncated_and_put_together_as_by_transformers(
    opened, oracles, kind, side, pairs, max_length, strategy
):
    fast, oracle = opened[kind, side]._replace(max_length=max_length), oracles[kind, side]

    made = encode(PairTokenizer(fast, truncation=strategy), *pairs)

    whole = oracle([first for first, _ in pairs], [second for _, second in pairs])
    assert made["num_tokens"].to_pylist() == [len(ids) for ids in whole["input_ids"]]
    for pair, row in zip(pairs, made.to_pylist(), strict=True):
        expected = truncated(oracle, pair, strategy, max_length)
        if expected is None or not expected["input_ids"][0]:
            assert row["token_ids"] is None
            assert row["reason"]
        else:
            assert row["token_ids"] == expected["input_ids"][0]
            assert row.get("type_ids") == expected.get("token_type_ids", [None])[0]
            assert row["reason"] is None


def test_type_ids_are_there_only_where_the_tokenizer_makes_them(folders):
    with_types = encode(PairTokenizer.load(folders["bert", "right"]), ("a film", "a good one"))
    without = encode(PairTokenizer.load(folders["roberta", "right"]), ("a film", "a good one"))

    assert with_types.schema.field("type_ids").type == pa.list_(pa.int8())
    assert "type_ids" not in without.column_names


def test_a_model_that_takes_types_is_given_zeros_where_its_tokenizer_makes_none_and_another_gets_none(opened):
    pairs = [("a film", "a good one"), ("a film", None), ("", "a film")]
    zeros = encode(PairTokenizer(opened["llama", "right"], with_types=True), *pairs)
    none = encode(PairTokenizer(opened["bert", "right"], with_types=False), *pairs)

    assert [types and set(types) for types in zeros["type_ids"].to_pylist()] == [{0}, None, {0}]
    assert zeros["token_ids"] == encode(PairTokenizer(opened["llama", "right"]), *pairs)["token_ids"]
    assert "type_ids" not in none.column_names


def test_a_first_text_that_leaves_no_room_is_the_reason_of_its_row_alone(folders):
    tokenizer = PairTokenizer.load(folders["bert", "right"], max_length=16, truncation="only_second")

    made = encode(tokenizer, ("a film", "the " * 30), ("the " * 30, "a film"), ("a film", "a film"))

    assert made["token_ids"].is_null().to_pylist() == [False, True, False]
    assert made["type_ids"].is_null().to_pylist() == [False, True, False]
    assert made["num_tokens"].to_pylist()[:2] == [35, 35]
    assert made["reason"].to_pylist()[1] == (
        "the first text has 30 tokens, which leaves no room for the second in tokenizer.max_length 16"
    )


def test_a_pair_over_the_length_is_quarantined_where_the_pipeline_says_so(folders):
    tokenizer = PairTokenizer.load(folders["bert", "right"], max_length=16, long_text="quarantine")

    made = encode(tokenizer, ("a film", "a film"), ("the " * 8, "the " * 8))

    assert made["reason"].to_pylist() == [None, "19 tokens exceed tokenizer.max_length 16"]
    assert made["token_ids"].is_null().to_pylist() == [False, True]


def test_a_pair_in_which_a_text_is_null_has_neither_tokens_nor_a_reason(folders):
    made = encode(PairTokenizer.load(folders["bert", "right"]), ("a", None), (None, "a"), (None, None), ("a", ""))

    assert made["token_ids"].is_null().to_pylist() == [True, True, True, False]
    assert made["num_tokens"].is_null().to_pylist() == [True, True, True, False]
    assert made["reason"].null_count == 4


def test_a_text_that_is_not_utf8_is_named_and_its_neighbours_have_their_tokens(folders):
    binary = pa.array([b"a film", b"\xff\xfe", b"a film"])
    broken = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    sound = column("a", "b", "c")
    tokenizer = PairTokenizer.load(folders["bert", "right"])

    second, first = tokenizer.encode(sound, broken), tokenizer.encode(broken, sound)

    assert second["token_ids"].is_null().to_pylist() == [False, True, False]
    assert second["reason"][1].as_py().startswith("the second text cannot be tokenized: ")
    assert first["reason"][1].as_py().startswith("the first text cannot be tokenized: ")


def test_chunks_slices_large_strings_and_dictionaries_give_the_same_columns(folders, monkeypatch):
    tokenizer = PairTokenizer.load(folders["bert", "right"], max_length=32)
    first, second = column(*reviews(50), None), column(*[*reviews(5), ""] * 8, "b", None, *reviews(1))
    whole = tokenizer.encode(first, second)
    monkeypatch.setattr(pairing, "TOKENS_AT_ONCE", 100)
    monkeypatch.setattr(tokenization, "BYTES_AT_WORK", 600)
    chunks = pa.chunked_array([second[:7], second[7:7], second[7:]])
    padded = pa.concat_arrays([column("before"), first, column("after")])

    assert tokenizer.encode(first, second).equals(whole)
    assert tokenizer.encode(padded.slice(1, 51), chunks).equals(whole)
    assert tokenizer.encode(first.cast(pa.large_string()), chunks.cast(pa.large_string())).equals(whole)
    assert tokenizer.encode(first.dictionary_encode(), chunks.dictionary_encode()).equals(whole)
    assert tokenizer.prepare(pa.table({"text": first, "text_pair": chunks})).equals(whole)


def test_no_pairs_give_columns_of_the_right_types(folders):
    tokenizer = PairTokenizer.load(folders["bert", "right"])
    some = encode(tokenizer, ("a", "b"))

    for none in (column(), pa.chunked_array([], pa.string())):
        made = tokenizer.encode(none, none)
        assert made.num_rows == 0
        assert made.schema == some.schema


def test_a_giant_text_of_a_pair_gets_the_ids_of_the_whole(folders, oracles, monkeypatch):
    giant = " ".join(reviews(60))
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 100)
    for key in (("bert", "right"), ("roberta", "left")):
        made = encode(PairTokenizer.load(folders[key], max_length=48), (giant, "a film"), ("a film", giant))

        expected = oracles[key]([giant, "a film"], ["a film", giant], truncation=True, max_length=48)["input_ids"]
        assert made["token_ids"].to_pylist() == expected
        assert made["num_tokens"].to_pylist() == [len(oracles[key](giant, "a film")["input_ids"])] * 2


def test_a_text_beside_many_others_is_tokenized_once(folders, monkeypatch):
    tokenizer = PairTokenizer.load(folders["bert", "right"])
    told: list[int] = []
    encode_texts = tokenizer._texts.encode

    def told_of(texts, **options):
        told.append(len(texts))
        return encode_texts(texts, **options)

    monkeypatch.setattr(tokenizer._texts, "encode", told_of)

    encode(tokenizer, *(("a query", document) for document in reviews(20)))

    assert told == [1, 20]


def test_progress_is_told_in_pairs_and_ends_with_all_of_them(folders, monkeypatch):
    monkeypatch.setattr(tokenization, "BYTES_AT_WORK", 600)
    told: list[int] = []

    PairTokenizer.load(folders["bert", "right"]).encode(
        column(*["a query"] * 30), column(*reviews(30)), on_progress=told.append
    )

    assert told == sorted(told)
    assert told[-1] == 30


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ("truncation", {"truncation": "only_second"}),
        ("length", {"max_length": 30}),
        ("what becomes of long pairs", {"long_text": "quarantine"}),
    ],
)
def test_what_changes_tokens_changes_the_fingerprint(folders, changed, options):
    folder = folders["bert", "right"]

    assert PairTokenizer.load(folder).fingerprint == PairTokenizer.load(folder).fingerprint
    assert PairTokenizer.load(folder).fingerprint != PairTokenizer.load(folder, **options).fingerprint, changed


def test_whether_there_are_types_changes_the_fingerprint(opened):
    tokenizers = [PairTokenizer(opened["bert", "right"], with_types=types) for types in (None, True, False)]

    by_default, with_types, without = (tokenizer.fingerprint for tokenizer in tokenizers)
    assert by_default == with_types != without


def test_pairs_and_texts_of_one_tokenizer_have_fingerprints_of_their_own(folders):
    folder = folders["roberta", "right"]

    assert PairTokenizer.load(folder).fingerprint != tokenization.TextTokenizer.load(folder).fingerprint


def test_a_length_that_holds_only_special_tokens_is_refused(folders):
    with pytest.raises(ModelError, match=r"no room for two texts .* Raise it to at least 5\."):
        PairTokenizer.load(folders["roberta", "right"], max_length=4)


def test_auto_is_what_tokenizer_and_model_take(folders):
    assert PairTokenizer.load(folders["bert", "right"]).max_length == NUM_POSITIONS
    assert PairTokenizer.load(folders["bert", "right"], model_max_length=20).max_length == 20


def test_a_tokenizer_that_puts_the_second_text_first_is_refused(tmp_path):
    save_pair_tokenizer(tmp_path, "bert")
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $B [SEP] $A", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))

    with pytest.raises(ModelError, match="puts two texts together in a way of its own"):
        PairTokenizer.load(tmp_path)


def test_hashes_of_pairs_tell_apart_where_the_texts_part_and_those_of_texts_are_as_they_were():
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("bc", "a"), ("a", "bc")]
    hashes = pair_hashes(column(*(first for first, _ in pairs)), column(*(second for _, second in pairs))).to_pylist()
    alone = text_hashes(column("abc", "a text")).to_pylist()

    assert len({*hashes, alone[0]}) == 6
    assert hashes[0] == hashes[-1]
    assert alone[1].hex == "706860d9e8c7ee1c65261bc1e5b75631"


def test_rows_have_the_hashes_of_all_that_the_model_reads_of_them():
    texts = pa.table({"text": column("a", None, "a"), "kept": ["x", "y", "z"]})
    pairs = texts.append_column("text_pair", column("b", "b", None))

    assert row_hashes(texts) == text_hashes(texts["text"])
    assert row_hashes(pairs) == pair_hashes(pairs["text"], pairs["text_pair"])
    assert row_hashes(pairs).is_null().to_pylist() == [False, True, True]
