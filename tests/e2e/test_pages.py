"""Every command, query and script in the documentation is run, page by page, as a reader would type it.

What a page needs lies in a folder that is put back before each: the bundled data and model, but smaller, and a
lake with two versions of `reviews`. A block that cannot be run says why in a comment above it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import environment
from tests.hub.server import HubServer, files_in
from tests.pages import DOCS, PAGES, SHOWN, Block, blocks, name_of
from tests.pipelines import MODEL, ROOT
from tests.prepared import Prepared
from tests.s3 import free_ports
from tests.shell import forked_commands, run_script
from tests.variants import variants
from tidemill.flows import stack

FILES = ("00000", "00001", "00003")
ROWS_A_FILE = 8
JULY_2024 = 1_720_000_000
HUB_MODEL = "tests/small-sentiment"
LANGUAGES = {"", "sh", "console", "python", "sql", "toml", "text", "json"}
TYPED = [page for page in PAGES if any(block.is_typed for block in blocks(page))]
LONG = {
    f"docs/{page}.md"
    for page in (
        "commands/backfill",
        "commands/bench",
        "commands/cancel",
        "commands/compare",
        "commands/deploy",
        "commands/doctor",
        "commands/down",
        "commands/forget",
        "commands/gc",
        "commands/promote",
        "commands/repair",
        "commands/report",
        "commands/run",
        "history",
        "see",
        "tutorial",
        "versions",
    )
}
"""Pages that take longer to be typed than the rest together."""
TYPED.sort(key=lambda page: page.stem == "down")  # The others share what it ends.
FROM_NOTHING = {"README.md", "docs/tutorial.md"}
"""Pages that begin without a lake, and whose outputs are looked at."""
AT_A_SERVER = {"deploy": "tidemill up\nexport PREFECT_API_URL=http://127.0.0.1:$STACK_PORT/api\n"}
AT_A_SERVER |= dict.fromkeys(("run", "up"), "tidemill up\n")
"""What was typed before these pages are read."""
COMMANDS = r"""
set -eo pipefail
quick="--set inference.engine=torch --set inference.token_budget=1024"
tidemill() {
    case $1 in
        up)
            TIDEMILL_HOME=$STACK command tidemill "$@" --port $STACK_PORT
            mkdir -p .tidemill && cp -p $STACK/stack.json $STACK/prefect_auth .tidemill ;;
        down) TIDEMILL_HOME=$STACK command tidemill "$@" ;;
        run | backfill) [ "$PREFECT_API_URL" ] || set -- "$@" --direct; command tidemill "$@" $quick ;;
        deploy) deploy "$@" --yes ;;
        bench) command tidemill "$@" $quick --rows 30 ;;
        *) command tidemill "$@" ;;
    esac
}
deploy() {
    for try in 1 2 3 4; do
        command tidemill "$@" && return  # The server may be busy: the same command goes on.
    done
    command tidemill "$@"
}
version() {
    command tidemill sql reviews.toml --format csv \
        "SELECT version FROM _versions WHERE pipeline = 'reviews' ORDER BY created_at $1 LIMIT 1" | tail -1
}
backfill() {
    command tidemill sql reviews.toml --format csv "SELECT max_by(backfill_id, created_at) FROM _backfills" | tail -1
}
snapshot() {
    command tidemill sql reviews.toml --format csv "SELECT max(snapshot_id) FROM ducklake_snapshots('lake')" | tail -1
}
query() {
    read -r -d '' query || true
    case $query in
        *ATTACH*) QUERY=$query python-file attached.py ;;
        *) tidemill sql reviews.toml "$query" ;;
    esac
}
"""
"""The pages share a Prefect server, whose port is free. A temporary one is for others to test: it takes its time."""
ATTACHED = """\
import os, duckdb
from tidemill.lake.ducklake.connection import extension_file
connection = duckdb.connect()
for name in ("ducklake", "sqlite_scanner"):
    connection.execute(f"LOAD '{extension_file(name)}'")
