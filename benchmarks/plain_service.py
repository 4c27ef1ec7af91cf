"""What one writes without Tidemill: FastAPI around a Transformers pipeline, one text a request.

    python -m benchmarks.plain_service MODEL PORT [--task text-classification] [--new-tokens 32]

For `benchmarks.serving`. Calls take turns, since threads of their own would each want all cores.
"""

from __future__ import annotations

import argparse
import threading
from typing import Any

import uvicorn
from fastapi import Body, FastAPI
from transformers import pipeline


def make_app(model: str, task: str, new_tokens: int) -> FastAPI:
    app, turns = FastAPI(), threading.Lock()
    compute: Any = pipeline(task, model=model)
    options: dict[str, Any] = {"truncation": True}
    if task == "text-generation":
        options = {"max_new_tokens": new_tokens, "do_sample": False, "return_full_text": False}

    @app.post("/predict")
    def predict(inputs: str = Body(embed=True)) -> Any:
        with turns:
            return compute(inputs, **options)

    return app


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model")
    asked.add_argument("port", type=int)
    asked.add_argument("--task", default="text-classification")
    asked.add_argument("--new-tokens", type=int, default=32)
    given = asked.parse_args()
    app = make_app(given.model, given.task, given.new_tokens)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="error")


if __name__ == "__main__":
    main()
