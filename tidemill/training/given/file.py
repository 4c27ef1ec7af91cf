"""The training file: every option of `tidemill train`, its default and its meaning, in one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from tidemill.config import SETTLED, Dataset, Section, Subfolder, explain
from tidemill.config import Cost as PipelineCost
from tidemill.config import Lake as LakeSection
from tidemill.config.values import Address, ModelPath, Names, _placed_dataset
from tidemill.errors import ConfigError
from tidemill.pipeline_file import Overrides, read_file
from tidemill.places import placed

Method = Literal["full", "head", "lora"]
Task = Literal["text-classification", "token-classification", "sentence-similarity", "text-generation"]
CLASSIFICATIONS = ("text-classification", "token-classification")
Kind = Literal["auto", "single_label", "multi_label", "regression"]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=10)]


class Data(Dataset):
    """A dataset as in pipelines, or the rows of a query."""

    path: Annotated[Address, AfterValidator(_placed_dataset)] = ""
    """A Hub dataset id, an address, or local files, as `dataset.path` of a pipeline."""
    text: Names = Field(default=["text"], min_length=1)
    """The columns that the model reads. Of token classification, a column of texts or of lists of words."""
    sql: str | None = None
    """A query in place of `path`: its columns are named by `text`, `label` and the others."""
    lakes: Names = []
    """Whose rows `sql` asks for: pipeline files, or lakes' catalogs. Of several, the rows follow each other."""
    allow: Names = []
    """Folders whose files `sql` may read, such as those with the texts that a lake does not keep."""
    label: str | None = None
    """The column of what is to be learned: a label, a list of labels, a number, tags of words, or the text to write.
    `label` of classifications; pairs and texts do without."""
    negative: str | None = None
    """Of sentence embeddings, the column of texts that are unlike: with `text_pair`, rows are triplets."""
    labels: dict[str, str] = {}
    """What the column's values are called as labels, where that is not what they are: `{ 1 = "POSITIVE" }`."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | str = 0.2
    """The share of rows that is measured by and not learned from, chosen by a hash of the text, so that rows stay on
    their side as data grows; or the column that says so: true, or `test`, `validation`, `dev`, `held_out`."""
    group: str | None = None
    """A column whose values stay on one side, such as a person or a thread. The text itself if not given."""
    slices: Names = []
    """Columns by whose values the measures are told apart."""
    max_rows: Positive | None = None
    """Most rows to learn from, by the hash of their texts: fewer are always among more."""

    @property
    def columns_read(self) -> Iterator[str]:
        """Every column that is read, once."""
        declared = [source for source, _ in self.kept]
        column = self.held_out if isinstance(self.held_out, str) else None
        named = (*self.text, *self.text_pair, self.label, self.negative, self.group, column, *self.slices, *declared)
        return iter(dict.fromkeys(name for name in named if name))


class Base(Section):
    path: ModelPath | None = None
    """The model to begin with: a Hub model id or a local folder."""
    revision: str = "main"
    """Branch, tag or commit of a Hub model."""
    subfolder: Subfolder | None = None
    """The folder in `path` in which the model lies."""
    pipeline: str | None = None
    """A pipeline file in place of `path`: its promoted model is the base."""
    head: Literal["auto", "new"] = "auto"
    """`new` begins with a head of no weights; `auto` goes on with the base's where it has the data's labels."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: such a model is refused."""


class MethodSection(Section):
    type: Method = "full"
    """`full` trains all weights, `lora` small matrices beside them that are merged at the end, `head` the last layer
    alone."""
    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Passes over the rows: 3, and 60 of a head."""
    learning_rate: Rate | None = None
    """At its highest: 5e-5, 2e-4 of `lora`, 0.01 of a head."""
    batch_size: Positive | None = None
    """Rows a step: 16, and 64 of a head."""
    weight_decay: float = Field(default=0.01, ge=0)
    """By how much weights are drawn to zero."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """The share of the steps in which the learning rate rises."""
    max_length: Positive | None = None
    """Most tokens of a row; as many as the model takes, and 512 at most, if not given."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` has each label weigh alike, however few its rows are."""
    patience: Positive | None = None
    """Stop after so many evaluations without a better one."""
    evaluate_steps: Positive | None = None
    """Evaluate, and write a checkpoint, every so many steps; after each epoch if not given."""
    lora_rank: Positive = 8
    """Of `lora`, the rank of its matrices."""
    lora_alpha: Positive = 16
    """Of `lora`: what its matrices give is multiplied by this over the rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of `lora`, how much of what goes into its matrices is left out at random."""
    calibrate: bool = True
    """Divide the temperature that fits the held-out rows into the last layer's weights."""


