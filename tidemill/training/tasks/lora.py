"""Small matrices beside a model's own, which learn while those stay, and are merged into them at the end (LoRA)."""

from __future__ import annotations

from typing import Any

from tidemill.training.file import MethodSection


def with_adapters(model: Any, method: MethodSection, task_type: str, *, head: str | None = None) -> Any:
    """The model as peft wraps it. What the task's head has of its own is trained as a whole."""
    from peft import LoraConfig, TaskType, get_peft_model

    whole = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    is_language_model = task_type == "CAUSAL_LM"
    facts: dict[str, Any] = {} if is_language_model else {"modules_to_save": whole}
    config = LoraConfig(
        r=method.lora_rank,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules="all-linear",
        task_type=TaskType[task_type],
        **facts,
    )
    return get_peft_model(model, config)


def merged(learning: Any) -> Any:
    """The model with what it learned in its own weights, trained head included."""
    return learning.merge_and_unload()
