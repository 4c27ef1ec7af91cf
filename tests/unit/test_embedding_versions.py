"""What a version of embeddings is made of: the modules' files and the options, and for other tasks neither."""

from __future__ import annotations

import json

import pytest

from tests.checkpoints import save_checkpoint
from tests.embedders import save_dense, save_embedder, write_json
from tests.pipelines import make_pipeline
from tidemill.checkpoints.loading import folder_state
from tidemill.planning.versions import declared, result_schema


def spec_of(folder, task="sentence-similarity", **options):
    model = {"task": task, "path": str(folder), "options": options}
    return declared(make_pipeline(folder.parent, "nowhere/*.parquet", model=model))


@pytest.fixture
def folder(tmp_path):
    return save_embedder(tmp_path / "model", then=("Dense", "Normalize"), settings={"prompts": {"query": "query: "}})


def edit(path, **changes):
    write_json(path, json.loads(path.read_text()) | changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True),
        lambda folder: edit(folder / "sentence_bert_config.json", max_seq_length=12),
        lambda folder: edit(folder / "config_sentence_transformers.json", default_prompt_name="query"),
        lambda folder: save_dense(folder / "2_Dense", num_outputs=8),
    ],
    ids=["pooling", "length", "prompt", "dense"],
)
def test_whatever_a_module_reads_is_part_of_the_models_identity(folder, change):
    before, state = spec_of(folder), folder_state(folder)

    change(folder)

    assert spec_of(folder).model != before.model
    assert folder_state(folder) != state
    with pytest.raises(Exception, match="no longer holds the model"):
        result_schema(before)


def test_what_nobody_reads_is_not(folder):
    before = spec_of(folder)
    (folder / "README.md").write_text("# Another card")
    write_json(folder / "onnx" / "config.json", {})
    write_json(folder / "eval" / "similarity.json", {})

    assert spec_of(folder) == before


def test_a_model_of_another_task_is_what_it_was_whatever_modules_lie_beside_it(tmp_path):
    plain = save_checkpoint(tmp_path / "plain", "bert", "two labels")
    before = spec_of(plain, "text-classification")
    write_json(plain / "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}])
    write_json(plain / "config_sentence_transformers.json", {"activation_fn": "torch.nn.Identity"})

    assert spec_of(plain, "text-classification").version == before.version


def test_options_are_part_of_the_version_where_they_are_not_at_their_defaults(folder):
    plain = spec_of(folder)

    assert spec_of(folder, normalize=False, truncate_dim=None).version == plain.version
    versions = [plain, spec_of(folder, normalize=True), spec_of(folder, truncate_dim=8), spec_of(folder, prompt="")]
    assert len({each.version for each in versions}) == 4
    assert [str(result_schema(each).field("embedding").type) for each in versions[:3]] == [
        f"fixed_size_list<item: float>[{size}]" for size in (16, 16, 8)
    ]
