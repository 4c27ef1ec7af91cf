"""Lists that two versions found, such as entities: of each label what both have, and what one of them alone."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.models.comparing import Lists, Pair
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import MOST_SHOWN
from tidemill.pictures.figures.subject import Subject
from tidemill.pictures.versions.two import Two


def by_label(subject: Subject, two: Two, comparison: Lists, pair: Pair) -> Iterator[Figure]:
    if comparison.label_of(pair) is None:
        return
    first, second = two.names
    counted = two.pairs(subject, (comparison, pair))
    yield Figure(
        id=f"{pair.name}-by-label",
        section=two.section,
        title=f"What of {pair.name} both found, by label",
        tells="Of each label, how many both versions found at the same place, and how many only one of them.",
        sql=counted.sql(f"""
            WITH matched AS ({comparison.matched(pair)}),
            shown AS (SELECT label, row_number() OVER (ORDER BY count(*) DESC, label) AS _place FROM matched
              GROUP BY label QUALIFY _place <= {MOST_SHOWN})
            SELECT label, CASE WHEN in_first AND in_second THEN 'both' WHEN in_first THEN 'only {first}'
              ELSE 'only {second}' END AS found_by, count(*) AS num_found
            FROM matched JOIN shown USING (label)
            GROUP BY label, found_by, _place ORDER BY _place, found_by
        """),
        kind="bars",
        axes=Axes(x="label", y="num_found", series="found_by", x_title="label", y_title="found"),
        notes=(f"The {MOST_SHOWN} most frequent labels are shown.",),
    )
