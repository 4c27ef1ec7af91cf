"""What an encoder reads has the ids that Transformers gives it, with the languages that are asked for."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.checkpoints import reviews
from tests.translators import write_m2m100, write_marian, write_mbart, write_nllb, write_t5
from tidemill.encoding.prompts import SourceTokenizer, language_ids
from tidemill.errors import ModelError

TEXTS = ["a film", "  two  blanks \n", "é 😀 naïve", ">>x<< film", "x" * 50, *reviews(5)]
WRITERS = {"t5": write_t5, "nllb": write_nllb, "mbart": write_mbart, "marian": write_marian, "m2m100": write_m2m100}
LANGUAGES = {
    "t5": {},
    "nllb": {"src_lang": "deu_Latn", "tgt_lang": "fra_Latn"},
    "mbart": {"src_lang": "de_DE", "tgt_lang": "fr_XX"},
    "marian": {},
    "m2m100": {"src_lang": "de", "tgt_lang": "fr"},
}


@pytest.fixture(scope="module", params=WRITERS)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, WRITERS[request.param](folder)


def prepared(folder, *texts, **options):
    found = SourceTokenizer.load(folder, **options).prepare(pa.table({"text": pa.array(texts, pa.string())}))
    found.validate(full=True)
    return found.to_pylist()


def ids_of(folder, *texts, **options):
    return [row["token_ids"] for row in prepared(folder, *texts, **options)]


def test_a_source_is_tokenized_as_transformers_does_it_in_its_language(family):
    name, folder, theirs = family
    if name in ("nllb", "mbart", "m2m100"):
        theirs.src_lang = LANGUAGES[name]["src_lang"]

    expected = theirs(TEXTS, truncation=True, max_length=64)["input_ids"]

    assert ids_of(folder, *TEXTS, max_length=64, **LANGUAGES[name]) == expected


def test_what_stands_before_a_text_is_tokenized_with_it(family):
    name, folder, theirs = family
    if name in ("nllb", "mbart", "m2m100"):
        theirs.src_lang = LANGUAGES[name]["src_lang"]

    expected = theirs([f"summarize: {text}" for text in TEXTS])["input_ids"]

    assert ids_of(folder, *TEXTS, prefix="summarize: ", **LANGUAGES[name]) == expected


def test_a_special_token_in_a_text_is_text_or_its_row_is_quarantined(family):
    name, folder, theirs = family
    end = theirs.eos_token_id

    for row in prepared(folder, "a </s> b", "</s>", **LANGUAGES[name]):
        assert row["token_ids"] is None or row["token_ids"].count(end) == 1
        if row["token_ids"] is None:
            assert row["reason"] == (
                "the text holds what the tokenizer writes as a control token, and has no other tokens for"
            )
    assert name == "t5" or name == "mbart" or row["token_ids"] is not None


def test_an_empty_text_is_quarantined_and_a_missing_one_stays_missing(family):
    name, folder, _ = family

    empty, missing, good = prepared(folder, "", None, "x", **LANGUAGES[name])

    assert (empty["token_ids"], empty["reason"]) == (None, "the text is empty")
    assert (missing["token_ids"], missing["reason"]) == (None, None)
    assert good["token_ids"]


def test_windows_begin_with_what_stands_before_the_text_and_share_nothing(family):
    name, folder, _ = family
    options = {"prefix": "summarize: ", **LANGUAGES[name]}
    text = " ".join(reviews(3))
    (whole,) = ids_of(folder, text, max_length=4096, **options)

    (windows,) = ids_of(folder, text, max_length=40, long_text="windows", **options)

    num_after = 2 if name in ("mbart",) else 1
    num_before = next(i for i in range(40) if windows[0][i] != windows[1][i])
    assert len(windows) > 2
    assert all(len(window) <= 40 for window in windows)
    assert all(window[-num_after:] == whole[-num_after:] for window in windows)
    inner = [window[num_before:-num_after] for window in windows]
    assert whole == [*windows[0][:num_before], *(number for part in inner for number in part), *whole[-num_after:]]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "nllb",
            {"src_lang": "deu", "tgt_lang": "fra_Latn"},
            r'src_lang = "deu" is no language of the model\. Did you mean "deu_Latn"\?',
        ),
        ("nllb", {"src_lang": "deu_Latn", "tgt_lang": "french"}, 'tgt_lang = "french" is no language of the model'),
        ("nllb", {"tgt_lang": "deu_Latn"}, r"between 3 languages\. Set model\.options\.src_lang to the code"),
        ("m2m100", {"src_lang": "en", "tgt_lang": "xx"}, 'tgt_lang = "xx" is no language of the model'),
        ("mbart", {"src_lang": "de_DE", "tgt_lang": "fr_FR"}, r'Did you mean "fr_XX"\?'),
        ("t5", {"tgt_lang": "de"}, r"has no tokens for languages\. Remove tgt_lang; .* set model\.options\.prefix"),
        ("marian", {"src_lang": "de"}, "has no tokens for languages"),
    ],
)
def test_a_language_that_the_checkpoint_lacks_is_refused_and_the_nearest_named(tmp_path, name, options, says):
    WRITERS[name](tmp_path)

    with pytest.raises(ModelError, match=says):
        SourceTokenizer.load(tmp_path, translates=True, **options)


@pytest.mark.parametrize("name", ["nllb", "mbart", "m2m100"])
def test_an_answer_begins_with_the_token_of_its_language(tmp_path, name):
    theirs, target = WRITERS[name](tmp_path), LANGUAGES[name]["tgt_lang"]

    number = theirs.get_lang_id(target) if name == "m2m100" else theirs.convert_tokens_to_ids(target)

    assert language_ids(tmp_path, target) == number
    with pytest.raises(ModelError, match="is no language of the model"):
        language_ids(tmp_path, "zz_ZZ")


def test_a_saved_source_language_holds(tmp_path):
    theirs = write_mbart(tmp_path, src_lang="de_DE")

    assert ids_of(tmp_path, *TEXTS) == theirs(TEXTS)["input_ids"]


def test_marian_reads_the_language_that_it_is_to_write_as_one_token(tmp_path):
    theirs = write_marian(tmp_path, languages=("fra", "deu"))

    expected = theirs([f">>fra<< {text}" for text in TEXTS])["input_ids"]

    assert ids_of(tmp_path, *TEXTS, tgt_lang="fra") == expected
    assert {ids[0] for ids in expected} == {theirs.convert_tokens_to_ids(">>fra<<")}
    assert language_ids(tmp_path, "fra") is None


@pytest.mark.parametrize(
    ("target", "says"),
    [("fr", r'Did you mean "fra"\?'), (None, r"writes 2 languages\. Set model\.options\.tgt_lang .* \"deu\", \"fra\"")],
)
def test_marian_of_several_languages_has_one_of_them_chosen(tmp_path, target, says):
    write_marian(tmp_path, languages=("fra", "deu"))

    with pytest.raises(ModelError, match=says):
        SourceTokenizer.load(tmp_path, tgt_lang=target)


def test_a_token_in_what_stands_before_a_text_is_that_token_and_in_a_text_it_is_text(tmp_path):
    theirs = write_t5(tmp_path, additional_special_tokens=["<2fr>"])

    (ids,) = ids_of(tmp_path, "a film <2fr>", prefix="<2fr> ")

    assert ids[: len(ids) - 1].count(theirs.convert_tokens_to_ids("<2fr>")) == 1
    assert ids[0] == theirs.convert_tokens_to_ids("<2fr>")


def test_a_text_that_is_a_name_of_a_control_token_is_quarantined(tmp_path):
    write_t5(tmp_path)

    good, bad = prepared(tmp_path, "a film", "a xqtidemill000000001q film", prefix="summarize: ")

    assert good["token_ids"]
    assert (bad["token_ids"], bad["reason"] is None) == (None, False)


def test_a_text_cut_on_the_left_keeps_what_stands_before_it(tmp_path):
    theirs = write_t5(tmp_path, truncation_side="left")
    text = " ".join(reviews(3))

    (ids,) = ids_of(tmp_path, text, prefix="summarize: ", max_length=30)

    assert len(ids) == 30
    assert theirs.decode(ids).startswith("summarize:")
    assert ids[-20:] == theirs(text)["input_ids"][-20:]


def test_another_prefix_or_language_has_another_fingerprint(tmp_path):
    write_nllb(tmp_path)
    options = [("deu_Latn", ""), ("fra_Latn", ""), ("deu_Latn", "x ")]

    found = [SourceTokenizer.load(tmp_path, src_lang=language, prefix=prefix) for language, prefix in options]

    assert len({tokenizer.fingerprint for tokenizer in found}) == 3
