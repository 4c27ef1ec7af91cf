"""Answers of a given form: one of a few choices, or JSON of a schema, held while a model writes and checked after."""

from tidemill.structured.answers import AnswerSchema
from tidemill.structured.choices import check_choices
from tidemill.structured.grammar import Grammar, check_one_form
from tidemill.structured.matching import Matcher, Matchers, allowed_BV
from tidemill.structured.schemas import read_json_schema

__all__ = [
    "AnswerSchema",
    "Grammar",
    "Matcher",
    "Matchers",
    "allowed_BV",
    "check_choices",
    "check_one_form",
    "read_json_schema",
]