for statement in connection.extract_statements(os.environ["QUERY"]):
    if "INSTALL" not in statement.query.upper():
        connection.execute(statement)
"""
"""A page's SQL for DuckDB by itself, whose extensions are those of the packages."""
STAND_INS = {
    r"33ed(8d4b)?\b": "$(version)",
    r"(310e(0959)?|1f3a90c2)\b": "$(version desc)",
    r"\b6f1d09ab\b": "$(backfill)",
    # A lake that was made a moment ago has no last week.
    r"now\(\) - INTERVAL \d+ \w+|TIMESTAMPTZ '[\d :+-]+'": "now()",
    r"\b412\b": "$(snapshot)",
    r"\b420[01]\b": "$STACK_PORT",
    r"/new\b": "$PWD/new",
}
"""What is typed in place of a page's own versions, times and ports."""
PREPARING = """\
mkdir feedback labels
printf 'label,name\\nPOSITIVE,good\\nNEGATIVE,bad\\n' > labels/names.csv
cat > feedback/2026-01.csv <<'END'
id,day,stars,comment
1,2026-01-03,5,"Arrived a day early and works exactly as described."
2,2026-01-07,1,"Broke after two days. Support never answered."
4,2026-01-15,2,"Too loud for a bedroom, and the fan rattles."
6,2026-01-30,3,Fine, but late
END
tidemill run reviews.toml
tidemill run feedback.toml --set limits.max_quarantine=0.5
tidemill backfill reviews.toml --files '*00000*' --set tokenizer.max_length=8
priced="--set cost.per_hour=1000 --max-cost 0.000001"
tidemill backfill reviews.toml --files '*00001*' --set tokenizer.max_length=8 $priced || test $? = 1
"""


@dataclass(frozen=True)
class Reader:
    """Somebody at a shell, who types what is on a page."""

    prepared: Prepared
    environment: dict[str, str]

    def types(self, page: Path) -> None:
        folder = self.prepared.put_back()
        if name_of(page) in FROM_NOTHING:
            for made in (".tidemill", "feedback"):
                shutil.rmtree(folder / made)
            (folder / "feedback.toml").unlink()
        (folder / ".blocks").mkdir()
        script = AT_A_SERVER.get(page.stem, "") + "".join(self._script(folder, page))
        output = typed(folder, script, self.environment)
        if name_of(page) in FROM_NOTHING:
            printed = set(map(without_numbers, output.splitlines()))
            for block in blocks(page):
                assert [line for line in block.printed if without_numbers(line) not in printed] == [], output

    def _script(self, folder: Path, page: Path) -> Iterator[str]:
        """A page as lines of a script of bash, block by block. Python's are the cells of one notebook."""
        cells: list[str] = []
        for block in blocks(page):
            if block.why_not_run is not None:
                continue
            path = folder / ".blocks" / f"{block.line}"
            path.write_text(as_typed(block))
            if block.language == "python":
                cells.append(str(path))
            elif block.language == "toml":
                yield toml(block, path)
            else:
                yield f"echo '--- {name_of(page)}:{block.line}'\n"
                yield ending(f". {path}", block.exit_code)
        if cells:
            yield f"python-file {' '.join(cells)}\n"


def as_typed(block: Block) -> str:
    text = block.commands
    for pattern, word in STAND_INS.items():
        text = re.sub(pattern, word, text)
    escaped = text.replace("`", r"\`")
    return f"query <<END_OF_SQL\n{escaped}END_OF_SQL\n" if block.language == "sql" else text


def ending(command: str, exit_code: int) -> str:
    return f"set +e; {command}; code=$?; set -e; test $code = {exit_code}\n" if exit_code else f"{command}\n"


def toml(block: Block, path: Path) -> str:
    """A pipeline file is written where its page names it, if it is not there yet; a part of one is added to one."""
    if "name = " not in block.text:
        return f"cat {path} >> reviews.toml\n"
    return f"[ -e {block.file} ] || cp {path} {block.file}\n" if block.file else ""


