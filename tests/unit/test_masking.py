"""No password, key or token is shown or recorded, however it was written."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import _duckdb
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.pipelines import make_pipeline
from tests.postgres import create_database, create_user
from tidemill.cli.query import find_lake, run_query
from tidemill.config import Pipeline, load_pipeline
from tidemill.errors import ConfigError, InputError, LakeError, SourceUnavailable, TidemillError
from tidemill.flows.local import parameter
from tidemill.flows.wanted import Wanted, all_wanted
from tidemill.flows.webhooks import KEPT
from tidemill.lake import Lake, catalog_exists
from tidemill.lake.ducklake.claims import open_claims
from tidemill.lake.ducklake.connection import layout_message
from tidemill.lake.tables import ensure_system_tables
from tidemill.masking import masked, message_of, shown_catalog, shown_webhook
from tidemill.running.recording import Recording
from tidemill.running.stage_run import StageRun

PLAIN, BLANK = "Tr0ub&4dor%x", r"Tr0ub 4dor's \x"
PIECES = ("Tr0ub", "4dor")
SPELLINGS = {
    "bare": "host={host} port={port} user={user} password={escaped} dbname={dbname}",
    "quoted": "host={host} port={port} user={user} password='{escaped}' dbname={dbname}",
    "quoted_around_a_blank": "host={host} port={port} user={user} password='{blank}' dbname={dbname}",
    "blanks_around_the_sign": "host={host} port={port} user={user} password = '{blank}' dbname={dbname}",
    "blank_behind_a_backslash": r"host={host} port={port} user={user} password={unquoted} dbname={dbname}",
    "on_lines_of_its_own": "host={host}\nport={port}\npassword={escaped}\nuser={user}\ndbname={dbname}",
    "given_twice": "password=4dor host={host} port={port} user={user} dbname={dbname} password='{blank}'",
    "address": "postgresql://{user}:{encoded}@{host}:{port}/{dbname}",
    "short_address": "postgres://{user}:{encoded_blank}@{host}:{port}/{dbname}?connect_timeout=10",
    "address_with_parameters": "postgresql://{host}:{port}/{dbname}?user={user}&password={encoded_blank}",
    "of_a_certificate": "host={host} port={port} user={user} password='{blank}' sslpassword='{blank}' dbname={dbname}",
    "of_a_certificate_in_an_address": "postgresql://{user}:{encoded}@{host}:{port}/{dbname}?sslpassword={encoded}",
}


def escaped(password: str) -> str:
    return password.replace("\\", "\\\\").replace("'", "\\'")


@dataclass(frozen=True)
class Server:
    """Where PostgreSQL answers, and who may ask."""

    conninfo: str
    plain: str
    blank: str

    def catalog(self, spelling: str, **facts: Any) -> str:
        template = SPELLINGS[spelling]
        user = self.blank if "blank}" in template or "unquoted" in template else self.plain
        where = conninfo_to_dict(self.conninfo)
        return "postgres:" + template.format(
            **{
                "host": where["host"],
                "port": where["port"],
                "user": user,
                "escaped": escaped(PLAIN),
                "blank": escaped(BLANK),
                "unquoted": escaped(BLANK).replace(" ", "\\ "),
                "encoded": quote(PLAIN, safe=""),
                "encoded_blank": quote(BLANK, safe=""),
                **facts,
            }
        )


@pytest.fixture(scope="module")
def server(postgres_server: str) -> Server:
    return Server(postgres_server, create_user(postgres_server, PLAIN), create_user(postgres_server, BLANK))


def assert_hidden(*shown: object) -> None:
    for one in shown:
        assert not [piece for piece in PIECES if piece in str(one)], one


def messages(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error} {error!r}"
        error = error.__cause__


@pytest.fixture(params=SPELLINGS)
def spelling(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_lake_is_opened_with_a_password_that_duckdb_does_not_show(server, spelling, tmp_path):
    catalog = server.catalog(spelling, dbname=create_database(server.conninfo))
    pipeline = make_pipeline(tmp_path, "nowhere", lake={"catalog": catalog})

    with Lake(pipeline.lake) as lake:
        ensure_system_tables(lake)
        shown = [
            lake.cursor().execute(f"FROM {name}").fetchall() for name in ("duckdb_databases()", "duckdb_secrets()")
        ]
    with Lake(pipeline.lake, read_only=True, one_snapshot=True) as lake:
        shown.append(lake.cursor().execute("FROM duckdb_databases()").fetchall())

    assert "lake_" in str(shown)
    assert_hidden(shown)


def test_what_cannot_be_reached_is_told_without_the_password(server, spelling, tmp_path):
    wrong = [
        server.catalog(spelling, dbname="nowhere"),
        server.catalog(spelling, port=1, dbname="lake"),
        server.catalog(spelling, user="nobody", dbname="postgres"),
    ]
    for catalog in wrong:
        pipeline = make_pipeline(tmp_path, "nowhere", lake={"catalog": catalog})
        for call in (
            lambda spec=pipeline.lake: Lake(spec),
            lambda spec=pipeline.lake: Lake(spec, read_only=True),
            lambda spec=pipeline.lake: catalog_exists(spec),
            lambda spec=pipeline.lake: open_claims(spec).hold("x"),
            StageRun(pipeline, "infer").execute,
            lambda spec=pipeline.lake: run_query(spec, "SELECT 1", "csv"),
        ):
            with pytest.raises(TidemillError) as refused:
                call()
            assert_hidden(*messages(refused.value))


def test_a_lake_that_is_there_and_cannot_be_used_is_told_without_the_password(server, spelling, tmp_path):
    catalog = server.catalog(spelling, dbname=create_database(server.conninfo))
    pipeline = make_pipeline(tmp_path, "nowhere", lake={"catalog": catalog})
    with pytest.raises(LakeError, match=r"There is no lake at postgres") as missing:
        Lake(pipeline.lake, read_only=True)
    with pytest.raises(LakeError, match=r"no lake at postgres") as unknown:
        StageRun(pipeline, "infer").execute()
    Lake(pipeline.lake).close()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(LakeError, match=r"keeps its data in") as elsewhere:
        Lake(make_pipeline(tmp_path, "nowhere", lake={"catalog": catalog, "data": f"{tmp_path}/elsewhere"}).lake)
    with pytest.raises(InputError) as wrong:
        run_query(pipeline.lake, "SELECT nothing", "csv")

    for refused in (missing, unknown, elsewhere, wrong):
        assert_hidden(*messages(refused.value))
    assert_hidden(layout_message(pipeline.lake, 1), shown_catalog(catalog))


def test_a_pipeline_is_shown_and_refused_without_the_password(server, spelling, tmp_path):
    catalog = server.catalog(spelling, dbname="lake")
    toml = tmp_path / "reviews.toml"
    body = 'name = "reviews"\ndataset = { path = "x", text = "t" }\nmodel = { path = "m" }\n'
    quoted = json.dumps(catalog)
    toml.write_text(f"{body}[lake]\ncatalog = {quoted}\n")
    pipeline = load_pipeline(toml)
    refusals = [
        ("[lake]\ncatalog = " + quoted + "\npassword = 'x'\n", ()),
        ("[lake]\ncatalog = [" + quoted + "]\n", ()),
        ("[lake]\ncatalog = " + json.dumps("mysql:" + catalog) + "\n", ()),
        ("lake = " + quoted + "\n", ()),
        ("[lake]\n", (f"lake.catalog.x={catalog}", f"lake.catalog.y.z={catalog}")),
        ("[lake]\n", (f"lake.catalog=mysql{catalog}",)),
        ("[lake]\n", (f"lake.catalog={quoted}", "lake.catalog.x=1")),
        ("[lake]\n", (catalog.replace("=", "-"),)),
    ]

    assert_hidden(repr(pipeline), str(pipeline), repr(pipeline.lake), parameter(pipeline))
    for text, overrides in refusals:
        toml.write_text(body + text)
        with pytest.raises(ConfigError) as refused:
            load_pipeline(toml, overrides)
        assert_hidden(*messages(refused.value))
        with pytest.raises((ConfigError, LakeError)) as unread:
            Lake(find_lake(str(toml), overrides), read_only=True)
        assert_hidden(*messages(unread.value))


def test_a_deployment_is_refused_without_the_password(server, spelling, tmp_path):
    pipeline = make_pipeline(tmp_path, "nowhere", lake={"catalog": server.catalog(spelling, dbname="lake")})

    with pytest.raises(ConfigError, match="holds a password") as refused:
        all_wanted([(pipeline, tmp_path / "reviews.toml")])

    assert_hidden(*messages(refused.value))


def test_a_failed_run_is_recorded_without_the_password_and_without_rows(server, spelling, tmp_path):
    catalog = server.catalog(spelling, dbname=create_database(server.conninfo))
    pipeline = make_pipeline(tmp_path, "nowhere", lake={"catalog": catalog})

    def fail(_: Any) -> None:
        raise LakeError(f"The lake {catalog} is gone.")

    with Lake(pipeline.lake) as lake:
        ensure_system_tables(lake)
        recording = Recording(pipeline, "run", why="a test")
        recording.outcomes.fail("a.csv", LakeError(f"{catalog} is gone"))
        with pytest.raises(LakeError):
            recording.carry_out(lake, fail)
        recorded = lake.cursor().execute("FROM _runs").fetchall()
        snapshots = lake.cursor().execute("FROM ducklake_snapshots('lake')").fetchall()

    assert "is gone" in str(recorded)
    assert_hidden(recorded, snapshots)


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=there password=Tr0ub 4dor dbname=x",
        "host=there password='Tr0ub 4dor",
        "host=there passwort=Tr0ub4dor",
        "postgresql://me:Tr0ub@[::1/4dor",
        "postgresql://me:Tr0ub%zz4dor@there/x",
        "Tr0ub4dor",
    ],
)
def test_what_is_no_connection_string_is_refused_without_a_word_of_it(tmp_path, conninfo):
    file = tmp_path / "x.toml"
    file.write_text("")

    with pytest.raises(ConfigError, match=r"lake\.catalog = 'postgres:\*\*\*': has neither") as refused:
        load_pipeline(file, [f'lake.catalog="postgres:{conninfo}"'])
    assert_hidden(*messages(refused.value))


@pytest.mark.parametrize(
    "address", ["postgres:host=there dbname=x", "postgres:postgresql://me@there/x", "sqlite:a b.sqlite"]
)
def test_a_catalog_without_a_secret_is_shown_as_it_was_written(address):
    assert shown_catalog(address) == address


SECRETS = {
    "s3://AKIAKEY:Tr0ub4dor@bucket/x": "s3://***@bucket/x",
    "https://me:Tr0ub/4dor@there/x": "https://me:Tr0ub/4dor@there/x",
    "https://me:Tr0ub4dor@there/x.csv": "https://***@there/x.csv",
    "https://Tr0ub4dor@there/x.csv": "https://***@there/x.csv",
    "postgresql://me:Tr0ub4dor@there/x": "postgresql://me:***@there/x",
    "https://b.s3.amazonaws.com/x?X-Amz-Credential=Tr0ub&X-Amz-Signature=4dor&v=1": (
        "https://b.s3.amazonaws.com/x?X-Amz-Credential=***&X-Amz-Signature=***&v=1"
    ),
    "https://there/x?sig=Tr0ub4dor&token=Tr0ub": "https://there/x?sig=***&token=***",
    "the token hf_Tr0ub4dorTr0ub4dorTr0ub4dor is": "the token hf_*** is",
    "https://hooks.slack.com/services/T0/B0/Tr0ub4dor": "https://hooks.slack.com/***",
    "https://discord.com/api/webhooks/1/Tr0ub4dor": "https://discord.com/api/webhooks/***",
    "could not connect with password=Tr0ub4dor host=there": "could not connect with password=*** host=there",
}


@pytest.mark.parametrize("text", [text for text in SECRETS if text != SECRETS[text]])
def test_what_looks_like_a_secret_is_masked_wherever_it_comes_up(text):
    assert masked(text) == SECRETS[text]
    assert masked(masked(text)) == SECRETS[text]
    assert_hidden(*messages(ConfigError(text)), *messages(SourceUnavailable(text, wait_seconds=1.0)))
    assert_hidden(pickle.loads(pickle.dumps(SourceUnavailable(text))), pickle.loads(pickle.dumps(ConfigError(text))))


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/stanfordnlp/imdb@main/plain_text/train.parquet",
        "stanfordnlp/imdb@8d2f6b",
        "postgres:host=there dbname=passwords",
        "Ask me@there.org about https://there.org/x",
        "data/hf_datasets/reviews.parquet",
        "s3://bucket/a=1/key=2/x.parquet",
        "password",
        "Set PGPASSWORD, or PGPASSFILE.",
    ],
)
def test_what_is_no_secret_is_shown(text):
    assert masked(text) == text


@pytest.mark.parametrize("section", ["dataset", "model", "tokenizer", "store", "lake"])
def test_an_address_that_holds_a_secret_is_refused(tmp_path, section):
    key = "data" if section == "lake" else "path"

    with pytest.raises(ValueError, match="holds a key, a password or a token") as refused:
        make_pipeline(tmp_path, "nowhere", **{section: {key: "s3://AKIAKEY:Tr0ub4dor@bucket/x"}})

    assert_hidden(*messages(refused.value))


WEBHOOK = "https://there.example/hooks/Tr0ub4dor?key=Tr0ub"


def webhook_of(parameter: dict[str, Any]) -> str:
    return str(parameter["alerts"]["webhook"])


def test_a_webhook_that_is_given_literally_is_in_no_parameter(tmp_path):
    pipeline = make_pipeline(tmp_path, "nowhere", alerts={"webhook": WEBHOOK, "on": ["recovered"]})
    deployed = [Wanted(kind, pipeline, Path("x.toml")).fields["parameters"] for kind in ("run", "infer", "gc")]

    assert_hidden(deployed, parameter(pipeline), repr(pipeline))
    assert {webhook_of(found["pipeline"]) for found in deployed} == {f"{KEPT}tidemill-reviews"}
    assert Pipeline.model_validate(deployed[0]["pipeline"]).name == "reviews"


def test_a_webhook_that_is_in_the_environment_is_named(tmp_path):
    pipeline = make_pipeline(tmp_path, "nowhere", alerts={"webhook": "$ALERTS_URL"})

    assert webhook_of(Wanted("run", pipeline, Path("x.toml")).fields["parameters"]["pipeline"]) == "$ALERTS_URL"
    assert webhook_of(parameter(pipeline)) == "$ALERTS_URL"
    assert shown_webhook(WEBHOOK) == "https://there.example/***"


def test_the_rows_that_a_database_repeats_are_not_recorded():
    text = "a private sentence, Tr0ub 4dor"
    failures = [
        _duckdb.InvalidInputException(f"Failed to write: INSERT INTO inlined_1 VALUES (1, '{text}')"),
        _duckdb.ConversionException(f"Could not convert string '{text}' to INT64\n\nLINE 1: SELECT '{text}'::INT"),
        psycopg.errors.NotNullViolation(f'null value in column "x"\nDETAIL: Failing row contains ("{text}", 1).'),
    ]

    told = [message_of(failure) for failure in failures]

    assert_hidden(*told)
    assert told[0] == "Failed to write: INSERT INTO …"
    assert told[1] == "Could not convert string '…' to INT64"
    assert 'column "x"' in told[2]
    assert message_of(LakeError("The lake 'a b' is gone. SELECT it.")) == "The lake 'a b' is gone. SELECT it."
