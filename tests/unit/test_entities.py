"""Tokens become entities as `transformers.pipeline` groups them, whatever the model says of each."""

from __future__ import annotations

import functools
import warnings

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers.pipelines.token_classification import AggregationStrategy, TokenClassificationPipeline

from tests.checkpoints import reviews
from tests.token_classifiers import BILOU, BIO, BIOES, PLAIN, save_any_tokenizer
from tidemill.encoding.offsets import OffsetTokenizer
from tidemill.encoding.windowing import Windowing
from tidemill.models.tasks.entities.answers import BEST, all_scores, best_labels, drift, same
from tidemill.models.tasks.entities.finding import ENTITY, find_entities
from tidemill.models.tasks.entities.grouping import Strategy
from tidemill.models.tasks.entities.schemes import Scheme
from tidemill.models.tasks.entities.tokens import Tokens
from tidemill.models.tasks.entities.words import Vocabulary

KINDS = ("wordpiece", "bpe", "unigram")
STRATEGIES: tuple[Strategy, ...] = ("none", "simple", "first", "average", "max")
HARD = (
    "",
    " ",
    "Anna\nBob\tCarl",
    "José lives in São Paulo",
    "naïve café 電影 😀😀 🇩🇪",
    " two  spaces ",
    "a [SEP] b </s> c",
    "the ﬁrst e\u0301te\u0301",
    "lost \ufffd here",
    "don't-stop.now",
)
TEXT = st.text(max_size=40) | st.sampled_from(HARD) | st.sampled_from(reviews(50))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        save_any_tokenizer(folder, kind, model_max_length=512)
    return made


@functools.cache
def pipeline_of(folder, labels):
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=8,
        id2label=dict(enumerate(labels)),
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return TokenClassificationPipeline(model=transformers.BertForTokenClassification(config), tokenizer=tokenizer)


