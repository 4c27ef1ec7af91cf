"""The circle: labels that people gave become a better model, and the table shows what it says.

A head is trained on a few labelled e-mails and computes a table. Then one is
trained on more of them, computed beside it, held against it on e-mails that
neither has met, and promoted. Every step is a command that can be typed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARE_HELD_OUT = 0.2

TRAINING = """name = "spam"
[data]
path = "{files}"
text = "text"
label = "label"
key = ["id"]
held_out = {held_out}
max_rows = {rows}
[base]
path = "{base}"
[method]
type = "head"
max_length = {length}
[lake]
catalog = "sqlite:{folder}/lake.sqlite"
data = "{folder}/lake"
"""
PIPELINE = """name = "spam"
[dataset]
path = "{files}"
text = "text"
key = ["id"]
keep = ["subject", "label as spam_or_ham"]
[model]
path = "{folder}/few"
[tokenizer]
max_length = {length}
[lake]
catalog = "sqlite:{folder}/lake.sqlite"
data = "{folder}/lake"
"""


def main(words: Sequence[str]) -> None:
    options = parsed(words)
    folder = Path(options.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"files": options.files, "base": options.base, "folder": folder, "length": options.max_length}
    pipeline = written(folder / "spam.toml", PIPELINE, facts)
    few, many = (
        written(folder / f"{name}.toml", TRAINING, {**facts, "rows": rows, "held_out": SHARE_HELD_OUT})
        for name, rows in (("few", options.few), ("many", options.many))
    )

    say(f"A head on {options.few:,} e-mails that people called ham or spam, over an encoder that stays as it is:")
    run("train", few, "-o", folder / "few")
    say("What it says of all e-mails, as a table:")
    run("run", pipeline, "--direct")
    say(f"Another one on {options.many:,}; what the encoder makes of a text is not computed again:")
    run("train", many, "-o", folder / "many")
    say("Computed beside the first, and held against it on e-mails that neither learned from:")
    run("backfill", pipeline, "--model-path", folder / "many", "--yes", "--direct")
    versions = [version["version"] for version in facts_of("status", pipeline)["versions"]]
    run("compare", pipeline, versions[0], versions[-1], "--truth", "spam_or_ham", "--examples", "0")
    say("Shown from now on:")
    run("promote", pipeline, versions[-1], "--truth", "spam_or_ham")
    run("sql", pipeline, "SELECT label, spam_or_ham, count(*) AS rows FROM spam GROUP BY ALL ORDER BY ALL")


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--files", default=str(ROOT / "data/emails/*.parquet"), help="the e-mails")
    parser.add_argument("--base", default=str(ROOT / "data/models/tiny-sentiment"), help="the model to begin with")
    parser.add_argument("--folder", default=str(ROOT / ".tidemill/circle"), help="where everything is put")
    parser.add_argument("--few", type=int, default=200, help="labels of the first model")
    parser.add_argument("--many", type=int, default=1200, help="labels of the second one")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text")
    return parser.parse_args(words)


def written(path: Path, template: str, facts: dict[str, object]) -> Path:
    path.write_text(template.format(**facts), encoding="utf-8")
    return path


def run(*args: object) -> None:
    """Run one command of Tidemill; the first that fails ends the circle with its exit code."""
    words = list(map(str, args))
    say("\n$ tidemill " + " ".join(f'"{word}"' if " " in word else word for word in words) + "\n")
    done = tidemill(words)
    if done.returncode != 0:
        say(f"\nThe circle stops here: `tidemill {words[0]}` ended with exit code {done.returncode}.")
        sys.exit(done.returncode)


def facts_of(*args: object) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads(tidemill([*map(str, args), "--json"], asked=True).stdout)
    return found


def tidemill(words: Sequence[str], *, asked: bool = False) -> subprocess.CompletedProcess[str]:
    """A command as it is typed; where it is `asked`, its output is for this script."""
    command = [sys.executable, "-m", "tidemill.cli.main", *words]
    return subprocess.run(command, cwd=ROOT, check=asked, text=True, stdout=subprocess.PIPE if asked else None)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
