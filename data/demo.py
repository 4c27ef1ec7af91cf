"""The demo: review snippets become a SQL table of sentiments, beside the ratings that people gave.

Every step is a command that can be typed, shown before it runs. The first step
that fails ends the demo with its exit code.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = "data/pipelines/reviews.toml"

LABELS = """
SELECT domain, count(*) FILTER (label = 'NEGATIVE') AS negative,
       count(*) FILTER (label = 'POSITIVE') AS positive, round(avg(score), 3) AS mean_score
FROM reviews GROUP BY domain ORDER BY domain"""

AGREEMENT = """
WITH rated AS (SELECT domain, part = 'test' AS unseen, (label = 'POSITIVE') = (rating > 0) AS agrees
               FROM reviews WHERE rating <> 0)
SELECT coalesce(domain, 'all') AS domain, count(*) AS rows, round(100 * avg(agrees::INT), 1) AS agree_percent,
       count(*) FILTER (unseen) AS unseen_rows,
       round(100 * avg(agrees::INT) FILTER (unseen), 1) AS unseen_agree_percent
FROM rated GROUP BY ROLLUP (domain) ORDER BY grouping(domain), domain"""

NEXT = (
    ("what another run would do", f"plan {PIPELINE}"),
    ("the labels furthest from the rating", f'sql {PIPELINE} "{{furthest}}"'),
    ("where the table stands", f"status {PIPELINE}"),
    ("every invariant, rechecked", f"verify {PIPELINE}"),
    ("longer texts: e-mails", "run data/pipelines/emails.toml"),
)
FURTHEST = "SELECT id, rating, label, score FROM reviews WHERE label = 'NEGATIVE' ORDER BY rating DESC LIMIT 5"


def main() -> None:
    say("Tidemill demo. 8 Parquet files of review snippets, each rated by people, and a small sentiment model.")
    say("First the table: read, tokenize, predict and commit, shard by shard, as Prefect tasks.")
    run("run", PIPELINE)
    say("\nWhat the model says, by domain:")
    run("sql", PIPELINE, LABELS)
    say("How often the label has the sign of the human rating (rows rated exactly 0 are left out).")
    say("Unseen rows are those with part = 'test': the model was not trained on them.")
    run("sql", PIPELINE, AGREEMENT)
    say("What to type next:")
    for what, command in NEXT:
        say(f"  # {what}\n  {program()} {command.format(furthest=FURTHEST)}")


def run(*args: str) -> None:
    """Run one command of Tidemill from the repository's root, in whose .tidemill the table then lies."""
    shown = " ".join(f'"{arg.strip()}"' if " " in arg else arg for arg in args)
    say(f"\n$ {program()} {shown}\n")
    done = subprocess.run([sys.executable, "-m", "tidemill.cli.main", *args], cwd=ROOT, check=False)
    if done.returncode != 0:
        say(f"\nThe demo stops here: `tidemill {args[0]}` ended with exit code {done.returncode}.")
        sys.exit(done.returncode)


def program() -> str:
    """How the command is typed here: the environment that `make` sets up is not activated."""
    installed = Path(sys.executable).with_name("tidemill")
    return str(installed.relative_to(ROOT)) if installed.is_relative_to(ROOT) else "tidemill"


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