def theirs(folder, labels, text, logits, strategy, ignored):
    pipeline = pipeline_of(folder, labels)
    (inputs,) = pipeline.preprocess(text, is_split_into_words=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pipeline.postprocess(
            [{**inputs, "logits": torch.from_numpy(logits)[None]}], AggregationStrategy[strategy.upper()], ignored
        )


@functools.cache
def tokenizer_of(folder, **options):
    tokenizer = OffsetTokenizer.load(folder, **options)
    return tokenizer, Vocabulary(tokenizer.backend, unknown_id=tokenizer.unknown_id)


def prepare(folder, texts, **options):
    tokenizer, vocabulary = tokenizer_of(folder, **options)
    rows = pa.table({"text": pa.array(texts, pa.string())})
    prepared = tokenizer.prepare(rows)
    assert set(prepared["reason"].to_pylist()) <= {None, "cannot be tokenized: it has no tokens"}
    return prepared.append_column("text", rows["text"]), vocabulary


def answers_to(logits, strategy):
    """Of several items, each with the logits of its tokens."""
    lengths = np.array([len(one) for one in logits], dtype=np.int64)
    padded = np.full((len(logits), lengths.max(initial=0), logits[0].shape[1]), 99, dtype=np.float32)
    for i, one in enumerate(logits):
        padded[i, : len(one)] = one
    return (all_scores if strategy == "average" else best_labels)(padded, lengths)


def ours(prepared, vocabulary, labels, logits, strategy, ignored):
    """`logits` has one array for each row's only item."""
    answers = answers_to(logits, strategy)
    rows = pa.ListArray.from_arrays(pa.array(np.arange(len(answers) + 1, dtype=np.int32)), answers)
    found = find_entities(rows, prepared, vocabulary, strategy=strategy, labels=labels, ignored=ignored)
    return found.to_pylist()


def random_logits(num_tokens, num_labels, seed):
    """Labels in stretches, as a model has them: most of `O`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(num_tokens, num_labels)).astype(np.float32)
    likely = np.repeat(random.integers(0, num_labels, num_tokens), random.integers(1, 4, num_tokens))[:num_tokens]
    logits[np.arange(num_tokens), likely] += 2
    return logits


def in_one(text):
    return "".join(text.split())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=4),
    labels=st.sampled_from([BIO, PLAIN]),
    seed=st.integers(0, 10**6),
    ignored=st.sampled_from([["O"], []]),
)
def test_entities_are_those_of_the_pipeline(folders, kind, strategy, texts, labels, seed, ignored):
    prepared, vocabulary = prepare(folders[kind], texts)
    logits = [random_logits(len(ids), len(labels), seed + i) for i, ids in enumerate(prepared["token_ids"].to_pylist())]

    found = ours(prepared, vocabulary, labels, logits, strategy, ignored)

    for text, entities, of_text in zip(texts, found, logits, strict=True):
        expected = theirs(folders[kind], labels, text, of_text, strategy, ignored)
        name = "entity" if strategy == "none" else "entity_group"
        assert [(e["entity"], e["start"], e["end"]) for e in entities] == [
            (e[name], e["start"], e["end"]) for e in expected
        ]
        np.testing.assert_allclose([e["score"] for e in entities], [e["score"] for e in expected], rtol=1e-5)
        for entity, other in zip(entities, expected, strict=True):
            span = text[entity["start"] : entity["end"]]
            assert entity["word"].count("\ufffd") <= span.count("\ufffd")
            if kind == "wordpiece" or strategy in ("none", "simple"):
                assert entity["word"] == other["word"] or other["word"].count("\ufffd") > span.count("\ufffd")
            else:
                # The pipeline decodes words twice: "José" is "Jos\ufffd", and what a space parted is one.
                assert in_one(entity["word"]) == in_one(span if kind == "bpe" else other["word"])


def group(labels, tokens, strategy="simple"):
    """(entity, start, end) of a text of one letter for each of `tokens`, which are labels."""
    prepared = pa.table(
        {
            "token_ids": pa.array([[0] * len(tokens)], pa.list_(pa.int32())),
            "starts": pa.array([list(range(len(tokens)))], pa.list_(pa.int32())),
            "ends": pa.array([list(range(1, len(tokens) + 1))], pa.list_(pa.int32())),
            "firsts": pa.array([[0]], pa.list_(pa.int32())),
            "counts": pa.array([[len(tokens)]], pa.list_(pa.int32())),
            "text": pa.array(["x" * len(tokens)]),
        }
    )
    logits = np.full((len(tokens), len(labels)), -5, dtype=np.float32)
    logits[np.arange(len(tokens)), [labels.index(label) for label in tokens]] = 5
    vocabulary = Vocabulary(one_letter(), unknown_id=None)
    (found,) = ours(prepared, vocabulary, labels, [logits], strategy, ["O"])
    return [(entity["entity"], entity["start"], entity["end"]) for entity in found]


@functools.cache
def one_letter():
    return Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))


@pytest.mark.parametrize(
    ("labels", "tokens", "expected"),
    [
        (BIOES, "B-PER I-PER E-PER O S-LOC", [("PER", 0, 3), ("LOC", 4, 5)]),
        (BIOES, "S-PER S-PER B-PER E-PER", [("PER", 0, 1), ("PER", 1, 2), ("PER", 2, 4)]),
        (BIOES, "B-PER E-PER I-PER I-PER", [("PER", 0, 2), ("PER", 2, 4)]),
        (BIOES, "B-PER E-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 2), ("PER", 2, 3)]),
        (BIOES, "E-PER E-PER O I-LOC E-LOC", [("PER", 0, 1), ("PER", 1, 2), ("LOC", 3, 5)]),
        (BILOU, "B-PER I-PER L-PER U-PER U-LOC", [("PER", 0, 3), ("PER", 3, 4), ("LOC", 4, 5)]),
        (BIO, "B-PER I-PER B-PER O I-LOC I-LOC", [("PER", 0, 2), ("PER", 2, 3), ("LOC", 4, 6)]),
        (PLAIN, "PER PER O LOC first-name first-name", [("PER", 0, 2), ("LOC", 3, 4), ("name", 4, 6)]),
        # Not every label has such a prefix, so these are plain ones.
        (("O", "S-PER", "B-PER", "LOC"), "S-PER S-PER LOC", [("PER", 0, 2), ("LOC", 2, 3)]),
    ],
)
def test_labels_are_grouped_by_what_their_prefixes_mean(labels, tokens, expected):
    assert group(labels, tokens.split()) == expected


def test_labels_without_a_prefix_that_begins_an_entity_are_plain():
    assert not Scheme.of(["O", "E-mail", "S-corp", "I-net"]).ends.any()


def test_the_last_entity_of_a_text_is_not_that_of_the_next(folders):
    prepared, vocabulary = prepare(folders["wordpiece"], ["a b", "a b"])
    logits = np.zeros((4, len(PLAIN)), dtype=np.float32)
    logits[:, 1] = 9

    found = ours(prepared, vocabulary, PLAIN, [logits, logits], "simple", ["O"])

    assert [[(entity["start"], entity["end"]) for entity in entities] for entities in found] == [[(0, 3)], [(0, 3)]]


def test_rows_without_an_answer_are_null_and_those_without_entities_empty(folders):
    prepared, vocabulary = prepare(folders["wordpiece"], ["the film", None, "the film", ""])
    nothing = {"label": 0, "score": 1.0}
    person = {"label": 1, "score": 0.5}
    answers = pa.array([None, None, [[nothing, nothing, person, nothing]], [[nothing] * 2]], pa.list_(pa.list_(BEST)))

    found = find_entities(answers, prepared, vocabulary, strategy="simple", labels=BIO, ignored=["O"])

    film = {"entity": "PER", "score": 0.5, "word": "film", "start": 4, "end": 8}
    assert found.to_pylist() == [None, None, [film], []]
    assert found.type == pa.list_(ENTITY)


def test_a_shard_without_any_answer_has_no_entities(folders):
    prepared, vocabulary = prepare(folders["wordpiece"], [None, None])
    for strategy in STRATEGIES:
        kind = pa.list_(pa.float32(), 5) if strategy == "average" else BEST
        answers = pa.nulls(2, pa.list_(pa.list_(kind)))
        found = find_entities(answers, prepared, vocabulary, strategy=strategy, labels=BIO, ignored=["O"])
        assert found.to_pylist() == [None, None]


def test_letters_of_which_the_bytes_are_tokens_are_written_as_in_the_text(folders):
    text = "x 電影 😀"
    prepared, vocabulary = prepare(folders["bpe"], [text])
    ids = prepared["token_ids"][0].as_py()
    logits = np.zeros((len(ids), len(PLAIN)), dtype=np.float32)
    # Each token is an entity by itself.
    logits[np.arange(len(ids)), 1 + np.arange(len(ids)) % 2] = 9

    (entities,) = ours(prepared, vocabulary, PLAIN, [logits], "simple", ["O"])

    assert len(entities) == len(ids) - 2 > len(text)
    for entity in entities:
        assert "\ufffd" not in entity["word"]
        assert entity["word"].strip() == text[entity["start"] : entity["end"]].strip()


@pytest.mark.parametrize(("kind", "num_words"), [("wordpiece", 3), ("bpe", 1)])
def test_without_marks_of_subwords_only_a_space_parts_words(folders, kind, num_words):
    prepared, vocabulary = prepare(folders[kind], ["The\nfilm\tis"])
    tokens = Tokens.of(answers_of_nothing(prepared), prepared)

    assert vocabulary.begin_words(tokens, prepared["text"].combine_chunks()).sum() == num_words


def answers_of_nothing(prepared):
    rows = [[[{"label": 0, "score": 1.0}] * len(ids)] for ids in prepared["token_ids"].to_pylist()]
    return pa.array(rows, pa.list_(pa.list_(BEST)))


def test_offsets_point_into_the_text_in_sql(folders):
    texts = ["naïve café 電影 😀😀 🇩🇪 e\u0301te\u0301", "don't-stop.now"]
    for kind in KINDS:
        prepared, vocabulary = prepare(folders[kind], texts)
        logits = [random_logits(len(ids), 5, 1) for ids in prepared["token_ids"].to_pylist()]
        found = ours(prepared, vocabulary, BIO, logits, "simple", [])
        rows = [(text, entity) for text, entities in zip(texts, found, strict=True) for entity in entities]
        table = pa.table({"text": [text for text, _ in rows], "e": pa.array([entity for _, entity in rows], ENTITY)})

        duckdb.register("entities", table)
        cut = duckdb.sql('SELECT substring(text, e.start + 1, e."end" - e.start) FROM entities').fetchall()

        assert [of for (of,) in cut] == [text[entity["start"] : entity["end"]] for text, entity in rows]


@given(num_text=st.integers(0, 60), room=st.integers(1, 9), data=st.data())
def test_each_token_is_decided_once_where_it_is_farthest_from_a_cut(num_text, room, data):
    overlap = data.draw(st.integers(0, room - 1))
    windowing = Windowing([101], [102, 103], room=room, overlap=overlap)
    text = list(range(num_text))
    windows = windowing.cut(pa.array([[101, *text, 102, 103]] * 2, pa.list_(pa.int32())))[1].as_py()

    firsts, counts, num_windows = windowing.decided(np.array([num_text, num_text]))

    assert num_windows.tolist() == [len(windows)] * 2
    assert firsts.tolist() == firsts[: len(windows)].tolist() * 2
    decided = [ids[first : first + count] for ids, first, count in zip(windows, firsts, counts, strict=False)]
    assert [token for tokens in decided for token in tokens] == text

    def distance(token, ids):
        """To the nearest end of a window that is not the text's."""
        place, last = ids.index(token) - 1, len(ids) - 4
        return min(place if ids[1] > 0 else num_text, last - place if ids[-3] < num_text - 1 else num_text)

    for tokens, ids in zip(decided, windows, strict=True):
        for token in tokens:
            assert distance(token, ids) == max(distance(token, other) for other in windows if token in other[1:-2])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_windows_has_the_entities_that_it_has_in_one(tmp_path, kind, side, strategy):
    save_any_tokenizer(tmp_path, kind, model_max_length=512, truncation_side=side)
    texts = [" ".join(reviews(3)), "", "a film", " ".join(reviews(8))[-700:]]
    whole, vocabulary = prepare(tmp_path, texts)
    wide = [random_logits(len(ids), len(BIO), i) for i, ids in enumerate(whole["token_ids"].to_pylist())]
    expected = ours(whole, vocabulary, BIO, wide, strategy, ["O"])

    for max_length, overlap in [(16, 4), (17, 13), (12, 0)]:
        prepared, _ = prepare(tmp_path, texts, max_length=max_length, long_text="windows", overlap=overlap)
        logits, rows = [], []
        for row, windows in zip(wide, prepared["token_ids"].to_pylist(), strict=True):
            starts = [i * (max_length - 2 - overlap) for i in range(len(windows))]
            logits += [row[start : start + len(ids)] for start, ids in zip(starts, windows, strict=True)]
            rows.append(len(windows))
        answers = answers_to(logits, strategy)
        by_row = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *rows]).astype(np.int32)), answers)
        found = find_entities(by_row, prepared, vocabulary, strategy=strategy, labels=BIO, ignored=["O"])
        assert len(logits) > 10
        assert prepared["starts"].to_pylist() == whole["starts"].to_pylist()
        assert found.to_pylist() == expected


