"""What one writes without Tidemill: Transformers' Trainer over a file of texts and labels.

    python -m benchmarks.plain_training ROWS.parquet BASE FOLDER [--epochs 3] [--seed 0]

For `benchmarks.training`. Rows whose `held_out` is true are measured by. The measures go to FOLDER/measures.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import datasets
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def measures_of(evaluated: Any) -> dict[str, float]:
    said = evaluated.predictions.argmax(axis=1)
    right = evaluated.label_ids
    return {"accuracy": accuracy_score(right, said), "f1": f1_score(right, said, average="macro")}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("rows")
    asked.add_argument("base")
    asked.add_argument("folder", type=Path)
    asked.add_argument("--epochs", type=float, default=3)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()

    set_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    model = AutoModelForSequenceClassification.from_pretrained(given.base, dtype="float32")

    def tokenized(rows: dict[str, list[Any]]) -> dict[str, Any]:
        numbers = [model.config.label2id[label] for label in rows["label"]]
        return {**tokenizer(rows["text"], truncation=True, max_length=512), "labels": numbers}

    rows = datasets.Dataset.from_parquet(given.rows, cache_dir=str(given.folder / "cache"))
    train, held_out = (
        rows.filter(lambda is_held_out, side=side: is_held_out == side, input_columns="held_out").map(
            tokenized, batched=True, remove_columns=rows.column_names
        )
        for side in (False, True)
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(given.folder / "checkpoints"),
            num_train_epochs=given.epochs,
            learning_rate=5e-5,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            weight_decay=0.01,
            warmup_steps=0.06,
            seed=given.seed,
            data_seed=given.seed,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="f1",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=measures_of,
    )
    trainer.train()
    found = trainer.evaluate()
    trainer.save_model(str(given.folder / "model"))
    tokenizer.save_pretrained(given.folder / "model")
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    told = {"accuracy": found["eval_accuracy"], "f1": found["eval_f1"], "losses": losses[:-1]}
    (given.folder / "measures.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
