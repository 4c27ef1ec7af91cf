"""OpenAI's protocol: what is asked for a prompt, and what was written by the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.engines.writing.endpoint.failures import Mistake
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import LENGTH, STOP, Written, failed
from tidemill.fingerprints import fingerprint

CHAT, COMPLETIONS = "chat/completions", "completions"
FINISHES = {"stop": STOP, "eos": STOP, "eos_token": STOP, "stop_sequence": STOP, "length": LENGTH}
"""Why servers say that nothing more was written."""
THINKING = "chat_template_kwargs"
"""Of servers that render a model's own chat template; those that do not know it may refuse it."""
ANSWER = "answer"
TOKENS_AROUND_A_CHOICE = 32
"""What JSON with one choice in it takes beside the choice, blanks included."""
SPENT_THINKING = "the model spent its budget thinking"
MOST_INT32 = 2**31 - 1
MOST_SAID = 200


@dataclass(frozen=True)
class Protocol:
    """What is asked of the model that is served as `name`, under `settings`."""

    name: str
    settings: Settings
    thinking: bool = False

    def request(self, prompt: bytes) -> tuple[str, dict[str, Any]]:
        """The route and the body for a prompt in JSON: a list of messages, or a string that is given as it is."""
        content = json.loads(prompt)
        if isinstance(content, str):
            return COMPLETIONS, {"prompt": content, **self._wishes(prompt)}
        return CHAT, {"messages": content, **self._wishes(prompt), THINKING: {"enable_thinking": self.thinking}}

    def _wishes(self, prompt: bytes) -> dict[str, Any]:
        sampling, choices, schema = self.settings.sampling, self._choices, self._schema
        wishes: dict[str, Any] = {
            "model": self.name,
            "max_tokens": self.settings.max_new_tokens + (TOKENS_AROUND_A_CHOICE if choices else 0),
            "temperature": 0.0 if sampling is None else sampling.temperature,
            "top_p": 1.0 if sampling is None or sampling.top_p is None else sampling.top_p,
            "seed": 0 if sampling is None else _seed_of(sampling.seed, prompt),
            "stream": False,
        }
        if sampling is not None and sampling.top_k is not None:
            wishes["top_k"] = sampling.top_k
        if self.settings.stop:
            wishes["stop"] = list(self.settings.stop)
        if schema is not None:
            named = {"name": ANSWER, "strict": True, "schema": schema}
            wishes["response_format"] = {"type": "json_schema", "json_schema": named}
        return wishes

    @property
    def _choices(self) -> list[str] | None:
        grammar = self.settings.grammar
        found: list[str] | None = None if grammar is None else json.loads(grammar.source).get("choices")
        return found

    @property
    def _schema(self) -> Any:
        """What the answer is to satisfy. A choice is put in an object, which every server can be asked for."""
        if self._choices is not None:
            choice = {"type": "string", "enum": self._choices}
            return {
                "type": "object",
                "properties": {ANSWER: choice},
                "required": [ANSWER],
                "additionalProperties": False,
            }
        return None if self.settings.grammar is None else json.loads(self.settings.grammar.source)["json_schema"]

    def written(self, answer: Any) -> Written:
        """What was written.

        Raises:
            Mistake: the answer is none of the protocol's.
        """
        choice, usage = _choice_of(answer), answer.get("usage")
        text, thought = _text_of(choice)
        finish = str(choice.get("finish_reason"))
        if reason := _refusal(choice) or _why_unfinished(finish) or _why_only_thought(text, thought, finish):
            return failed(reason)
        if text is None:
            raise Mistake("its answer has no text")
        return Written(
            list(self._own(text).encode(errors="replace")),
            FINISHES[finish],
            num_prompt_tokens=_count(usage, "prompt_tokens"),
            num_new_tokens=_count(usage, "completion_tokens"),
        )

    def _own(self, text: str) -> str:
        """The choice itself, where it is what the object holds that was asked for."""
        if self._choices is None:
            return text
        try:
            found = json.loads(text)[ANSWER]
        except (ValueError, KeyError, TypeError, RecursionError):
            return text
        return found if isinstance(found, str) else text


def _seed_of(seed: int, prompt: bytes) -> int:
    """A row's own: neither its neighbours nor their order change what is drawn for it."""
    return int(fingerprint(seed, prompt.decode(errors="replace"))[:8], 16) & MOST_INT32


def _choice_of(answer: Any) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Mistake("its answer holds no choices")
    found: Mapping[str, Any] = choices[0]
    return found


def _text_of(choice: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The answer, and whether something was thought beside it."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return _plain(choice.get("text")), False
    thought = message.get("reasoning_content") or message.get("reasoning")
    return _plain(message.get("content")), bool(thought)


def _plain(content: Any) -> str | None:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _refusal(choice: Mapping[str, Any]) -> str | None:
    message = choice.get("message")
    refusal = message.get("refusal") if isinstance(message, dict) else None
    is_one = isinstance(refusal, str) and refusal
    return f"the model refused: {' '.join(str(refusal).split())[:MOST_SAID]}" if is_one else None


def _why_unfinished(finish: str) -> str | None:
    if finish in FINISHES:
        return None
    if finish == "None":
        return "the server does not say why the answer ends"
    return f"the server ended the answer with finish_reason = {finish[:MOST_SAID]}"


def _why_only_thought(text: str | None, thought: bool, finish: str) -> str | None:
    if thought and not text:
        spent = FINISHES[finish] == LENGTH
        return SPENT_THINKING if spent else "the model thought, and answered nothing"
    return None


def _count(usage: Any, name: str) -> int:
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if type(found) is int and 0 <= found <= MOST_INT32 else -1
