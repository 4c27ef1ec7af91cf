"""Texts with the places of entities marked: nothing of a text is lost or shown twice, whatever the places are."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidemill.pictures.page.places import LONGEST_SHOWN, Piece, marked, pieces


def entity(start: int, end: int, name: str = "PER") -> dict[str, Any]:
    return {"entity": name, "start": start, "end": end}


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(-3, 35), st.integers(-3, 35), st.sampled_from("AB"))))
def test_the_pieces_together_are_the_text_and_each_letter_has_the_types_that_lie_over_it(text, spans):
    found = pieces(text, [entity(*span) for span in spans])

    assert "".join(piece.text for piece in found) == text
    types = [set(piece.types) for piece in found for _ in piece.text]
    assert types == [{name for start, end, name in spans if start <= at < end} for at in range(len(text))]


def test_offsets_count_code_points_and_not_bytes_or_half_letters():
    text = "😀 Müller 🇩🇪 Ab"

    assert pieces(text, [entity(2, 8), entity(9, 11, "LOC")]) == [
        Piece("😀 "),
        Piece("Müller", ("PER",)),
        Piece(" "),
        Piece("🇩🇪", ("LOC",)),
        Piece(" Ab"),
    ]


def test_an_empty_place_has_its_type_and_overlapping_ones_share_a_piece():
    assert pieces("Anna Bell", [entity(4, 4, "X"), entity(0, 9), entity(5, 9, "ORG")]) == [
        Piece("Anna", ("PER",)),
        Piece("", ("X",)),
        Piece(" ", ("PER",)),
        Piece("Bell", ("PER", "ORG")),
    ]


def test_tokens_of_one_entity_that_follow_each_other_are_one_mark():
    assert pieces("Annabell", [entity(0, 4), entity(4, 8)]) == [Piece("Annabell", ("PER",))]


def test_markup_in_texts_and_types_is_shown_letter_by_letter():
    shown = marked("<b>A</b>", [entity(3, 4, "<script>")], {"<script>": 1})

    assert "&lt;b&gt;" in shown
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown


def test_a_long_text_is_cut_and_what_is_left_out_is_counted():
    text = "a" * LONGEST_SHOWN + "Anna"

    assert "… 4 more characters, with 1 entities" in marked(text, [entity(LONGEST_SHOWN + 1, LONGEST_SHOWN + 4)], {})


def test_an_entity_without_a_place_is_not_marked_and_the_others_are():
    without = {"entity": "LOC", "start": None, "end": None}

    assert marked("Anna", [entity(0, 4), without], {}) == marked("Anna", [entity(0, 4)], {})
