"""The paths below /v1 are what OpenAI's own client expects: whole, streamed, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pyarrow as pa
import pytest

from tests.chats import write_chat
from tests.embedders import save_embedder
from tests.pipelines import make_pipeline, reviews, run, table_of, write_parquet
from tests.processes import PATIENCE_SECONDS, wait_until
from tests.services import AUTHORIZED, TOKEN, Served, serving

CHAT = [{"role": "user", "content": "one"}]
MANY_TOKENS = 900


def write_model(folder):
    """A tiny decoder with a chat template that seldom ends by itself."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = len(write_chat(folder, "chatml"))
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1_024,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service of a pipeline that writes and of one that embeds."""
    folder = tmp_path_factory.mktemp("both")
    save_embedder(folder / "embedder")
    write_parquet(folder / "chats" / "0.parquet", pa.table({"id": [0], "messages": [CHAT]}))
    write_parquet(folder / "texts" / "0.parquet", reviews(0, 6))
    writes = make_pipeline(
        folder / "a",
        f"{folder}/chats/*",
        name="answers",
        dataset={"text": "messages", "keep": []},
        model={
            "path": str(write_model(folder / "model")),
            "task": "text-generation",
            "options": {"max_new_tokens": 6},
        },
        inference={"token_budget": 4_096},
    )
    model = {"path": f"{folder}/embedder", "task": "sentence-similarity"}
    embeds = make_pipeline(folder / "b", f"{folder}/texts/*", name="vectors", model=model)
    for pipeline in (writes, embeds):
        run(pipeline)
    with serving(writes, embeds) as found:
        yield found


@pytest.fixture(scope="module")
def client(both: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{both.address}/v1", api_key=TOKEN, max_retries=0, timeout=PATIENCE_SECONDS) as found:
        yield found


def row_of(served: Served, name: str, number: int = 0):
    [row] = [row for (_, place), row in table_of(served.service.pipelines[name].pipeline).items() if place == number]
    return row


def test_embeddings_are_the_tables_as_base64_and_as_numbers(both, client):
    texts = reviews(0, 3)["text"].to_pylist()

    asked = client.embeddings.create(model="vectors", input=texts)
    plain = client.embeddings.create(model="vectors", input=texts[0], encoding_format="float")

    assert [each.index for each in asked.data] == [0, 1, 2]
    for place, each in enumerate(asked.data):
        np.testing.assert_allclose(each.embedding, row_of(both, "vectors", place)["embedding"], atol=1e-5)
    np.testing.assert_allclose(plain.data[0].embedding, asked.data[0].embedding, atol=1e-5)
    assert asked.usage.prompt_tokens == asked.usage.total_tokens > plain.usage.prompt_tokens > 0


def test_fewer_dimensions_are_the_first_ones_made_one_long(client):
    whole = client.embeddings.create(model="vectors", input="a").data[0].embedding
    first = client.embeddings.create(model="vectors", input="a", dimensions=4).data[0].embedding

    np.testing.assert_allclose(first, np.array(whole[:4]) / np.linalg.norm(whole[:4]), atol=1e-5)


def test_token_ids_of_another_tokenizer_are_refused_in_openais_form(client):
    for given in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="vectors", input=given)
        assert (refused.value.code, refused.value.param, refused.value.type) == (
            "token_ids",
            "input",
            "invalid_request_error",
        )
    with pytest.raises(openai.BadRequestError, match="token ids"):
        client.completions.create(model="answers", prompt=[1, 2])


def test_what_is_refused_has_the_kinds_that_the_client_knows(both, client):
    with pytest.raises(openai.NotFoundError, match="none of this name"):
        client.embeddings.create(model="other", input="a")
    with pytest.raises(openai.BadRequestError, match="no pipeline of embeddings"):
        client.embeddings.create(model="answers", input="a")
    with pytest.raises(openai.BadRequestError, match="n:"):
        client.chat.completions.create(model="answers", messages=CHAT, n=2)
    with pytest.raises(openai.BadRequestError, match="unknown"):
        client.chat.completions.create(model="answers", messages=CHAT, extra_body={"unknown": 1})
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{both.address}/v1", api_key="wrong", max_retries=0).models.list()


def test_the_pipelines_are_the_models(client):
    assert [model.id for model in client.models.list()] == ["answers", "vectors"]


def test_a_chat_is_answered_as_the_table_answers_it(both, client):
    row = row_of(both, "answers")

    found = client.chat.completions.create(model="answers", messages=CHAT)

    assert found.choices[0].message.content == row["text"]
    assert found.choices[0].finish_reason == row["finish_reason"]
    assert found.usage.prompt_tokens == row["num_prompt_tokens"]
    assert found.usage.completion_tokens == row["num_new_tokens"]


def test_a_stream_says_the_same_and_ends_with_its_usage_and_done(both, client):
    options = {"model": "answers", "messages": CHAT, "max_tokens": 20}
    whole = client.chat.completions.create(**options)

    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    with both.client.stream("POST", "/v1/chat/completions", json={**options, "stream": True}) as raw:
        events = [line for line in raw.iter_lines() if line]

    *parts, last = chunks
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert sum(bool(part.choices[0].delta.content) for part in parts) > 2
    assert parts[-1].choices[0].finish_reason == "length"
    assert (last.choices, last.usage.completion_tokens) == ([], 20)
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-1])


def test_a_completion_goes_on_with_the_prompt_alone_and_heeds_the_clients_options(client):
    first = client.completions.create(model="answers", prompt="one two", max_tokens=12)
    text = first.choices[0].text
    stop = text[len(text) // 2 :][:2]
    both = client.completions.create(model="answers", prompt=["one two", "three"], max_tokens=12)
    stopped = client.completions.create(model="answers", prompt="one two", max_tokens=12, stop=stop)
    drawn = [
        client.completions.create(model="answers", prompt="one", max_tokens=12, temperature=1.5, seed=seed)
        for seed in (1, 1, 2)
    ]

    assert first.usage.completion_tokens == 12
    assert both.choices[0].text == text
    assert stopped.choices[0].text == text[: text.find(stop)]
    assert drawn[0].choices[0].text == drawn[1].choices[0].text != drawn[2].choices[0].text


def test_many_streams_are_written_side_by_side(both, client):
    alone = client.completions.create(model="answers", prompt="one", max_tokens=30).choices[0].text
    streams = [client.completions.create(model="answers", prompt="one", max_tokens=30, stream=True) for _ in range(8)]

    texts = ["".join(chunk.choices[0].text for chunk in stream if chunk.choices) for stream in streams]

    assert texts == [alone] * 8


def test_a_stream_whose_client_leaves_stops_within_a_token(both):
    workers = both.service.pipelines["answers"].workers
    body = {"model": "answers", "prompt": "one", "max_tokens": MANY_TOKENS, "stream": True}
    with httpx.stream("POST", f"{both.address}/v1/completions", json=body, headers=AUTHORIZED, timeout=None) as raw:
        assert next(line for line in raw.iter_lines() if line)
    counted = both.client.get("/metrics").text

    wait_until(lambda: workers._num_computing == 0)

    def written(text):
        return [line for line in text.splitlines() if line.startswith('tidemill_new_tokens_total{pipeline="answers"}')]

    assert written(both.client.get("/metrics").text) == written(counted)


def test_pipelines_are_told_apart_by_their_names(both):
    unnamed = both.client.post("/predict", json={"inputs": "a"})

    assert unnamed.status_code == 422
    assert "answers, vectors" in unnamed.json()["error"]
    assert "embedding" in both.predict("a", pipeline="vectors")
    assert "text" in both.predict("a", pipeline="answers", parameters={"max_new_tokens": 2})
