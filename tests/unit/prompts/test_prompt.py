"""What a row's columns become: a prompt, or messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.encoding.prompts.marked import Marked
from tidemill.encoding.prompts.prompt import NoPrompt, Prompt
from tidemill.errors import ConfigError


def made(prompt, *values):
    return prompt.of_row(json.dumps(list(values)))


def own(marked):
    """The texts of the row in a prompt."""
    return [marked.text[span.start : span.stop] for span in marked.spans]


def test_a_column_alone_is_the_prompt():
    assert made(Prompt(columns=("text",)), "a text") == Marked.of_row("a text")


def test_columns_without_a_template_follow_each_other():
    found = made(Prompt(columns=("title", "body"), separator=" | "), "A", "B")

    assert (found.text, own(found)) == ("A | B", ["A", "B"])


def test_fields_of_a_template_are_columns_and_doubled_braces_are_braces():
    prompt = Prompt(template='Answer as {{"title": ...}}: {title} by {author}; {title}!', columns=("author", "title"))

    found = made(prompt, "Eve", "On {author} and }}{{")

    assert found.text == 'Answer as {"title": ...}: On {author} and }}{{ by Eve; On {author} and }}{{!'
    assert own(found) == ["On {author} and }}{{", "Eve", "On {author} and }}{{"]


@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=2), st.text(alphabet="ab\n <|", max_size=20))
def test_whatever_the_row_says_it_stands_in_its_place(values, words):
    found = made(Prompt(template=words + "{b}" + words + "{a}", columns=("a", "b")), *values)

    assert found.text == words + values[1] + words + values[0]
    assert own(found) == [values[1], values[0]]


@pytest.mark.parametrize(
    ("field", "value"), [("data[0].title", "1"), ("title", "1"), ("meta.body", "2"), ("body", "2"), ("id", "3")]
)
def test_a_field_names_a_path_or_the_last_of_it(field, value):
    prompt = Prompt(template=f"<{{{field}}}>", columns=("data[0].title", "meta.body", "id"))

    assert made(prompt, "1", "2", "3").text == f"<{value}>"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("Summarise: {titel}", r"\{titel\}, and dataset\.text has no such column\. Did you mean \{title\}\?"),
        ("Summarise this.", r"has no field, so every row would have the same prompt.*as \{title\}"),
        ('Answer as {"a": 1}: {title}', r"no such column\. It has: title, a\.body, b\.body\."),
        ("{title", r"a single '\{' at character 0.*write \{\{"),
        ("title}", r"a single '\}' at character 5.*write \}\}"),
        ("{body}", r"is the end of a\.body and b\.body\. Write the whole path"),
    ],
)
def test_a_template_that_fits_no_column_is_refused(template, says):
    with pytest.raises(ConfigError, match=says):
        Prompt(template=template, columns=("title", "a.body", "b.body"))


def test_a_date_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r'model\.options\.date = "today" is no date'):
        Prompt(columns=("text",), system_prompt="x", date="today")


def test_a_prefix_stands_before_every_prompt():
    assert made(Prompt(columns=("text",), prefix="summarize: "), "x").text == "summarize: x"


def test_a_system_prompt_makes_messages_of_a_prompt():
    prompt = Prompt(template="Title: {title}", columns=("title",), system_prompt="Be brief.")

    system, user = made(prompt, "A")

    assert (system["role"], system["content"].text, own(system["content"])) == ("system", "Be brief.", [])
    assert (user["role"], user["content"].text, own(user["content"])) == ("user", "Title: A", ["A"])


CHAT = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two", "name": None},
    {"role": "user", "content": [{"type": "text", "text": "three"}]},
    {"role": "assistant", "content": "four"},
]


def test_of_messages_the_last_of_the_user_may_be_shortened():
    messages = made(Prompt(columns=("messages",)), CHAT)

    contents = [message["content"] for message in messages]
    marked = [content[0]["text"] if isinstance(content, list) else content for content in contents]
    assert [text.text for text in marked] == ["one", "two", "three", "four"]
    assert [span.may_go for text in marked for span in text.spans] == [False, False, True, False]
    assert "name" not in messages[1]


def test_a_system_prompt_stands_before_messages_without_one():
    prompt = Prompt(columns=("messages",), system_prompt="Be brief.")

    assert [m["role"] for m in made(prompt, CHAT)] == ["system", "user", "assistant", "user", "assistant"]
    own_system = made(prompt, [{"role": "system", "content": "Mine."}, CHAT[0]])
    assert [m["content"].text for m in own_system] == ["Mine.", "one"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([""], "the prompt is empty"),
        ([[]], "text has no messages"),
        ([[{"content": "x"}]], r"text\[0\] is no message: it has no role"),
        ([[{"role": "user", "content": "x"}, "y"]], r"text\[1\] is no message"),
        ([[{"role": "user"}]], r"text\[0\] has no content"),
        ([[{"role": "user", "content": 1}]], r"text\[0\] has no content"),
        ([None], "text is null"),
    ],
)
def test_a_row_without_a_prompt_says_why(values, says):
    with pytest.raises(NoPrompt, match=says):
        made(Prompt(columns=("text",)), *values)


def test_messages_in_a_template_are_no_text():
    with pytest.raises(NoPrompt, match="messages is a list, and stands in a prompt as text"):
        made(Prompt(template="{messages}", columns=("messages",)), CHAT)
