"""Feature extraction: the vector of a text by a bare encoder, pooled as the pipeline file says."""

from __future__ import annotations

from tidemill.checkpoints.embeddings.recipe import Recipe
from tidemill.errors import ModelError
from tidemill.models.tasks.embedding import Embedding

_MODES = {"mean": "mean", "cls": "cls", "last_token": "lasttoken", "max": "max"}


class FeatureExtraction(Embedding):
    pipeline_tag = "feature-extraction"

    def _recipe(self) -> Recipe:
        options = self.options
        if options.prompt_name is not None:
            raise ModelError(
                f'model.options.prompt_name = "{options.prompt_name}" is of a folder of sentence-transformers, and '
                f'model.task = "{self.pipeline_tag}" reads none of its prompts. Give the text itself by '
                'model.options.prompt, or set model.task = "sentence-similarity".'
            )
        if options.pooling is None:
            raise ModelError(
                f'model.task = "{self.pipeline_tag}" needs model.options.pooling: "mean", "cls", "last_token" or "max" '
                "as the model was trained, which its card says. A folder of sentence-transformers says it itself: for "
                'one set model.task = "sentence-similarity".'
            )
        self.prompt = options.prompt or ""
        return Recipe((_MODES[options.pooling],), truncate_dim=options.truncate_dim, normalize=options.normalize)
