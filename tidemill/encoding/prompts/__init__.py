"""What a model that writes is given: prompts made of rows, chats of messages, sources of translations."""

from tidemill.encoding.prompts.languages import language_ids
from tidemill.encoding.prompts.prompt import Prompt
from tidemill.encoding.prompts.served import ServedPrompts, packed, unpacked
from tidemill.encoding.prompts.sources import SourceTokenizer
from tidemill.encoding.prompts.tokenizer import PromptTokenizer

__all__ = ["Prompt", "PromptTokenizer", "ServedPrompts", "SourceTokenizer", "language_ids", "packed", "unpacked"]