class Grid(Section):
    """Each combination is a trial, and the best one is kept."""

    learning_rate: list[Rate] = []
    """Values of `method.learning_rate` to try."""
    epochs: list[Annotated[float, Field(gt=0)]] = []
    """Values of `method.epochs` to try."""
    batch_size: list[Positive] = []
    """Values of `method.batch_size` to try."""
    weight_decay: list[Annotated[float, Field(ge=0)]] = []
    """Values of `method.weight_decay` to try."""


class Cost(PipelineCost):
    max_cost: float | None = Field(default=None, ge=0)
    """Stop before the step that would pass it."""


class TrainingFile(Section):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")
    """Names the training: a lower-case letter, then letters, digits and underscores."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """What is random is the same under the same seed."""
    task: Task = "text-classification"
    """The model task of what comes out."""
    kind: Kind = "auto"
    """Of text classification: one label a row, several, or a number; `auto` goes by the type of `data.label`."""
    data: Data
    base: Base
    method: MethodSection = MethodSection()
    grid: Grid = Grid()
    cost: Cost = Cost()
    lake: LakeSection = Field(default_factory=LakeSection)


def load_training(path: str | Path, overrides: Overrides = ()) -> TrainingFile:
    """Read a training file, less what overrides it. Its relative paths begin at its folder.

    Raises:
        ConfigError: the file is missing, is not TOML, holds an unknown key or a wrong value, or keys that do not go
            together.
    """
    raw = read_file(path, overrides)
    _place_lists(raw, Path(path).parent)
    try:
        found = _with_label(TrainingFile.model_validate(raw, context=SETTLED))
    except ValidationError as e:
        raise ConfigError("\n".join(f"{path}: {line}" for line in explain(e, of=TrainingFile))) from e
    if problem := _problem_of_data(found.data) or _problem_of_base(found.base) or _problem_of_task(found):
        raise ConfigError(f"{path}: {problem}")
    return found


def _with_label(file: TrainingFile) -> TrainingFile:
    if file.data.label is not None or file.task not in CLASSIFICATIONS:
        return file
    return file.model_copy(update={"data": file.data.model_copy(update={"label": "label"})})


def _place_lists(raw: dict[str, Any], folder: Path) -> None:
    """Settle the paths that `pipeline_file` does not know, from the file's folder on."""
    data = raw.get("data")
    if isinstance(data, dict):
        for key in ("lakes", "allow"):
            if isinstance(found := data.get(key), str | list):
                names = [found] if isinstance(found, str) else found
                data[key] = [_placed_lake(name, folder) if isinstance(name, str) else name for name in names]


def _placed_lake(name: str, folder: Path) -> str:
    return name if name.startswith(("postgres:", "postgresql:", "sqlite:/")) else placed(name, folder)


def _problem_of_data(data: Data) -> str | None:
    if bool(data.path) == bool(data.sql):
        return "data.path names a dataset and data.sql a query. Give one of them."
    if data.sql and not data.lakes:
        return "data.sql has no lake to ask. Name it by data.lakes: a pipeline file, or a lake's catalog."
    if not data.sql and (data.lakes or data.allow):
        return "data.lakes and data.allow are of data.sql. Remove them, or give a query."
    return None


def _problem_of_base(base: Base) -> str | None:
    if bool(base.path) == bool(base.pipeline):
        return "base.path names a model and base.pipeline a pipeline whose promoted model is taken. Give one of them."
    return None


def _problem_of_task(file: TrainingFile) -> str | None:
    task, method, data = file.task, file.method.type, file.data
    if task == "text-generation" and method != "lora":
        return f'method.type = "{method}" is not of task = "text-generation". Set it to "lora".'
    if task == "sentence-similarity" and method == "head":
        return 'method.type = "head" is not of task = "sentence-similarity". Set it to "full" or "lora".'
    if task == "sentence-similarity" and not data.text_pair:
        return 'task = "sentence-similarity" learns from pairs. Set data.text_pair to the column of the second text.'
    if data.text_pair and task in ("token-classification", "text-generation"):
        return f'data.text_pair gives a row two texts, and task = "{task}" reads one. Remove it.'
    if data.negative and task != "sentence-similarity":
        return 'data.negative is of task = "sentence-similarity". Remove it.'
    if file.kind != "auto" and task != "text-classification":
        return f'kind is of task = "text-classification", and not of "{task}". Remove it.'
    return None
