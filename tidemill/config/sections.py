"""The sections of the pipeline file: every option, its default and its meaning."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
    ValidationInfo,
    field_validator,
)

from tidemill.config.values import (
    LARGEST_BYTES,
    LONGEST_SECONDS,
    Address,
    Aggregate,
    Cron,
    Declarations,
    Duration,
    Encoding,
    LongText,
    ModelPath,
    Names,
    Section,
    TimeZone,
    Truncation,
    _declared,
    _placed_dataset,
)
from tidemill.masking import masked
from tidemill.places import default_catalog, default_data, home, settled_catalog

PROMOTE_IF = r"^(accuracy|f1) (>=?) current(?: ([+-]) (\d+(?:\.\d+)?))?$"
"""What `schedule.retrain.promote_if` looks like."""


class Dataset(Section):
    path: Annotated[Address, AfterValidator(_placed_dataset)]
    """A Hub dataset id, an hf://, s3:// or other fsspec address, or local files: a file, a folder or a glob."""
    config: str | None = None
    """The dataset's configuration (subset) on the Hub; its default one if not given."""
    revision: str = "main"
    """Branch, tag or commit of a Hub dataset. Resolved to a commit before anything is computed."""
    split: str = "train"
    """The split, as on the Hub. Files given by address or glob form one split, `train`."""
    format: Literal["auto", "parquet", "arrow", "csv", "jsonl", "json", "text"] = "auto"
    """`auto` goes by the file name, by which a `.json` file is JSON Lines; `json` is a file that is one JSON array."""
    field: str | None = Field(default=None, min_length=1)
    """Where a JSON file's array of records is within its objects, dotted: `"data.items"`. Makes the format `json`."""
    encoding: Encoding = "utf-8"
    """How text files are encoded, by Python's name of it, such as `latin-1` or `cp1252`. A byte order mark wins."""
    text: Names = Field(min_length=1)
    """The columns that the model reads; `turns[0].content` lies within one. Plain text files have `text` alone."""
    text_separator: str = "\n"
    """What joins several text columns."""
    text_pair: Names = []
    """The columns of a second text, for models that read pairs; several are joined as those of `text`."""
    key: Declarations = []
    """Columns that name a row; if none, a row is its file and row number. Copied to the table."""
    keep: Declarations = []
    """Columns copied beside the predictions; `"score as rating"` renames one, `'"a as b" as c'` one named `a as b`."""
    types: dict[str, str] = {}
    """Types of key and kept columns, Arrow's or SQL's, in place of those that files show: `{ rating = "double" }`."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What separates the fields of a CSV file."""
    quote: str = Field(default='"', max_length=1)
    """What encloses a field of a CSV file that holds delimiters or newlines; `""` where quotes are text."""
    escape: str = Field(default="", max_length=1)
    """What takes the meaning of the character behind it in a CSV file, such as `'\\'`; `""` where nothing does."""
    header: bool = True
    """Whether the first record of a CSV file names its columns; if not, they are `column0`, `column1`, ..."""
    names: list[str] = []
    """What a CSV file's columns are called, all of them, in place of what its header says."""
    shard_bytes: ByteSize = Field(default=ByteSize(16 * 2**20), gt=0, le=LARGEST_BYTES)
    """Text in one shard, about. Slices that were cut are kept whatever this says later."""

    @field_validator("field")
    @classmethod
    def _of_json(cls, value: str | None, info: ValidationInfo) -> str | None:
        format_name = info.data.get("format", "json")
        if value is not None and format_name not in ("auto", "json", "jsonl"):
            raise ValueError(f'is of JSON files, and dataset.format = "{format_name}": remove one of them')
        return value

    @property
    def kept(self) -> list[tuple[str, str]]:
        """(source column, name in the table) of the key and kept columns, keys first.

        Blanks around a source column's name are part of it, as in a header `id, text`.
        A name in double quotes is what stands between them, a doubled one meaning one.
        """
        return list(dict.fromkeys(map(_declared, (*self.key, *self.keep))))


def _plain_subfolder(value: str) -> str:
    parts = value.strip("/").split("/")
    if value.startswith("/") or not all(part.strip(".") for part in parts):
        raise ValueError('is not a folder within the model\'s, such as "sentiment/int8"')
    return "/".join(parts)


Subfolder = Annotated[str, AfterValidator(_plain_subfolder)]


