"""A string that knows which of its places are a row's own text, and not words of a template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Characters `start` to `stop` are a row's; `may_go` says whether they are shortened where a prompt is too long."""

    start: int
    stop: int
    may_go: bool = True


@dataclass(frozen=True)
class Marked:
    """`spans` are in order, and apart; None where it cannot be told what is the row's."""

    text: str
    spans: tuple[Span, ...] | None = ()

    @classmethod
    def joined(cls, pieces: Iterable[str | Marked]) -> Marked:
        """Words of a template, and marked strings between them."""
        texts: list[str] = []
        spans: list[Span] = []
        at = 0
        for piece in pieces:
            if isinstance(piece, Marked):
                assert piece.spans is not None, "what is put together is known"
                spans += [Span(at + span.start, at + span.stop, span.may_go) for span in piece.spans]
            texts.append(piece if isinstance(piece, str) else piece.text)
            at += len(texts[-1])
        return cls("".join(texts), tuple(spans))

    @classmethod
    def of_row(cls, text: str) -> Marked:
        return cls(text, (Span(0, len(text)),))

    def within(self, start: int, stop: int) -> Marked:
        """A part of it, with the spans as far as they lie there."""
        assert self.spans is not None
        cut = (Span(max(s.start, start) - start, min(s.stop, stop) - start, s.may_go) for s in self.spans)
        return Marked(self.text[start:stop], tuple(span for span in cut if span.start < span.stop))

    def kept_whole(self) -> Marked:
        """The same, of which nothing is shortened."""
        spans = self.spans and tuple(span._replace(may_go=False) for span in self.spans)
        return Marked(self.text, spans)

    def stretches(self) -> Iterator[tuple[str, Span | None]]:
        """The whole text in order: each of the row's own places with its span, and the words between them with none."""
        assert self.spans is not None
        at = 0
        for span in self.spans:
            if at < span.start:
                yield self.text[at : span.start], None
            yield self.text[span.start : span.stop], span
            at = span.stop
        if at < len(self.text):
            yield self.text[at:], None