def without_numbers(line: str) -> str:
    """A line less what the model, the machine and the day make of it, and less what the folder's few rows do."""
    counted = re.sub(r"(?<![a-z\d])[a-f\d]{8,12}\b|\d[\d,.]*|…", "#", line)
    return re.sub(r", # quarantined| and # more", "", counted)


def typed(folder: Path, script: str, environment: dict[str, str]) -> str:
    """What a script of bash printed; it has to succeed."""
    path = folder / "page.script"
    path.write_text(COMMANDS + script)
    code, output = run_script(path, folder, environment)
    assert code == 0, f"exit code {code}\n{output[-6000:]}"
    return output


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, _hub_server: HubServer) -> Iterator[Reader]:
    base = tmp_path_factory.mktemp("pages")
    [port] = free_ports(1)
    folder = base / "folder"
    lay_out(folder)
    commit_model(_hub_server)
    home = base / "stack"
    with forked_commands(base / "bin") as commands:
        own = environment(base, hub=os.environ["HF_ENDPOINT"], STACK=str(home), STACK_PORT=str(port))
        own |= {
            "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ALERTS_URL": "http://127.0.0.1:9/",
        }
        del own["TIDEMILL_HOME"]
        typed(folder, PREPARING, own)
        try:
            yield Reader(Prepared(folder), own)
        finally:
            stack.stop(home)


def lay_out(folder: Path) -> None:
    """The bundled data and model, but smaller, and the pages' files."""
    for name in ("reviews", "emails"):
        (folder / "data" / name).mkdir(parents=True)
        for path in [ROOT / "data" / name / f"{name}-{number}-of-00008.parquet" for number in FILES]:
            rows = pq.read_table(path).slice(0, ROWS_A_FILE).to_pandas()
            if (name, path.name[8:13]) == ("reviews", FILES[-1]):
                rows.loc[ROWS_A_FILE - 1, "text"] = None  # For the quarantine.
            small = folder / "data" / name / path.name
            pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), small)
            os.utime(small, (JULY_2024, JULY_2024))
    shutil.copytree(MODEL, folder / "data" / "models" / "tiny-sentiment")
    shutil.copytree(ROOT / "data" / "pipelines", folder / "data" / "pipelines")
    bundled = folder / "data" / "pipelines" / "reviews.toml"
    # A model with revisions is one on the Hub.
    on_hub = re.sub(r'path = ".*tiny-sentiment"', f'path = "{HUB_MODEL}"', bundled.read_text())
    on_hub += "\n[limits]\nmax_quarantine = 0.5\n"
    bundled.write_text(on_hub)
    for name in ("reviews.toml", "pipeline.toml"):
        (folder / name).write_text(re.sub(r'path = "[^"]*reviews/', 'path = "data/reviews/', on_hub))
    (folder / "attached.py").write_text(ATTACHED)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    (folder / "feedback.toml").write_text(
        next(block.text for block in blocks(DOCS / "tutorial.md") if block.file == "feedback.toml")
    )


def commit_model(hub: HubServer) -> None:
    """The small model on the Hub, which two tags say is another one."""
    repo = hub.add_model(HUB_MODEL)
    repo.commit(files_in(MODEL))
    other = (MODEL / "config.json").read_text().replace('"POSITIVE"', '"GOOD"')
    main = repo.branches["main"]
    next_commit = repo.commit({"config.json": other.encode()})
    repo.branch("main", main)
    for tag in ("v2", "v2.1"):
        repo.tag(tag, next_commit)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_says_why_not(page):
    for block in blocks(page):
        assert block.language in LANGUAGES
        assert re.fullmatch(r"|exits \d|not run: .+", block.mark), block.mark
        assert block.language not in SHOWN or not re.search(r"^(\$ )?tidemill ", block.text, re.MULTILINE)


@pytest.mark.parametrize("page", variants(TYPED, [page for page in TYPED if name_of(page) not in LONG]), ids=name_of)
def test_what_a_page_says_to_type_can_be_typed(reader, page):
    reader.types(page)
