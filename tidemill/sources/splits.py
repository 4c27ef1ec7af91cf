"""Which files make which split, as `datasets` finds them in a folder or in a repository on the Hub.

A card may say it; else words in the files' names do, and what they leave out is told.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tidemill.errors import ChoiceMissing, DatasetError, FormatError, TidemillError
from tidemill.formats import format_of
from tidemill.sources.listing import LeftOut

_ABOUT_THE_DATA = re.compile(
    r"(README|LICEN[CS]E|NOTICE|CITATION|CHANGELOG|AUTHORS|Makefile)\b.*|_[A-Za-z_]*|.*\.(md|rst|py|ipynb|ya?ml|toml|cfg|"
    r"sh|crc|md5|sha\d+|lock|log)|(dataset_infos?|dataset_dict|config|state)\.json",
    re.IGNORECASE,
)
"""Names of files that accompany data and are none."""


ONLY_SPLIT = "train"
_CARD_OPTIONS = {
    "sep": "delimiter",
    "delimiter": "delimiter",
    "column_names": "names",
    "names": "names",
    "quotechar": "quote",
    "escapechar": "escape",
    "encoding": "encoding",
    "field": "field",
}
"""What pandas and `datasets` call an option → our key of [dataset]."""
_NOT_DONE = {"skiprows", "skipfooter", "nrows", "comment", "skip_blank_lines", "sample_by"}
"""What would make other rows of a file, and has no key."""


@dataclass(frozen=True)
class Splits:
    files: Mapping[str, tuple[str, ...]]
    """Split → its files, as paths or addresses."""
    by_card: bool
    """Whether the dataset's card says which files make which split."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of [dataset], what the card says of how the files are read."""
    notes: tuple[str, ...] = ()
    """What the card says of that which is not done."""


def find_splits(
    address: str,
    *,
    config: str | None,
    revision: str | None = None,
    what: str,
    instead_of_script: str,
    read_card: Callable[[], str],
    known: Callable[[Exception], TidemillError | None] = lambda _: None,
) -> Splits:
    """Ask `datasets` for the splits of one config.

    `read_card` gives the text of the card that it read, or nothing. What it raises
    is put in words about `what`, unless `known` has better ones.

    Raises:
        DatasetError: there are none, or `datasets` cannot make sense of what lies there.
    """
    import datasets

    datasets.logging.set_verbosity_error()
    # In its own cache a prepared copy would answer for another revision when the Hub does not.
    with tempfile.TemporaryDirectory() as empty:
        try:
            builder = datasets.load_dataset_builder(address, name=config, revision=revision, cache_dir=empty)
        except Exception as e:  # What a card may hold makes it raise errors of any kind.
            raise known(e) or _meaning(e, what, instead_of_script) from e
    files = {str(name): tuple(map(str, paths)) for name, paths in (builder.config.data_files or {}).items()}
    if not files:
        raise DatasetError(f"{what} has no data files that can be read.")
    configs = _configs(read_card())
    own = next((found for found in configs if found.get("config_name", "default") == builder.config.name), {})
    notes = [f"The card says {name} = {own[name]!r}, which is not done." for name in sorted(_NOT_DONE & own.keys())]
    return Splits(files, any("data_files" in found for found in configs), options_of_card(own), tuple(notes))


def options_of_card(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of how a config's files are read, as pandas understands it, by the keys of [dataset]."""
    options = {ours: said[theirs] for theirs, ours in _CARD_OPTIONS.items() if said.get(theirs) is not None}
    if said.get("quoting") == csv.QUOTE_NONE:
        options["quote"] = ""
    # A header is None where there is none; left to be inferred, it is one where no names are given.
    header = said.get("header", "infer")
    if header is None or (header == "infer" and "names" in options):
        options["header"] = False
    return options


def saved_splits(folder: Path, what: str) -> Mapping[str, tuple[str, ...]] | None:
    """Split → its files, below a folder that `save_to_disk` of `datasets` wrote; None for any other folder.

    Raises:
        DatasetError: what was saved is incomplete.
    """
    splits = _saved_json(folder / "dataset_dict.json", what).get("splits")
    if isinstance(splits, list):
        return {name: _saved_files(folder, str(name), what) for name in splits}
    state = _saved_json(folder / "state.json", what)
    if "_data_files" not in state or not (folder / "dataset_info.json").is_file():
        return None
    return {state.get("_split") or ONLY_SPLIT: _saved_files(folder, "", what)}


def _saved_files(folder: Path, split: str, what: str) -> tuple[str, ...]:
    """The files that a saved split's state names: what lies beside them is of caches, or of what was saved before."""
    state = _saved_json(folder / split / "state.json", what)
    if state.get("_indices_data_files"):
        raise DatasetError(f"{what} has indices into its rows, as older versions of `datasets` save. Save it again.")
    names = [file["filename"] for file in state.get("_data_files", ())]
    missing = [name for name in names if not (folder / split / name).is_file()]
    if missing or not names:
        listed = ", ".join(missing) or "any data file"
        raise DatasetError(f"{what} lacks {listed}, which {Path(split, 'state.json')} should name. Save it again.")
    return tuple(Path(split, name).as_posix() for name in names)


def _saved_json(path: Path, what: str) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise DatasetError(f"{what} has a {path.name} that is not JSON: {e}. Save it again.") from e
    return facts if isinstance(facts, dict) else {}


def no_such(noun: str, asked: str, existing: Iterable[object], what: str) -> str:
    """That a split or config is not there, which ones are, and the likeliest."""
    names = [str(name) for name in existing]
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.0)
    return f"{what} has no {noun} {asked!r}; it has {', '.join(names)}. Set dataset.{noun} = {(near or names)[0]!r}."


