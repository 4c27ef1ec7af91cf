"""POST /predict answers as the table does, row by row; and what is no such request is refused by its place."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.pipelines import reviews, table_of
from tests.serving.conftest import NUM_ROWS
from tidemill.serving.answering.records import shown

TOLERANCE = 1e-4


def test_a_row_has_the_tables_numbers_whatever_its_company(served, reviewed):
    texts = reviews(0, NUM_ROWS)["text"].to_pylist()
    table = {place: row for (_, place), row in table_of(reviewed).items()}

    together = served.predict(texts)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(served.predict, texts))

    for place, row in table.items():
        for found in (together[place], alone[place]):
            assert found["label"] == row["label"]
            assert found["score"] == pytest.approx(row["score"], abs=TOLERANCE)
            assert (found["num_tokens"], found["truncated"]) == (row["num_tokens"], row["truncated"])


def test_one_text_gives_an_object_and_a_list_one_in_order(served):
    one = served.predict("A warm film, and funny.")
    many = served.predict(["A warm film, and funny.", "Dull.", "A warm film, and funny."])

    assert set(one) == {"label", "score", "num_tokens", "truncated"}
    assert many[0] == many[2] == pytest.approx(one, abs=TOLERANCE)
    assert many[1] == pytest.approx(served.predict("Dull."), abs=TOLERANCE)
    assert served.predict([]) == []


def test_a_row_may_name_its_columns(served):
    assert served.predict({"text": "Dull."})["label"] == served.predict("Dull.")["label"]


def test_a_text_that_is_too_long_is_cut_as_a_run_cuts_it_and_computed_beyond_the_budget(served):
    text = "good " * 3_000

    found = served.predict(["short", text])

    assert found[1]["truncated"] is True
    assert found[1]["num_tokens"] == 3_002
    assert found[0]["truncated"] is False


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ('{"inputs": NaN}', 400, "column"),
        ('{"inputs": "\\ud800 zzsecret"}', 400, "column"),
        ('{"inputs": "zzsecret", "parameters": {"x": 1e999}}', 400, "column"),
        ('{"inputs": "zzsecret"', 400, "column"),
        ("[" * 3_000, 400, "column"),
        ('["zzsecret"]', 422, "the body"),
        ('{"inputs": ["a", {"other": "zzsecret"}]}', 422, "inputs[1]"),
        ('{"inputs": ["a", ["zzsecret"]]}', 422, "inputs[1]"),
        ('{"inputs": null}', 422, "inputs"),
        ('{"inputs": "a", "unknown": "zzsecret"}', 422, "unknown"),
        ('{"inputs": "a", "parameters": {"top": "zzsecret"}}', 422, "parameters.top"),
        ('{"inputs": "a", "pipeline": "zzsecret"}', 404, "pipeline"),
        ("{}", 422, "inputs"),
        ("", 400, "column"),
    ],
)
def test_a_wrong_body_is_one_message_that_names_the_place_and_repeats_no_value(served, body, status, place):
    found = served.client.post("/predict", content=body, headers={"content-type": "application/json"})

    assert found.status_code == status
    assert place in found.json()["error"]
    assert "zzsecret" not in found.text
    assert served.predict("The service lives.")


def test_a_body_that_is_no_json_by_its_own_word_is_refused(served):
    body = json.dumps({"inputs": "a"})

    for headers in ({"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}):
        assert served.client.post("/predict", content=body, headers=headers).status_code == 415


def test_a_hundred_thousand_rows_are_refused_before_any_is_tokenized(served):
    found = served.client.post("/predict", json={"inputs": ["a"] * 100_000})

    assert found.status_code == 413
    assert "--max-rows" in found.json()["error"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_bodies_are_counted_as_they_come(served, is_chunked):
    pieces = [b'{"inputs": "', *[b"a" * 2**20] * 13, b'"}']
    content = iter(pieces) if is_chunked else b"".join(pieces)

    found = served.client.post("/predict", content=content, headers={"content-type": "application/json"})

    assert found.status_code == 413
    assert found.headers["connection"] == "close"
    assert "--max-body" in found.json()["error"]


def test_a_deadline_of_the_clients_own_ends_the_waiting(served):
    workers = served.pipeline().workers
    with workers.version.runner._lock:  # The model is busy for as long as it takes.
        found = served.client.post("/predict", json={"inputs": "late"}, headers={"x-timeout-seconds": "0.05"})
        wrong = served.client.post("/predict", json={"inputs": "late"}, headers={"x-timeout-seconds": "soon"})

    assert (found.status_code, wrong.status_code) == (504, 400)


def test_what_the_table_holds_of_a_row_is_found_by_its_key(served, reviewed):
    key = reviews(3, 1)["id"][0].as_py()

    found = served.client.get(f"/rows/{key}").json()

    [row] = [row for row in table_of(reviewed).values() if row["id"] == key]
    assert found | {"path": row["path"]} == found | {name: shown(value) for name, value in row.items()}
    assert served.client.get("/rows/nobody").status_code == 404
    assert served.client.get("/rows/[1,2]").status_code == 422


def test_the_page_shows_each_route_in_order_with_examples_and_asks_nobody(served):
    page = served.client.get("/docs", headers={"authorization": ""}).text
    schema = served.client.get("/openapi.json").json()

    assert next(iter(schema["paths"])) == "/predict"
    assert all(f"{path}</code>" in page for path in schema["paths"])
    assert "<script" not in page
    assert "http://" not in page.replace("$ADDRESS", "")
    for of_path in schema["paths"].values():
        for operation in of_path.values():
            content = operation.get("requestBody", {"content": {"application/json": {"examples": {"": 0}}}})["content"]
            assert content["application/json"]["examples"]


def test_metrics_name_routes_by_their_templates_and_repeat_no_path(served):
    served.client.get("/rows/zzsecret")
    served.client.get("/zzsecret")
    served.client.request("ZZSECRET", "/predict")

    found = served.client.get("/metrics").text

    assert 'route="/rows/{key:path}"' in found
    assert 'route="other"' in found
    assert "zzsecret" not in found.lower()
    for name in ("requests_total", "rows_total", "tokens_total", "queue_rows", "request_seconds_bucket", "batch_fill"):
        assert f"tidemill_{name}" in found


def test_the_version_says_what_is_served(served, reviewed):
    [found] = served.client.get("/version").json()["pipelines"]

    assert (found["name"], found["task"], found["engine"]) == ("reviews", "text-classification", "torch")
    assert found["version"] == served.pipeline().version.name