class Tokenizer(Section):
    path: ModelPath | None = None
    """A Hub model id or a local folder; the model's own tokenizer if not given."""
    revision: str = "main"
    """Branch, tag or commit of the tokenizer, where `path` is given."""
    subfolder: Subfolder | None = None
    """The folder in `path` in which the tokenizer lies, where it is not `path` itself."""
    max_length: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Most tokens of one row, special tokens included; `auto` is the most that the model takes."""
    long_text: LongText = "truncate"
    """What becomes of a longer text: cut to `max_length` and marked `truncated`, quarantined, or read in windows."""
    truncation: Truncation = "longest_first"
    """Which text of a pair is cut: the longer one until they are alike, or only the second, as in Transformers."""
    overlap: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Tokens of the text that neighbouring windows share; `auto` is an eighth of what a window can hold of the text."""
    aggregate: Aggregate = "mean"
    """How the windows' scores become the row's: the mean of each class, weighted by length or not, or the largest."""

    @field_validator("subfolder")
    @classmethod
    def _only_of_a_path(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("path") is None:
            raise ValueError("counts only with tokenizer.path: set that too, or leave this out")
        return value

    @field_validator("overlap", "aggregate")
    @classmethod
    def _only_of_windows(cls, value: int | str, info: ValidationInfo) -> int | str:
        # As a default may be given: a pipeline that is written out has all of them.
        is_default = value == cls.model_fields[str(info.field_name)].default
        if not is_default and info.data.get("long_text", "windows") != "windows":
            raise ValueError('counts only with tokenizer.long_text = "windows": set that, or leave this out')
        return value

    @field_validator("overlap")
    @classmethod
    def _shorter_than_a_window(cls, value: int | str, info: ValidationInfo) -> int | str:
        max_length = info.data.get("max_length")
        if isinstance(value, int) and isinstance(max_length, int) and value >= max_length:
            raise ValueError(f"is not less than tokenizer.max_length = {max_length}: lower it")
        return value


class Model(Section):
    task: str = "text-classification"
    """The model task: the Hub's pipeline tag."""
    path: ModelPath
    """A Hub model id or a local folder in Transformers' format."""
    revision: str = "main"
    """Branch, tag or commit. Resolved to a commit, which the table's version records."""
    subfolder: Subfolder | None = None
    """The folder in `path` in which the model lies, its own tokenizer included, where it is not `path` itself."""
    all_scores: bool = False
    """Also store every class's score, as a map from label to score in the column `scores`."""
    options: dict[str, Any] = {}
    """Options of the model task, as its page says: `[model.options]`. They are part of the table's version."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: such a model is refused."""
    pad_token_id: Annotated[int, Field(ge=0)] | None = None
    """The token by which the model tells padding from text, in place of its config.json's, which may lack one."""


class Endpoint(Section):
    base_url: str | None = None
    """The address of an OpenAI-compatible server, such as "http://127.0.0.1:8000/v1"."""
    api_key: str | None = None
    """The variable of the environment that holds the key it asks for, such as "$OPENAI_API_KEY"."""
    concurrency: Annotated[int, Field(gt=0, le=1024)] = 16
    """Most requests on their way at one time."""
    timeout_seconds: float = Field(default=120.0, gt=0, le=LONGEST_SECONDS)
    """How long one request may take before it is tried again."""

    @field_validator("base_url")
    @classmethod
    def _address_without_a_key(cls, value: str | None) -> str | None:
        if value is not None and masked(value) != value:
            raise ValueError(
                "holds a key or a password, which records would show: put it into a variable of the environment, and "
                "name that in inference.endpoint.api_key"
            )
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError('is no address of a server, such as "http://127.0.0.1:8000/v1"')
        return value

    @field_validator("api_key")
    @classmethod
    def _no_key_itself(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\$\w+", value):
            raise ValueError(
                "names no variable of the environment: put the key into one, and give its name here, such as "
                '"$OPENAI_API_KEY"'
            )
        return value


class Inference(Section):
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    engine: Literal["auto", "torch", "openvino", "ctranslate2", "endpoint"] = "auto"
    """`auto` is torch on a GPU; on a CPU what is faster by trial, and before one OpenVINO where it takes the model.
    Models that write are computed by torch or CTranslate2, or behind an `endpoint`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """`auto` is bfloat16 on a GPU that computes in it, and on a CPU where it is measured to be faster, if the model
    stands it; on a GPU then float16, under the same condition; else float32. int8 is for CPUs, by OpenVINO, or by
    CTranslate2 where a model writes."""
    max_drift: float = Field(default=0.05, gt=0)
    """Most that int8 may move scores from float32's, at the 99th percentile of a sample, or the share of a sample's
    rows for which a model may write another text: beyond, the run fails."""
    token_budget: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Most padded tokens in one batch; `auto` is found by a short trial of the model on its device, and kept."""
    deduplicate: bool = True
    """Compute identical texts of a shard once."""
    endpoint: Endpoint = Endpoint()
    """The server that computes where `engine = "endpoint"`."""


class Workers(Section):
    pool: str | None = None
    """The work pool whose workers run it; `schedule.pool` if not given."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Most flow runs of it at one time."""


class StageSchedule(Workers):
    cron: Cron | None = None
    """When this runs by itself, in cron's five fields; not at all by the clock if not given."""


class Retrain(StageSchedule):
    file: Address | None = None
    """The training file by which a deployed pipeline learns from marks; nothing is trained if not given."""
    every_marks: Annotated[int, Field(gt=0)] = 100
    """Train once so many marks were given since the last training."""
    promote_if: Annotated[str, Field(pattern=PROMOTE_IF)] | None = None
    """Promote what was trained if the marks that neither version learned from say so, such as
    `"f1 > current + 0.01"`; `accuracy`, `>=` and `-` go as well. Never by itself if not given."""


class Schedule(Section):
    cron: Cron | None = None
    """When the whole chain runs, once deployed, in cron's five fields."""
    timezone: TimeZone = "UTC"
    """The time zone of every cron here, as in the tz database."""
    pool: str = "tidemill"
    """The Prefect work pool whose workers run what is deployed."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Most flow runs of the chain at one time."""
    on_model_change: Literal["report", "backfill"] = "report"
    """What a scheduled run does about a moved model or a changed option: say so, or compute it beside the old."""
    max_cost: float | None = Field(default=None, ge=0)
    """Most that one scheduled run may cost, in `cost.currency`; it stops before the shard that would pass it."""
    ingest: StageSchedule = StageSchedule()
    """The ingest stage by itself."""
    tokenize: StageSchedule = StageSchedule()
    """The tokenize stage by itself."""
    infer: StageSchedule = StageSchedule()
    """The infer stage by itself: give it the pool of the machines with the GPUs."""
    materialize: StageSchedule = StageSchedule()
    """The materialize stage by itself."""
    backfill: Workers = Workers()
    """Tranches of backfills."""
    gc: StageSchedule = StageSchedule()
    """Housekeeping of the pipeline's lake and store."""
    retrain: Retrain = Retrain()
    """A model that learns from new marks."""


class Alerts(Section):
    max_age: Duration | None = None
    """How old the last success of a run may be: `status` warns, and a deployed pipeline alerts. Such as "26 h"."""
    webhook: str | None = None
    """Where an alert is sent by HTTP POST, as JSON with a field `text`; `$NAME` is taken from the environment."""
    on: list[Literal["failed", "stale", "max_cost", "recovered", "changed"]] = [
        *("failed", "stale", "max_cost", "recovered", "changed")
    ]
    """What is worth an alert; `changed`: labels' shares of the new rows moved by more than their usual spread."""


class Report(Section):
    truth: str | None = Field(default=None, min_length=1)
    """An SQL expression over the table's columns that gives the label a row should have; NULL where nobody knows. Of a
    boolean, true means `positive`. Such as `"rating > 0"`."""
    positive: str | None = None
    """The label that a boolean `truth` means by true; the one of the model's highest id if not given."""
    map: Literal["pca", "umap"] = "pca"
    """How vectors become a map: by the directions in which they differ most, or so that neighbours stay together."""
    path: Address | None = None
    """Where each scheduled run writes the report: a file such as `reviews.html`, whose folder is made, or an address
    such as S3's."""


class Lake(Section):
    catalog: Annotated[str, AfterValidator(settled_catalog)] = Field(default_factory=default_catalog)
    """`sqlite:FILE`; where several machines write, `postgres:host=... dbname=...` or a `postgresql://` address."""
    data: Address = Field(default_factory=default_data)
    """Where the Parquet files of the tables lie: a folder, or s3://bucket/prefix."""
    lock_timeout_seconds: float = Field(default=120.0, gt=0, le=LONGEST_SECONDS)
    """How long a writer waits for the lake's lock before it fails, retryably."""
    keep_snapshots: Duration = Field(default=30 * 86_400.0)
    """How far back time travel reaches: `tidemill gc` expires older snapshots. Such as "30 days"."""

    @property
    def names_data(self) -> bool:
        """Whether the file says `data`, rather than leave it at its default."""
        return "data" in self.model_fields_set


class Store(Section):
    path: Address = Field(default_factory=lambda: str(home() / "store"))
    """Where intermediate Arrow files lie: a folder, or s3://bucket/prefix."""
    max_bytes: ByteSize = Field(default=ByteSize(20 * 10**9), gt=0, le=LARGEST_BYTES)
    """Files that no pending work needs are evicted, oldest first, beyond this size."""
    shared: bool = False
    """Whether `path`, a folder, is the same for every worker that runs a stage, as on a network file system."""


class Limits(Section):
    max_quarantine: float = Field(default=0.05, ge=0, le=1)
    """Share of a run's rows that may go to quarantine before the run fails and retires nothing."""
    max_removed: float = Field(default=0.30, ge=0, le=1)
    """Share of the table's rows that vanished files may take without `--yes`."""
    shards_in_flight: int = Field(default=3, ge=1, le=64)
    """Shards, or groups of small ones, between ingest and commit at one time: this bounds memory. Of a dataset on
    the Hub, or behind another address, as many are read at one time."""
    shards_together: int = Field(default=256, ge=1, le=1000)
    """Most small shards that go through the stages in a group; most shards of any size that share a transaction."""
    retries: int = Field(default=5, ge=0)
    """How often a stage is tried again after an error that says it is retryable."""


class Cost(Section):
    per_hour: float | None = Field(default=None, ge=0)
    """What an hour of this machine costs; plans and runs then state a cost."""
    currency: str = "USD"
    """Named beside the cost, never converted."""
