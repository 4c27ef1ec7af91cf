"""Zero-shot classification less its model: what its options may be, which class is which, and what logits come to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from transformers import BertConfig

from tests.checkpoints import NUM_POSITIONS, reviews, save_tokenizer
from tidemill.encoding.items import Items, prepared_rows
from tidemill.encoding.pairs import PairTokenizer
from tidemill.encoding.pooling import Pooling
from tidemill.errors import ModelError
from tidemill.models.tasks.zero_shot_classification import (
    LabelPairs,
    ZeroShotClassification,
    ZeroShotOptions,
    is_contrast,
    label_scores,
    relations_of,
)

LABELS = ["sport", "politics", "music"]


def refusal(**options):
    with pytest.raises(ValidationError) as refused:
        ZeroShotOptions(**{"candidate_labels": LABELS, **options})
    return str(refused.value)


def named(*names, label2id=None):
    config = BertConfig(id2label=dict(enumerate(names)))
    config.label2id = {name: i for i, name in enumerate(names)} if label2id is None else label2id
    return config


def test_each_label_makes_a_hypothesis_of_the_template():
    options = ZeroShotOptions(candidate_labels=["sport", "a {brace}"], hypothesis_template="{{It}} is about {0}, {0}!")

    assert options.hypotheses == ["{It} is about sport, sport!", "{It} is about a {brace}, a {brace}!"]
    assert ZeroShotOptions(candidate_labels=["sport"]).hypotheses == ["This example is sport."]


def test_candidate_labels_are_a_list_and_never_one_text():
    assert "give a list of labels" in refusal(candidate_labels="sport, politics")


@pytest.mark.parametrize("labels", [[], ["sport", ""], ["sport", " \n"]])
def test_empty_candidate_labels_are_refused(labels):
    assert "candidate_labels" in refusal(candidate_labels=labels)


@pytest.mark.parametrize("again", ["sport", " sport "])
def test_a_candidate_label_that_is_there_twice_is_refused_by_name(again):
    assert "holds 'sport' more than once" in refusal(candidate_labels=["sport", "music", again])


@pytest.mark.parametrize(
    "template",
    [
        *("", "about it", "{{}}", "{", "}"),
        *("{name}", "{1}", "{} or {}", "{0} or {}"),
        *("{0[0]}", "{0.__class__}", "{:.3}", "{!r}", "{:{}}", "{0:{0}}"),
    ],
)
def test_a_template_without_a_place_for_the_whole_label_is_refused(template):
    assert "has no place for the label" in refusal(hypothesis_template=template)


@pytest.mark.parametrize(
    ("names", "entailment", "contradiction"),
    [
        (["contradiction", "neutral", "entailment"], 2, 0),
        (["entailment", "neutral", "contradiction"], 0, 2),
        (["NEUTRAL", "Contradiction", "ENTAILMENT"], 2, 1),
        (["entailment", "contradiction", "neutral"], 0, 1),
        (["neutral", "contradicts", "entails"], 2, 1),
        (["entailment", "not_entailment"], 0, 1),
        (["other", "not-entailment", "entailment"], 2, 1),
        (["Non Entailment", "other", "entailment"], 2, 0),
        (["not_entailment", "contradiction", "entailment"], 2, 1),
    ],
)
def test_classes_are_found_by_their_names_wherever_they_stand(names, entailment, contradiction):
    assert relations_of(named(*names)) == (entailment, contradiction)


def test_where_no_class_is_named_contradiction_it_is_the_one_that_the_pipeline_takes():
    assert relations_of(named("false", "unsure", "entailment")) == (2, 0)
    assert relations_of(named("entailment", "unsure", "false")) == (0, 2)


def test_classes_are_found_by_label2id_where_id2label_numbers_them_alone():
    config = named("LABEL_0", "LABEL_1", "LABEL_2", label2id={"contradiction": 1, "neutral": 2, "entailment": 0})

    assert relations_of(config) == (0, 1)


def test_a_model_without_a_class_named_entailment_is_refused_with_its_classes():
    with pytest.raises(ModelError, match=r"No class .* 0 = NEGATIVE, 1 = POSITIVE\. Set model\.path"):
        relations_of(named("NEGATIVE", "POSITIVE"))
    with pytest.raises(ModelError, match="No class"):
        relations_of(named("not_entailment", "neutral"))


def test_a_configuration_that_names_two_classes_entailment_is_refused():
    with pytest.raises(ModelError, match="Several classes of the model are named entailment"):
        relations_of(named("entailment", "neutral", "contradiction", label2id={"entailment": 2}))


def logits(*rows):
    return np.array(rows, dtype=np.float32)


NO_ROWS = np.zeros((0, 3), dtype=np.float32)


def softmax_by_hand(row):
    exponentials = [np.exp(logit) for logit in row]
    return [one / sum(exponentials) for one in exponentials]


def test_labels_share_one_by_their_entailment():
    best, scores = label_scores(logits([1, 3, 2]), logits([9, 0, -9]), is_contrast=False)

    assert best.tolist() == [1]
    np.testing.assert_allclose(scores[0], softmax_by_hand([1.0, 3.0, 2.0]), rtol=1e-6)
    assert scores.dtype == np.float32


def test_each_of_several_labels_is_entailed_or_contradicted_by_itself():
    best, scores = label_scores(logits([1, 3, 2]), logits([9, 0, -9]), is_contrast=True)

    assert best.tolist() == [2]
    expected = [softmax_by_hand(pair)[0] for pair in [(1.0, 9.0), (3.0, 0.0), (2.0, -9.0)]]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-6)


@pytest.mark.parametrize("multi_label", [True, False])
def test_a_label_alone_is_entailed_or_contradicted(multi_label):
    contrast = is_contrast(1, multi_label=multi_label)

    best, scores = label_scores(logits([1], [2]), logits([0], [4]), is_contrast=contrast)

    assert best.tolist() == [0, 0]
    np.testing.assert_allclose(scores[:, 0], [1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(2.0))], rtol=1e-6)


LOGITS = arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(LOGITS, LOGITS, st.booleans())
def test_scores_of_finite_logits_are_probabilities_whatever_their_size(entailment, contradiction, contrast):
    best, scores = label_scores(entailment, contradiction, is_contrast=contrast)

    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores[np.arange(3), best] == scores.max(axis=1)).all()
    if not contrast:
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_the_best_of_labels_whose_scores_are_one_is_that_with_most_evidence():
    best, scores = label_scores(logits([50, 90]), logits([0, 0]), is_contrast=True)

    assert scores.tolist() == [[1.0, 1.0]]
    assert best.tolist() == [1]


def test_no_rows_have_no_scores():
    best, scores = label_scores(NO_ROWS, NO_ROWS, is_contrast=False)

    assert (len(best), scores.shape) == (0, (0, 3))


WITH_TYPES = ["input_ids", "token_type_ids", "attention_mask"]
HYPOTHESES = ZeroShotOptions(candidate_labels=[*LABELS, "a film about the end of a war"]).hypotheses


@pytest.fixture(scope="module", params=["wordpiece, right", "wordpiece, left", "bpe, right"])
def folder(request, tmp_path_factory):
    kind, side = request.param.split(", ")
    folder = tmp_path_factory.mktemp(kind)
    save_tokenizer(
        folder, kind, truncation_side=side, **({"model_input_names": WITH_TYPES} if kind == "wordpiece" else {})
    )
    return folder


def label_pairs(folder, hypotheses=HYPOTHESES, **options):
    return LabelPairs(PairTokenizer.load(folder, truncation="only_first", **options), hypotheses)


def prepared(folder, texts, **options):
    return label_pairs(folder, **options).prepare(pa.table({"text": pa.array(texts, pa.string())}))


def test_a_row_is_its_text_beside_each_hypothesis_cut_as_transformers_cuts_the_first_of_two(folder):
    texts = ["", "a", "a film", *reviews(20), "naïve 電影", "the film " * 100, "a film"]
    oracle = transformers.AutoTokenizer.from_pretrained(folder)

    rows = prepared(folder, texts)

    for row, text in zip(rows.to_pylist(), texts, strict=True):
        expected = oracle([text] * len(HYPOTHESES), HYPOTHESES, truncation="only_first")
        assert row["token_ids"] == expected["input_ids"], text
        assert row.get("type_ids") == expected.get("token_type_ids")
        whole = oracle([text] * len(HYPOTHESES), HYPOTHESES)["input_ids"]
        assert row["num_tokens"] == max(map(len, whole))
        assert row["truncated"] == (row["num_tokens"] > NUM_POSITIONS)
    assert rows["truncated"].to_pylist().count(True) > 1


def test_a_text_is_cut_where_its_hypothesis_is_longer_than_it(folder):
    hypothesis = ZeroShotOptions(candidate_labels=["a good film " * 12]).hypotheses
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    [second] = oracle(hypothesis, add_special_tokens=False)["input_ids"]
    text = "the worst film of all " * 4
    assert len(second) > len(oracle(text, add_special_tokens=False)["input_ids"]) > NUM_POSITIONS - len(second)

    [row] = prepared(folder, [text], hypotheses=hypothesis).to_pylist()

    assert [len(ids) for ids in row["token_ids"]] == [NUM_POSITIONS]
    assert ",".join(map(str, second)) in ",".join(map(str, row["token_ids"][0]))
    assert row["truncated"]


def test_a_text_that_is_null_has_no_pairs_and_no_reason(folder):
    rows = prepared(folder, ["a film", None, "the end"])

    assert [row and len(row) for row in rows["token_ids"].to_pylist()] == [4, None, 4]
    assert rows["num_tokens"][1].as_py() is None
    assert rows["reason"].null_count == 3
    assert prepared(folder, []).schema == rows.schema


def test_a_row_whose_longest_pair_is_too_long_is_quarantined_where_texts_are_not_to_be_cut(folder):
    num_tokens = prepared(folder, ["a good film"])["num_tokens"][0].as_py()

    fits, exceeds = prepared(
        folder, ["a good film", "a good good film"], long_text="quarantine", max_length=num_tokens
    )["reason"].to_pylist()

    assert fits is None
    assert exceeds == f"{num_tokens + 1} tokens exceed tokenizer.max_length {num_tokens}"


@pytest.mark.parametrize("long_text", ["truncate", "quarantine"])
def test_a_hypothesis_that_leaves_no_room_for_a_text_is_refused(folder, long_text):
    with pytest.raises(ModelError, match=r"and leaves no room for a text in tokenizer\.max_length = 9"):
        label_pairs(folder, max_length=9, long_text=long_text)


def test_labels_that_the_tokenizer_cannot_tell_apart_are_refused(tmp_path):
    save_tokenizer(tmp_path, "wordpiece")

    with pytest.raises(ModelError, match=r"'It is Sport\.' and 'It is sport\.', so that no score tells"):
        label_pairs(tmp_path, ["It is Sport.", "It is art.", "It is sport."])


def test_what_names_token_shards_has_the_hypotheses_and_how_pairs_are_made(folder):
    named = [
        label_pairs(folder).fingerprint,
        label_pairs(folder, HYPOTHESES[::-1]).fingerprint,
        label_pairs(folder, max_length=50).fingerprint,
        PairTokenizer.load(folder, truncation="only_first").fingerprint,
    ]

    assert len(set(named)) == 4
    assert label_pairs(folder).fingerprint == named[0]


def test_progress_is_told_in_rows(folder):
    told: list[int] = []

    label_pairs(folder).prepare(pa.table({"text": ["a film", "the end", "a film"]}), on_progress=told.append)

    assert told[-1] == 3
    assert told == sorted(told)


def task(*names, **how):
    options = ZeroShotOptions(**{"candidate_labels": LABELS, **how.pop("options", {})})
    return ZeroShotClassification(named(*names), options, **how)


NLI = ("contradiction", "neutral", "entailment")


def test_a_model_that_is_no_classifier_is_refused():
    config = named(*NLI)
    config.architectures = ["BertForTokenClassification"]

    with pytest.raises(ModelError, match=r"is a BertForTokenClassification, and .* needs a \.\.\.ForSequenceClassif"):
        ZeroShotClassification(config, ZeroShotOptions(candidate_labels=LABELS))


def test_the_task_is_not_done_without_labels_and_not_with_a_second_text_of_the_datasets():
    with pytest.raises(ModelError, match=r"Set model\.options\.candidate_labels"):
        ZeroShotClassification(named(*NLI))
    with pytest.raises(ModelError, match=r"dataset\.text_pair gives a row two texts"):
        task(*NLI, is_pair=True)


def test_texts_are_not_read_in_windows():
    with pytest.raises(ModelError, match='Set long_text to "truncate" or "quarantine"'):
        task(*NLI, pooling=Pooling("mean", num_special=3))


def test_a_row_has_an_item_for_each_label_by_the_options_alone():
    assert ZeroShotClassification.items_per_row(ZeroShotOptions(candidate_labels=LABELS)) == len(LABELS)


def test_a_label_pair_that_fails_is_named_by_its_label():
    prepared = prepared_rows(pa.array([[[2, 3]] * 3, [[2, 3]] * 3], pa.list_(pa.list_(pa.int32()))))
    answers = pa.array([1.0, None, None, 1.0, 1.0, 1.0])
    reasons = pa.array([None, "the model failed", "too long", None, None, None], pa.string())

    _, told = Items.of(prepared, deduplicate=False).to_rows(answers, reasons, named=task(*NLI).named_item)

    assert told.to_pylist() == ["the label pair of 'politics': the model failed", None]


@pytest.mark.parametrize("options", [{"multi_label": True}, {"candidate_labels": ["sport"]}])
def test_a_model_that_knows_entailment_alone_gives_no_score_against_contradiction(options):
    with pytest.raises(ModelError, match="The model has no class beside entailment"):
        task("entailment", options=options)

    assert task("entailment").schema.names == ["label", "score"]


def answered(task, *rows):
    """Answers of label pairs with these logits of contradiction, neutral and entailment."""
    return task.answers(np.array(rows, dtype=np.float32), np.full(len(rows), 9))


@pytest.mark.parametrize("multi_label", [True, False])
def test_rows_are_made_of_their_label_pairs_and_are_null_where_one_is_missing(multi_label):
    made = task(*NLI, all_scores=True, options={"multi_label": multi_label})
    pairs = answered(made, [0, 9, 1], [1, 9, 3], [2, 9, 2], [5, 9, 1], [1, 9, 0], [3, 9, 3])
    answers = pa.ListArray.from_arrays(pa.array([0, 3, 3, 6]), pairs, mask=pa.array([False, True, False]))

    rows, reasons = made.rows(answers, pa.table({"text": ["a", "b", "c"]}))

    assert pairs.type == made.answer_type
    assert rows.schema == made.schema
    assert rows["label"].to_pylist() == ["politics", None, "music"]
    first, missing, _ = rows["scores"].to_pylist()
    expected = [1 / (1 + np.exp(-margin)) for margin in (1, 2, 0)] if multi_label else softmax_by_hand([1, 3, 2])
    assert [label for label, _ in first] == LABELS
    assert [score for _, score in first] == pytest.approx(expected)
    assert rows["score"][0].as_py() == pytest.approx(max(expected))
    assert missing is None
    assert reasons.null_count == 3


def test_drift_is_what_a_label_pair_moves_a_score_by():
    ours, theirs = [[0, 9, 1], [0, 9, 1]], [[0, 9, 1], [0, 9, 3]]
    share, each = task(*NLI), task(*NLI, options={"multi_label": True})

    found = [made.drift(answered(made, *ours), answered(made, *theirs)).tolist() for made in (share, each)]

    def score(logit):
        return 1 / (1 + np.exp(-logit))

    # Of two labels with one logit each has a half; one that is moved by 2 then has the first of these.
    assert found == [pytest.approx([0, score(2) - score(0)]), pytest.approx([0, score(3) - score(1)])]


def test_two_answers_say_the_same_where_both_entail_or_both_contradict():
    made = task(*NLI)

    same = made.same(answered(made, [0, 9, 1], [0, 9, 1]), answered(made, [2, 9, 3], [3, 9, 1]))

    assert same.tolist() == [True, False]
