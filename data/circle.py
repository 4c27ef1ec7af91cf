"""The circle: labels that people gave become a better model, and the table shows what it says.

A head is trained on a few labelled e-mails and computes a table. Then one is
trained on more of them, computed beside it, held against it on e-mails that
neither has met, and promoted. With `--share OWNER` table and model go to the
Hub and are read back by the libraries that everyone has. At the end a service
answers. Every step is a command that can be typed; what comes back from each
place has to be what the table says.

With `--reviews` a head is trained on bundled reviews instead, which the base was
made of already: no rise is to be had there, and the comparison says whether the
new one is worse.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
SHARE_HELD_OUT = 0.2
TOLERANCE = 0.02
"""How far scores may be from the table's: it may have been computed in 16 bits."""

Texts = dict[str, str]
Said = dict[str, tuple[str, float]]
"""By an e-mail's id: its text; its label and the score of that."""

LAKE = """[lake]
catalog = "sqlite:{folder}/lake.sqlite"
data = "{folder}/lake"
"""
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
"""
OPINION = "CASE WHEN rating > 0 THEN 'POSITIVE' ELSE 'NEGATIVE' END"
REVIEWS_TRAINING = """name = "opinions"
[data]
sql = "SELECT id, text, {opinion} AS label FROM read_parquet('{reviews}') WHERE rating <> 0"
lakes = ["opinions.toml"]
allow = ["{allowed}"]
key = ["id"]
max_rows = {many}
[base]
path = "{base}"
[method]
type = "head"
max_length = {length}
"""
REVIEWS_PIPELINE = """name = "opinions"
[dataset]
path = "{reviews}"
text = "text"
key = ["id"]
keep = ["domain", "rating"]
[model]
path = "{base}"
[tokenizer]
max_length = {length}
"""


def main(words: Sequence[str]) -> None:
    options = parsed(words)
    folder = Path(options.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.reviews:
        of_reviews(folder, options)
    else:
        of_emails(folder, options)


def of_reviews(folder: Path, options: argparse.Namespace) -> None:
    reviews = Path(options.reviews).absolute()
    facts = {"reviews": reviews, "allowed": reviews.parent, "base": options.base, "many": options.many}
    facts |= {"folder": folder, "length": options.max_length, "opinion": OPINION}
    pipeline = written(folder / "opinions.toml", REVIEWS_PIPELINE, facts)
    training = written(folder / "opinions-training.toml", REVIEWS_TRAINING, facts)
    say("What the base says of the reviews, as a table:")
    run("run", pipeline, "--direct")
    say("A head that is trained anew on what people said of them:")
    run("train", training, "-o", folder / "opinions")
    say("Computed beside the base, and held against it on reviews that the head did not learn from:")
    run("backfill", pipeline, "--model-path", folder / "opinions", "--yes", "--direct")
    versions = [version["version"] for version in asked("status", pipeline)["versions"]]
    truth = f"SELECT id, {OPINION} FROM opinions WHERE rating <> 0"
    run("compare", pipeline, versions[0], versions[-1], "--truth", truth, "--by", "domain", "--examples", "0")


def of_emails(folder: Path, options: argparse.Namespace) -> None:
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
    versions = [version["version"] for version in asked("status", pipeline)["versions"]]
    run("compare", pipeline, versions[0], versions[-1], "--truth", "spam_or_ham", "--examples", "0")
    say("Shown from now on:")
    run("promote", pipeline, versions[-1], "--truth", "spam_or_ham")
    run("sql", pipeline, "SELECT label, spam_or_ham, count(*) AS rows FROM spam GROUP BY ALL ORDER BY ALL")

    rows = asked("sql", pipeline, f"SELECT id, label, score FROM spam ORDER BY id LIMIT {options.asked}")
    texts = texts_of(options.files, {row["id"] for row in rows})
    table = said_of(rows, texts)
    if options.share:
        say("On the Hub, the table as a dataset and the model, and read back from there into an empty folder:")
        share(pipeline, folder / "many", options.share, table, texts, options.max_length)
    say("Asked over HTTP:")
    with served(pipeline) as (address, token):
        hold("The service", answers(address, token, texts), table)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--files", default=str(ROOT / "data/emails/*.parquet"), help="the e-mails")
    parser.add_argument(
        "--reviews",
        nargs="?",
        const=str(ROOT / "data/reviews/reviews-0000[01]-of-00008.parquet"),
        help="with reviews in place of e-mails, and which",
    )
    parser.add_argument("--base", default=str(ROOT / "data/models/tiny-sentiment"), help="the model to begin with")
    parser.add_argument("--folder", default=str(ROOT / ".tidemill/circle"), help="where everything is put")
    parser.add_argument("--few", type=int, default=200, help="labels of the first model")
    parser.add_argument("--many", type=int, default=1200, help="labels of the second one")
    parser.add_argument("--share", metavar="OWNER", help="whose repositories on the Hub get table and model")
    parser.add_argument("--asked", type=int, default=200, help="e-mails that model and service are asked about")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text")
    return parser.parse_args(words)


def written(path: Path, template: str, facts: dict[str, object]) -> Path:
    path.write_text((template + LAKE).format(**facts), encoding="utf-8")
    return path


def run(*args: object) -> None:
    """Run one command of Tidemill; the first that fails ends the circle with its exit code."""
    words = list(map(str, args))
    say("\n$ tidemill " + " ".join(f'"{word}"' if " " in word else word for word in words) + "\n")
    done = tidemill(words)
    if done.returncode != 0:
        say(f"\nThe circle stops here: `tidemill {words[0]}` ended with exit code {done.returncode}.")
        sys.exit(done.returncode)


def asked(*args: object) -> Any:
    return json.loads(tidemill([*map(str, args), "--json"], asked=True).stdout)


def tidemill(words: Sequence[str], *, asked: bool = False) -> subprocess.CompletedProcess[str]:
    """A command as it is typed; where it is `asked`, its output is for this script."""
    command = [sys.executable, "-m", "tidemill.cli.main", *words]
    return subprocess.run(command, cwd=ROOT, check=asked, text=True, stdout=subprocess.PIPE if asked else None)


def texts_of(files: str, keys: Set[str]) -> Texts:
    import pyarrow.parquet as pq

    rows = pq.read_table(sorted(glob.glob(files)), columns=["id", "text"]).to_pylist()
    return {row["id"]: row["text"] for row in rows if row["id"] in keys}


def said_of(rows: Sequence[dict[str, Any]], texts: Texts) -> Said:
    return {row["id"]: (row["label"], row["score"]) for row in rows if row["id"] in texts}


def share(pipeline: Path, model: Path, owner: str, table: Said, texts: Texts, max_length: int) -> None:
    import datasets

    run("publish", pipeline, "--to", f"{owner}/spam-table", "--yes")
    run("publish", "--model", model, "--to", f"{owner}/spam", "--yes")
    with tempfile.TemporaryDirectory() as empty:
        rows = datasets.load_dataset(f"{owner}/spam-table", split="train", cache_dir=empty)
        hold("`datasets.load_dataset`", said_of(rows.to_list(), texts), table)
        hold("`from_pretrained`", predictions(f"{owner}/spam", empty, texts, max_length), table)


def predictions(model: str, cache: str, texts: Texts, max_length: int) -> Said:
    """By Transformers alone, as anyone would ask a model of the Hub."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, cache_dir=cache)
    loaded = AutoModelForSequenceClassification.from_pretrained(model, cache_dir=cache).eval()
    found: Said = {}
    for key, text in texts.items():
        inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            score, label = loaded(**inputs).logits.softmax(-1)[0].max(-1)
        found[key] = loaded.config.id2label[int(label)], float(score)
    return found


