"""A result table, or a query over the lake, as a dataset on the Hub: a commit for each revision of the table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InputError, LakeError
from tidemill.lake import Cursor, Lake
from tidemill.lake.ledger import done_shards
from tidemill.lake.listings import target_shards
from tidemill.lake.pipelines import load_dataset, load_kept, load_results, load_spec
from tidemill.publishing.columns import Column, allowed, query_columns, table_columns
from tidemill.publishing.files import DataFile, file_of_query, files_of_shards, table_text, write_parquet
from tidemill.publishing.licences import Origin, dataset_origin, model_origin
from tidemill.publishing.lineage import DEFAULT, card_part, facts_of
from tidemill.publishing.proposal import Proposal, make_shipment, visibility
from tidemill.publishing.queries import judged
from tidemill.publishing.repositories.card import edited
from tidemill.publishing.repositories.manifest import CARD, Manifest, Part, PublishedFile, read_manifest
from tidemill.publishing.repositories.writing import Content, FileId, Head, Repository
from tidemill.reports.query import of_query
from tidemill.results.promotion import PROMOTED, existing_state, find_standing

_NAME = re.compile(r"\w+")
MOST_ATTEMPTS = 5


@dataclass(frozen=True)
class Asked:
    """What is to be published, and where in the repository."""

    public: bool = False
    query: str | None = None
    config: str = DEFAULT
    split: str | None = None
    with_text: bool | None = None

    def __post_init__(self) -> None:
        for option, name in (("--config", self.config), ("--split", self.split or "train")):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{option} {name} is no name of letters, digits and underscores.")


@dataclass(frozen=True)
class _Standing:
    """What the lake has of the promoted version."""

    version: str
    revision: str
    spec: Mapping[str, Any]
    dataset: Mapping[str, Any]
    columns: Sequence[Column]
    num_quarantined: int


@dataclass(frozen=True)
class _Rows:
    """What is published of the table: its columns and files, and those of the files that were written."""

    columns: Sequence[Column]
    files: Mapping[str, PublishedFile]
    contents: Mapping[str, Content]


def propose_table(pipeline: Pipeline, repository: Repository, asked: Asked, folder: Path) -> Proposal:
    """What publishing the table as it stands would send; its new files are written to `folder`.

    Raises:
        LakeError: there is no such table, or it is not complete.
        ConfigError: its texts may not be handed on, or the repository is public.
        InputError: the repository has what nobody may write over.
    """
    head = repository.head()
    manifest = read_manifest(repository, head)
    private = visibility(repository, head, manifest, public=asked.public)
    asked = replace(asked, split=asked.split or pipeline.dataset.split)
    name = f"{asked.config}/{asked.split}"
    _refuse_others(repository, manifest, name, pipeline.name)
    with Lake(pipeline.lake, read_only=True, scans=True) as lake:
        lake.seal()
        standing, origins, rows = _read(lake, pipeline, asked, manifest.files, head, folder)
    facts = facts_of(
        pipeline.name,
        standing.version,
        standing.spec,
        dataset={**standing.dataset, "key": pipeline.dataset.key, "keep": pipeline.dataset.keep},
        source=origins[0],
        model=origins[1],
        columns=rows.columns,
        query=asked.query,
        num_rows=sum(file.num_rows or 0 for file in rows.files.values()),
        num_quarantined=standing.num_quarantined,
    )
    part = Part(facts, rows.files)
    shipment = make_shipment(
        repository,
        head,
        manifest,
        name=name,
        part=part,
        contents=rows.contents,
        card=_card(repository, head, {**manifest.parts, name: part}, pipeline.name, origins[0]),
        message=f"{pipeline.name} {standing.version} at {standing.revision[:12]}",
    )
    told = {**facts, "config": asked.config, "split": asked.split, "num_files": len(rows.files)}
    return Proposal(repository, head, shipment, told, private)


def _refuse_others(repository: Repository, manifest: Manifest, name: str, pipeline: str) -> None:
    there = manifest.parts.get(name)
    if there is not None and there.facts["pipeline"] != pipeline:
        raise InputError(
            f"{repository.id} on the Hub has the pipeline {there.facts['pipeline']} as {name}. Give --config or "
            f"--split for {pipeline}, or --to another repository."
        )


def _read(
    lake: Lake,
    pipeline: Pipeline,
    asked: Asked,
    published: Mapping[str, PublishedFile],
    head: Head | None,
    folder: Path,
) -> tuple[_Standing, tuple[Origin, Origin], _Rows]:
    """The rows of one snapshot. The Hub is asked before that: housekeeping waits for its end."""
    with lake.snapshot() as cursor:
        standing = _standing(cursor, pipeline)
    for _ in range(MOST_ATTEMPTS):
        origins = (
            dataset_origin(standing.dataset, standing.revision),
            model_origin(standing.spec["model_path"], standing.spec["model"]),
        )
        with lake.snapshot() as cursor:
            now = _standing(cursor, pipeline)
            if now == standing:
                return standing, origins, _rows(cursor, pipeline, asked, now, origins[0], published, head, folder)
        standing = now
    raise LakeError(f"{pipeline.name} goes on changing while it is read. Publish when its run has ended.")


def _standing(cursor: Cursor, pipeline: Pipeline) -> _Standing:
    state = existing_state(cursor, pipeline.name)
    found = find_standing(cursor, pipeline.name, PROMOTED)
    if not found.is_complete:
        raise LakeError(
            f"{pipeline.name}: the promoted version {found.version} is not complete: {found.lacking}. Complete it with "
            "`tidemill run`, then publish."
        )
    spec = load_spec(cursor, pipeline.name, found.version) or {}
    columns = table_columns(
        load_kept(cursor, pipeline.name, found.version) or [],
        [source for source, _ in pipeline.dataset.kept[: len(pipeline.dataset.key)]],
        [name for name, _ in load_results(cursor, pipeline.name, found.version) or ()],
        [*spec["text"], *spec.get("text_pair", ())],
    )
    dataset = load_dataset(cursor, pipeline.name)
    return _Standing(found.version, state.target_revision, spec, dataset, columns, found.num_quarantined)


def _rows(
    cursor: Cursor,
    pipeline: Pipeline,
    asked: Asked,
    standing: _Standing,
    source: Origin,
    published: Mapping[str, PublishedFile],
    head: Head | None,
    folder: Path,
) -> _Rows:
    prefix = f"data/{'' if asked.config == DEFAULT else asked.config + '/'}{asked.split}"
    if asked.query is None:
        columns = allowed(standing.columns, source, with_text=asked.with_text)
        shards = target_shards(cursor, pipeline.name, standing.revision)
        done = done_shards(cursor, pipeline.name, standing.version)
        files = files_of_shards(shards, done, columns, standing.version, prefix)
        texts = {file.path: table_text(pipeline.name, columns, file.shards) for file in files}
    else:
        with of_query():
            query = judged(cursor, asked.query)
            found = query_columns(query.columns, query.types, standing.columns)
            columns = allowed(found, source, with_text=asked.with_text)
            text = f"SELECT {_named(columns)} FROM ({query.text()})"
            files = [file_of_query(cursor, text, [column.name for column in columns], prefix)]
        texts = {files[0].path: text}
    if not sum(file.num_rows for file in files):
        raise InputError(f"{pipeline.name} has no rows to publish.")
    with of_query() if asked.query is not None else nullcontext():
        return _written(cursor, columns, files, texts, published, head, folder)


def _named(columns: Sequence[Column]) -> str:
    from tidemill.lake.tables import identifier

    return ", ".join(identifier(column.name) for column in columns)


def _written(
    cursor: Cursor,
    columns: Sequence[Column],
    files: Sequence[DataFile],
    texts: Mapping[str, str],
    published: Mapping[str, PublishedFile],
    head: Head | None,
    folder: Path,
) -> _Rows:
    """Write the files that are not published yet as they are now."""
    told: dict[str, PublishedFile] = {}
    contents: dict[str, Content] = {}
    for number, file in enumerate(files):
        before = published.get(file.path)
        if before is not None and before.of == file.of:
            told[file.path] = before
            continue
        path = folder / f"{number}.parquet"
        write_parquet(cursor, texts[file.path], path)
        told[file.path] = PublishedFile(file.of, FileId.of(path), file.num_rows)
        there = head.files.get(file.path) if head else None
        if there is not None and before is not None and told[file.path].id.is_of(there):
            path.unlink()
        else:
            contents[file.path] = path
    return _Rows(columns, told, contents)


def _card(repository: Repository, head: Head | None, parts: Mapping[str, Part], title: str, source: Origin) -> str:
    text = read_card(repository, head)
    return edited(
        text,
        card_part({name: part.facts for name, part in parts.items()}),
        # Sizes and features that were right for other files would keep `datasets` from reading these.
        keys={"configs": _configs(parts), "dataset_info": None},
        absent={"tags": ["tidemill"], **({"license": source.licence} if source.licence else {})},
        title=title,
    )


def read_card(repository: Repository, head: Head | None) -> str:
    """The repository's card as it is; "" where there is none.

    Raises:
        InputError: it is no text.
    """
    if head is None or CARD not in head.files:
        return ""
    try:
        return repository.read(CARD, head.sha).decode()
    except UnicodeDecodeError as e:
        raise InputError(f"{CARD} of {repository.id} on the Hub is not UTF-8. Mend it there, and publish again.") from e


def _configs(parts: Mapping[str, Part]) -> list[dict[str, Any]]:
    configs: dict[str, list[dict[str, str]]] = {}
    for name in sorted(parts):
        config, _, split = name.partition("/")
        below = "data" if config == DEFAULT else f"data/{config}"
        configs.setdefault(config, []).append({"split": split, "path": f"{below}/{split}-*.parquet"})
    return [{"config_name": config, "data_files": files} for config, files in configs.items()]