def beside_split(
    splits: Mapping[str, Collection[str]], split: str, paths: Collection[str], *, where: str
) -> Iterator[LeftOut]:
    """What of `paths` is no part of a split, where the files' names decide on that.

    A file that belongs to another split is passed over without a word if its
    folder or its whole name says so, and named if a word within its name does.
    `where` is what a pattern of the same files begins with.
    """
    chosen = set(splits.get(split, ()))
    taken = chosen.union(*splits.values())
    formats = {_format_or_none(path) or PurePosixPath(path).suffix for path in taken}
    other_splits = {path: name for name, files in splits.items() if name != split for path in files}
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(set(paths) - chosen):
        if path in other_splits:
            if not _is_named_for(path, other_splits[path]):
                found[f"taken for the split {other_splits[path]!r} by a word in their names"].append(path)
        elif (why := _why_in_no_split(path, formats)) is not None:
            found[why].append(path)
    for number, (why, left_out) in enumerate(found.items(), start=1):
        pattern = f"{where}/**/*{PurePosixPath(left_out[0]).suffix}"
        remedy = f'To choose files by a pattern, set dataset.path = "{pattern}".' if number == len(found) else ""
        yield LeftOut(tuple(left_out), why, remedy)


def _why_in_no_split(path: str, formats: Collection[str]) -> str | None:
    """Why a file is in no split, if it may be data at all."""
    *folders, name = PurePosixPath(path).parts
    format_name = _format_or_none(path)
    if name.startswith(".") or any(folder.startswith((".", "__")) for folder in folders):
        return "hidden" if format_name else None
    if _ABOUT_THE_DATA.fullmatch(name):
        return None
    if not path.isprintable():
        return "with line breaks or other control characters in their names"
    if format_name is None:
        return "whose names say no format that can be read"
    if format_name not in formats:
        return f"of another format than {' and '.join(sorted(formats))}"
    return "in no split (words such as train and test in the names of others make the splits)"


def _is_named_for(path: str, split: str) -> bool:
    from datasets.data_files import SPLIT_KEYWORDS

    words = {split, *(word for name, keywords in SPLIT_KEYWORDS.items() if str(name) == split for word in keywords)}
    *folders, name = PurePosixPath(path).parts
    return not words.isdisjoint((*folders, re.split(r"[-_ ]?\d|\.", name)[0]))


def _format_or_none(path: str) -> str | None:
    try:
        return format_of(path)
    except FormatError:
        return None


def _configs(card: str) -> list[Mapping[str, Any]]:
    """What a card says of each config; nothing where it says something else than configs."""
    from huggingface_hub import DatasetCard

    if not card.lstrip().startswith("---"):
        return []
    configs = DatasetCard(card, ignore_metadata_errors=True).data.get("configs")
    return [found for found in configs or () if isinstance(found, Mapping)]


def _meaning(error: Exception, what: str, instead_of_script: str) -> DatasetError:
    import datasets

    text = str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if found := re.search(r"scripts are no longer supported, but found (\S+)", text):
        return DatasetError(f"{what} has a dataset script, {found[1]}, and scripts are not run. {instead_of_script}")
    if found := re.search(r"BuilderConfig '(.*)' not found\. Available: \[(.*)\]", text):
        existing = re.findall(r"'([^']*)'", found[2])
        return ChoiceMissing(no_such("config", found[1], existing, what), noun="config", existing=existing)
    if "Config name is missing" in text:
        configs = re.findall(r"'([^']*)'", text.partition("available configs:")[2].partition("]")[0])
        message = f"{what} has several configs: {', '.join(configs)}. Set dataset.config to one of them."
        return ChoiceMissing(message, noun="config", existing=configs)
    if isinstance(error, FileNotFoundError | datasets.exceptions.DataFilesNotFoundError):
        return DatasetError(f"{what} has no data files that can be read: {line}")
    if type(error).__module__.partition(".")[0] == "yaml":
        where = " ".join(text.split())
        return DatasetError(f"{what} has a card, README.md, whose YAML cannot be read: {where}. Mend the card.")
    return DatasetError(
        f"{what} cannot be read as a dataset, most likely for what its card, README.md, says: "
        f"{type(error).__name__}: {line}. Mend the card, or name the files by a pattern in dataset.path."
    )