def test_drift_is_the_mean_of_what_is_shown_and_a_changed_label_costs_what_it_lost():
    is_shown = np.array([False, True, True])

    def items(*rows):
        return pa.array([[{"label": label, "score": score} for label, score in row] for row in rows], pa.list_(BEST))

    mine = items([(0, 0.9), (1, 0.75), (1, 1)], [(0, 0.9)], [(1, 0.875), (0, 0.5)], [(0, 0.5)])
    other = items([(0, 0.1), (1, 0.5), (1, 1)], [(0, 0.1)], [(2, 0.625), (0, 0.5)], [(0, 0.5)])

    assert drift(mine, other, is_shown).tolist() == [0.125, 0, 0.5, 0]
    assert same(mine, other, is_shown).tolist() == [True, True, False, True]


def test_drift_of_all_scores_is_the_mean_of_each_tokens_largest_difference():
    kind = pa.list_(pa.list_(pa.float32(), 3))
    mine = pa.array([[[0.5, 0.25, 0.25], [0.75, 0.25, 0]], [[1, 0, 0]]], kind)
    other = pa.array([[[0.25, 0.5, 0.25], [0.75, 0.25, 0]], [[0.5, 0.5, 0]]], kind)

    assert drift(mine, other, np.array([True, True, True])).tolist() == [0.125, 0.5]
    assert drift(mine, other, np.array([False, True, True])).tolist() == [0.25, 0]
    assert same(mine, other, np.array([True, True, True])).tolist() == [False, True]
