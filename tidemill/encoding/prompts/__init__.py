"""What a model that writes is given: prompts made of rows, and chats of messages."""

from tidemill.encoding.prompts.prompt import Prompt
from tidemill.encoding.prompts.served import ServedPrompts
from tidemill.encoding.prompts.tokenizer import PromptTokenizer

__all__ = ["Prompt", "PromptTokenizer", "ServedPrompts"]
