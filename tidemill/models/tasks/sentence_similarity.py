"""Sentence similarity: the vector of a text, as a folder that sentence-transformers saved says it is computed."""

from __future__ import annotations

import difflib

from tidemill.checkpoints.embeddings.folder import SentenceFolder, read_sentence_folder
from tidemill.checkpoints.embeddings.recipe import Recipe, hidden_size
from tidemill.errors import ModelError
from tidemill.models.tasks.embedding import Embedding


class SentenceSimilarity(Embedding):
    pipeline_tag = "sentence-similarity"
    reads_modules = True

    def _recipe(self) -> Recipe:
        options = self.options
        if options.pooling is not None:
            raise ModelError(
                f'model.options.pooling = "{options.pooling}" is of bare encoders, and model.task = '
                f'"{self.pipeline_tag}" pools as modules.json says. Leave it out, or set model.task = '
                '"feature-extraction".'
            )
        found = read_sentence_folder(self.config.name_or_path)
        self._refuse_other_size(found)
        self.prompt = self._prompt(found)
        self.max_length, self.lower_case = found.max_length, found.lower_case
        self.include_prompt = found.include_prompt
        return Recipe(
            found.pooling,
            found.steps,
            truncate_dim=options.truncate_dim or found.truncate_dim,
            normalize=options.normalize,
        )

    def _refuse_other_size(self, found: SentenceFolder) -> None:
        size = hidden_size(self.config)
        if found.token_size not in (None, size):
            raise ModelError(
                f"The pooling of the model in {self.config.name_or_path} takes {found.token_size} dimensions, and its "
                f"encoder gives {size}. Download the model again."
            )

    def _prompt(self, found: SentenceFolder) -> str:
        options, known = self.options, found.prompts
        if options.prompt is not None and options.prompt_name is not None:
            raise ModelError(
                "model.options.prompt and model.options.prompt_name each say what comes before a text. Leave one out."
            )
        if options.prompt is not None:
            return str(options.prompt)
        name = options.prompt_name if options.prompt_name is not None else found.default_prompt_name
        if name is None:
            return ""
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"It has: {', '.join(known) or 'none'}."
            raise ModelError(f'model.options.prompt_name = "{name}" is no prompt of the model\'s. {hint}')
        return known[name]
