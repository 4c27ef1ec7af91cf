"""Prompts have the ids that Transformers gives them, but that a row's text is text."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chats import CHATML, DATED, FAMILIES, write_chat
from tests.checkpoints import reviews
from tidemill.encoding import tokenizer as tokenization
from tidemill.encoding.prompts import Prompt, PromptTokenizer
from tidemill.errors import ModelError

ODD = ["a film", "  two  blanks \n", "\n\nthe\tfilm", "é 😀 naïve", "Say {x} <b> [INST] <<SYS>>", "x" * 50]
TEXTS = [*ODD, *reviews(5)]
COLUMN = Prompt(columns=("text",))
CONTROL = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "llama2": "</s>", "gemma": "<end_of_turn>"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, write_chat(folder, request.param)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatml")
    write_chat(folder, "chatml")
    return folder


def prepared(folder, prompt, *rows, **options):
    """Rows of values, each a list of them."""
    texts = pa.array([None if row is None else json.dumps(row) for row in rows], pa.string())
    found = PromptTokenizer.load(folder, prompt=prompt, **options).prepare(pa.table({"text": texts}))
    found.validate(full=True)
    return found.to_pylist()


def ids_of(folder, prompt, *rows, **options):
    found = prepared(folder, prompt, *rows, **options)
    assert [row["reason"] for row in found] == [None] * len(rows)
    return [row["token_ids"] for row in found]


def rendered(theirs, messages, **options):
    return theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **options)


def user(text):
    return {"role": "user", "content": text}


def test_a_prompt_that_is_a_string_is_tokenized_as_the_pipeline_does_it(family):
    _, folder, theirs = family

    assert ids_of(folder, COLUMN, *([text] for text in TEXTS)) == theirs(TEXTS)["input_ids"]


def test_messages_are_tokenized_as_the_chat_template_has_them_with_nothing_added(family):
    _, folder, theirs = family
    chats = [[user(text)] for text in TEXTS] + [[user("one"), {"role": "assistant", "content": "two"}, user("three ")]]

    expected = [rendered(theirs, chat, enable_thinking=False) for chat in chats]

    assert ids_of(folder, COLUMN, *([chat] for chat in chats)) == expected


PIECES = [
    *" \n\t<|>▁.\u200b\x00é日😀",
    "the",
    " film",
    "\r\n",
    "im_end",
    "<|im_",
    "|>",
    "</",
    "s>",
    "[INST]",
    "xqtidemill",
]
TOKENS = ["<|im_end|>", "<|im_start|>", "<think>", "<|eot_id|>", "</s>", "<s>", "<bos>", "<end_of_turn>"]


@pytest.fixture(scope="module")
def opened(family):
    _, folder, _ = family
    return PromptTokenizer.load(folder, prompt=COLUMN)


@settings(max_examples=25)
@given(data=st.data())
def test_no_text_changes_what_is_not_its_own(family, opened, data):
    _, _, theirs = family
    texts = data.draw(st.lists(st.lists(st.sampled_from(PIECES + TOKENS), min_size=1).map("".join), min_size=1))
    chats = [[user(text), {"role": "assistant", "content": "x"}, user(text)] for text in texts]
    rows = pa.table({"text": [json.dumps([value]) for value in [*texts, *chats]]})
    control = set(theirs.added_tokens_decoder) - {theirs.unk_token_id}
    usual = rendered(theirs, [user("y"), {"role": "assistant", "content": "x"}, user("y")], enable_thinking=False)

    ids = opened.prepare(rows)["token_ids"].to_pylist()

    for text, chat, of_text, of_chat in zip(texts, chats, ids, ids[len(texts) :], strict=False):
        assert [number for number in of_chat if number in control] == [n for n in usual if n in control]
        if not any(token.content in text for token in theirs.added_tokens_decoder.values()):
            assert of_text == theirs(text)["input_ids"]
            assert of_chat == rendered(theirs, chat, enable_thinking=False)


def test_a_system_prompt_goes_through_the_chat_template(family):
    name, folder, theirs = family
    prompt = Prompt(template="Film: {text}\nAnswer:", columns=("text",), system_prompt="Be brief.")
    if name == "gemma":
        with pytest.raises(ModelError, match=r"system_prompt: the chat template refuses.*System role not supported"):
            PromptTokenizer.load(folder, prompt=prompt)
        return

    messages = [[{"role": "system", "content": "Be brief."}, user(f"Film: {text}\nAnswer:")] for text in TEXTS]

    expected = [rendered(theirs, each, enable_thinking=False) for each in messages]
    assert ids_of(folder, prompt, *([text] for text in TEXTS)) == expected


def test_control_tokens_in_the_words_of_a_template_of_ones_own_are_control_tokens(family):
    name, folder, theirs = family
    token = CONTROL[name]
    prompt = Prompt(template=f"{{text}}{token}\n{token}{{text}}", columns=("text",))

    expected = theirs([f"{text}{token}\n{token}{text}" for text in TEXTS])["input_ids"]

    assert ids_of(folder, prompt, *([text] for text in TEXTS)) == expected


def test_the_token_of_what_the_vocabulary_lacks_may_stand_in_a_template_and_come_of_a_text(tmp_path):
    theirs = write_chat(tmp_path, "gemma")
    prompt = Prompt(template="<unk>{text}", columns=("text",))

    assert ids_of(tmp_path, prompt, ["a"], ["<unk> b"])[0] == theirs("<unk>a")["input_ids"]


def test_a_control_token_in_a_rows_text_is_text(family):
    name, folder, theirs = family
    token, number = CONTROL[name], theirs.convert_tokens_to_ids(CONTROL[name])
    texts = [token, f"x{token}", f"{token} {token}\nx", f"bad.{token}\n"]

    plain = ids_of(folder, COLUMN, *([text] for text in texts))
    chats = ids_of(folder, COLUMN, *([[user(text)]] for text in texts))

    without = rendered(theirs, [user("x")], enable_thinking=False)
    assert [ids.count(number) for ids in plain] == [0] * len(texts)
    assert [ids.count(number) for ids in chats] == [without.count(number)] * len(texts)
    for text, ids in zip(texts, plain, strict=True):
        assert theirs.decode(ids, skip_special_tokens=True).strip() == text.strip()


def test_tokens_that_a_template_has_are_its_own_though_they_are_not_special(chatml):
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)
    number = theirs.convert_tokens_to_ids("</think>")

    (chat,) = ids_of(chatml, Prompt(columns=("text",), system_prompt="x"), ["a </think> b"])
    (plain,) = ids_of(chatml, Prompt(template="{text}", columns=("text",)), ["a </think> b"])

    assert chat.count(number) == 1
    assert plain == theirs("a </think> b")["input_ids"], "of a prompt without a chat template it is a piece as any"


def test_two_texts_side_by_side_make_no_control_token(chatml):
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)

    (ids,) = ids_of(chatml, Prompt(template="{a}{b}", columns=("a", "b")), ["x <|im_", "end|> y"])

    assert theirs.convert_tokens_to_ids("<|im_end|>") not in ids
    assert theirs.decode(ids) == "x <|im_end|> y"


@pytest.mark.parametrize("role", ["<|im_end|>", "user\n<|im_start|>system", "im_end"])
def test_a_role_that_may_become_a_control_token_is_quarantined(chatml, role):
    good, bad = prepared(chatml, COLUMN, [[user("x")]], [[{"role": role, "content": "x"}]])

    assert good["reason"] is None
    assert "control token" in bad["reason"]
    assert bad["token_ids"] is None


def test_a_role_of_a_templates_own_is_taken(chatml):
    (ids,) = ids_of(chatml, COLUMN, [[{"role": "documents", "content": "x"}, user("y")]])

    theirs = transformers.AutoTokenizer.from_pretrained(chatml)
    messages = [{"role": "documents", "content": "x"}, user("y")]
    assert ids == rendered(theirs, messages, enable_thinking=False)


@pytest.mark.parametrize("text", ["xqtidemill000000002q", "a xqtidemill000000001q b", "xqtidemill000000001"])
def test_a_text_that_is_a_name_of_a_control_token_makes_none(chatml, text):
    control = {0, 1, 2}
    (usual,) = ids_of(chatml, COLUMN, [[user("x")]])

    chat, plain = prepared(chatml, COLUMN, [[user(text)]], [text])

    assert not control & set(plain["token_ids"] or [])
    assert chat["token_ids"] is None or [n for n in chat["token_ids"] if n in control] == [
        n for n in usual if n in control
    ]


def test_what_looks_like_a_place_for_a_text_is_text(tmp_path):
    theirs = write_chat(
        tmp_path, "chatml", template=CHATML.replace("+ message['role']", "+ message['role'] + message.name")
    )
    chats = [[{**user(f"x {place}"), "name": place}] for place in ("\ue000text0\ue001", "\ue000text7\ue001")]

    ids = ids_of(tmp_path, COLUMN, *([chat] for chat in chats))

    assert ids == [rendered(theirs, chat, enable_thinking=False) for chat in chats]


REWRITES = CHATML.replace("message['content'] +", "message['content'] | upper +")
TAKES_A_PART = CHATML.replace("message['content'] +", "message['content'].split('#')[-1] +")


def test_a_text_that_the_template_rewrites_is_taken_unless_it_holds_a_control_token(tmp_path):
    theirs = write_chat(tmp_path, "chatml", template=REWRITES)

    good, bad, long = prepared(tmp_path, COLUMN, *([[user(text)]] for text in ("a b", "a<|im_end|>", "a " * 600)))

    assert good["token_ids"] == rendered(theirs, [user("a b")], enable_thinking=False)
    assert bad["reason"].startswith("the text holds the control token '<|im_end|>', and the chat template changes")
    assert "exceed tokenizer.max_length 512, and the chat template changes the text" in long["reason"]


def test_a_part_of_a_text_that_the_template_takes_is_found(tmp_path):
    theirs = write_chat(tmp_path, "chatml", template=TAKES_A_PART)
    number = theirs.convert_tokens_to_ids("<|im_end|>")

    (ids,) = ids_of(tmp_path, COLUMN, [[user("left out#a<|im_end|>b")]])

    assert ids.count(number) == rendered(theirs, [user("x")], enable_thinking=False).count(number)
    assert "a<|im_end|>b" in theirs.decode(ids)


def test_a_template_that_refuses_a_rows_messages_quarantines_it(tmp_path):
    write_chat(tmp_path, "llama2")

    good, bad = prepared(tmp_path, COLUMN, [[user("x")]], [[user("x"), {"role": "tool", "content": "y"}]])

    assert good["reason"] is None
    assert bad["reason"] == "the chat template refuses the messages: Only users and assistants"


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_prompt_is_shortened_within_its_rows_text(tmp_path, side):
    theirs = write_chat(tmp_path, "chatml", truncation_side=side)
    words = " ".join(f"word{n}" for n in range(300))
    prompt = Prompt(template="Film:\n{text}\nAnswer:", columns=("text",), system_prompt="Be brief.")

    (row,) = prepared(tmp_path, prompt, [words], max_length=100)

    text = theirs.decode(row["token_ids"])
    before, kept = text.partition("\nAnswer:")[0].split("Film:\n")
    assert before == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert len(row["token_ids"]) == 100
    assert row["truncated"]
    assert row["num_tokens"] > 300
    assert text.endswith("\nAnswer:<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert words.startswith(kept) if side == "right" else words.endswith(kept)


def test_the_longest_of_several_texts_is_shortened_first(chatml):
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)
    prompt = Prompt(template="{a}|{b}|{c}", columns=("a", "b", "c"))

    (row,) = prepared(chatml, prompt, ["one two", "x " * 90, "three"], max_length=60)

    first, second, third = theirs.decode(row["token_ids"]).split("|")
    assert (first, third) == ("one two", "three")
    assert 0 < second.count("x") < 60


def test_of_messages_the_last_of_the_user_is_shortened(chatml):
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)
    chat = [user("first " * 20), {"role": "assistant", "content": "second " * 20}, user("third " * 60)]

    (row,) = prepared(chatml, COLUMN, [chat], max_length=220)

    text = theirs.decode(row["token_ids"])
    assert len(row["token_ids"]) == 220
    assert (text.count("first"), text.count("second")) == (20, 20)
    assert 0 < text.count("third") < 60


def test_a_prompt_without_room_for_its_text_is_quarantined_with_its_length(chatml):
    (row,) = prepared(chatml, Prompt(columns=("text",), system_prompt="long " * 50), ["a film"], max_length=40)

    assert row["reason"].startswith(f"{row['num_tokens']} tokens exceed tokenizer.max_length 40, and ")
    assert row["reason"].endswith("of them are none of the text that may be shortened")
    assert row["token_ids"] is None


def test_a_long_prompt_is_quarantined_where_that_is_asked_for(chatml):
    long, short = prepared(chatml, COLUMN, ["x y " * 50], ["x"], max_length=40, long_text="quarantine")

    assert long["reason"] == f"{long['num_tokens']} tokens exceed tokenizer.max_length 40"
    assert short["reason"] is None


def test_no_character_is_cut_in_two(chatml):
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)

    for length in range(5, 20):
        (row,) = prepared(chatml, Prompt(template="<{text}>", columns=("text",)), ["日本語" * 5], max_length=length)
        assert "\ufffd" not in theirs.decode(row["token_ids"])
        assert length - 3 <= len(row["token_ids"]) <= length


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_too_long_for_the_tokenizer_at_once_is_counted_to_its_end(tmp_path, monkeypatch, side):
    monkeypatch.setattr(tokenization, "PIECE_CHARS", 300)
    theirs = write_chat(tmp_path, "chatml", truncation_side=side)
    ids = theirs("the film was good " * 100)["input_ids"]

    (row,) = prepared(tmp_path, COLUMN, ["the film was good " * 100], max_length=64)

    assert row["token_ids"][-50:] == (ids[14:64] if side == "right" else ids[-50:])
    assert (len(row["token_ids"]), row["truncated"]) == (64, True)
    assert abs(row["num_tokens"] - len(ids)) <= 7, "a token or so for each place where it is cut"


def test_rows_without_text_and_rows_without_a_prompt_take_no_others_with_them(chatml):
    missing, empty, good = prepared(chatml, COLUMN, None, [""], ["x"])

    assert (missing["token_ids"], missing["reason"]) == (None, None)
    assert (empty["token_ids"], empty["reason"]) == (None, "the prompt is empty")
    assert good["token_ids"]


def test_a_template_that_asks_for_the_date_has_it_declared(tmp_path):
    theirs = write_chat(tmp_path, "chatml", template=DATED)

    with pytest.raises(ModelError, match=r"asks for today's date.*Set model\.options\.date"):
        PromptTokenizer.load(tmp_path, prompt=Prompt(columns=("text",), system_prompt="x"))
    (ids,) = ids_of(tmp_path, Prompt(columns=("text",), system_prompt="x", date="2026-02-01"), ["y"])

    today = "<|im_start|>system\nToday is 01 February 2026.<|im_end|>\n"
    assert theirs.decode(ids).startswith(f"{today}<|im_start|>system\nx")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"system_prompt": "x", "date": "2026-02-01"}, ModelError, "this model's asks for none. Remove it"),
        ({"template": "{text}", "date": "2026-02-01"}, ModelError, "through none. Set model.options.system_prompt"),
        ({"template": "{text}", "thinking": True}, ModelError, "through none. Set model.options.system_prompt"),
    ],
)
def test_an_option_of_the_chat_template_that_nobody_asks_for_is_refused(chatml, options, error, says):
    with pytest.raises(error, match=says):
        PromptTokenizer.load(chatml, prompt=Prompt(columns=("text",), **options))


def test_a_tokenizer_without_a_chat_template_takes_strings_alone(tmp_path):
    theirs = write_chat(tmp_path, "chatml", template="")

    assert ids_of(tmp_path, COLUMN, ["a film"]) == theirs(["a film"])["input_ids"]
    with pytest.raises(ModelError, match=r"need a chat template, and the tokenizer in .* has none"):
        PromptTokenizer.load(tmp_path, prompt=Prompt(columns=("text",), system_prompt="x"))
    sound, chat = prepared(tmp_path, COLUMN, ["a film"], [[user("x")]])
    assert sound["reason"] is None
    assert "need a chat template" in chat["reason"]


def test_thinking_is_told_to_the_template(chatml):
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)

    (ids,) = ids_of(chatml, Prompt(columns=("text",), system_prompt="x", thinking=True), ["y"])

    assert theirs.decode(ids).endswith("<|im_start|>assistant\n")


def test_all_that_decides_a_prompt_is_in_the_fingerprint(tmp_path):
    prompts = [
        COLUMN,
        Prompt(columns=("text", "title")),
        Prompt(template="{text}", columns=("text",)),
        Prompt(columns=("text",), system_prompt="x"),
        Prompt(columns=("text",), system_prompt="x", thinking=True),
    ]
    write_chat(tmp_path / "a", "chatml")
    write_chat(tmp_path / "b", "chatml", template=REWRITES)

    folders = [(folder, prompt) for folder in ("a", "b") for prompt in prompts]
    names = [PromptTokenizer.load(tmp_path / folder, prompt=prompt).fingerprint for folder, prompt in folders]
    again = [PromptTokenizer.load(tmp_path / folder, prompt=prompt).fingerprint for folder, prompt in folders]

    assert names == again
    # A template of one's own goes through no chat template.
    assert len(set(names)) == len(names) - 1


def test_windows_of_a_prompt_are_refused(chatml):
    with pytest.raises(ModelError, match=r'long_text = "windows" cuts texts'):
        PromptTokenizer.load(chatml, prompt=COLUMN, long_text="windows")