@contextmanager
def served(pipeline: Path) -> Iterator[tuple[str, str]]:
    """`tidemill serve` on a port that is free; its address and its token."""
    token = secrets.token_urlsafe()
    command = [sys.executable, "-m", "tidemill.cli.main", "serve", str(pipeline), "--port", "0"]
    say(f"\n$ tidemill serve {pipeline} --port 0\n")
    environment = {**os.environ, "TIDEMILL_TOKEN": token}
    service = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)
    try:
        yield listening(service), token
    finally:
        service.terminate()
        service.wait()


def listening(service: subprocess.Popen[str]) -> str:
    for line in service.stdout or ():
        say(line.rstrip())
        if found := re.match(r"Serving at (\S+)\. ", line):
            return found[1]
    raise SystemExit(f"The circle stops here: `tidemill serve` ended with exit code {service.wait()}.")


def answers(address: str, token: str, texts: Texts) -> Said:
    head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"inputs": list(texts.values())}).encode()
    with urlopen(Request(f"{address}/predict", body, head)) as response:
        rows = json.load(response)
    return {key: (row["label"], row["score"]) for key, row in zip(texts, rows, strict=True)}


def hold(where: str, found: Said, table: Said) -> None:
    """Hold what was answered elsewhere against the table; another answer ends the circle."""
    if found.keys() != table.keys():
        raise SystemExit(f"{where} answers {len(found):,} e-mails, and the table has {len(table):,} of them.")
    far = max(distance(found[key], table[key]) for key in table)
    verdict = f"{where} says what the table says of {len(table):,} e-mails: scores differ by {far:.6f} at most."
    if far > TOLERANCE:
        raise SystemExit(f"{where} says something else than the table: a score differs by {far:.4f}.")
    say(verdict)


def distance(one: tuple[str, float], other: tuple[str, float]) -> float:
    """Between the scores of one label; of two labels, those of a row are 1 together."""
    return abs(one[1] - (other[1] if one[0] == other[0] else 1 - other[1]))


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
