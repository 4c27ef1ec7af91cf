"""A card that people edited keeps their words: only our keys and the marked part change."""

from __future__ import annotations

import pytest
import yaml

from tidemill.errors import InputError
from tidemill.publishing.repositories.card import BEGIN, END, edited, metadata_of

CONFIGS = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}]
KEYS = {"configs": CONFIGS, "dataset_info": None}
THEIRS = """---
# what we agreed on
license: "mit"   # as the source
dataset_info:
  features:
  - name: id
    dtype: string
# ours
tags: [reviews, 'short texts']
---

# Our reviews

Written by hand. Ask before you use it.
"""


def published(text: str, part: str = "rows: 3") -> str:
    return edited(text, part, keys=KEYS, absent={"license": "apache-2.0", "tags": ["tidemill"]}, title="reviews")


def test_without_a_card_one_is_made():
    made = published("")

    assert metadata_of(made) == {"license": "apache-2.0", "tags": ["tidemill"], "configs": CONFIGS}
    assert made.endswith(f"\n# reviews\n\n{BEGIN}\n\nrows: 3\n\n{END}\n")


def test_every_line_of_theirs_stays_and_what_was_right_for_other_files_goes():
    made = published(THEIRS)
    gone = ["dataset_info:", "  features:", "  - name: id", "    dtype: string"]
    new = [line for line in made.splitlines() if line not in THEIRS.splitlines()]

    rest = iter(made.splitlines())
    assert all(line in rest for line in THEIRS.splitlines() if line not in gone)
    assert new == [
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        BEGIN,
        "rows: 3",
        END,
    ]
    assert "dataset_info" not in metadata_of(made)
    assert metadata_of(made)["license"] == "mit"


def test_a_second_publication_changes_the_marked_part_alone():
    first = published(THEIRS)
    edited_by_people = first.replace("Ask before", "Please ask before") + "\nA word at the end.\n"

    second = published(edited_by_people, "rows: 4")

    assert second == edited_by_people.replace("rows: 3", "rows: 4")
    assert published(second, "rows: 4") == second


def test_windows_line_ends_stay():
    made = published(THEIRS.replace("\n", "\r\n"))

    assert made.count("\n") == made.count("\r\n")
    assert metadata_of(made)["configs"] == CONFIGS


def test_a_card_without_metadata_gets_some():
    made = published("# Only words\n")

    assert yaml.safe_load(made.split("---\n")[1])["configs"] == CONFIGS
    assert "# Only words\n" in made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\nlicense: [mit\n---\n", "no YAML, line"),
        ("---\n- mit\n---\n", "has no keys"),
        (f"# Words\n{BEGIN}\nbut no end\n", "not each of these lines once"),
        (f"# Words\n{END}\n{BEGIN}\n", "not each of these lines once"),
    ],
)
def test_a_card_that_cannot_be_edited_without_losing_words_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        published(text)
