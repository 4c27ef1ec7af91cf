"""A model that learns from new marks: when, how far it comes, and what it takes to be promoted."""

from __future__ import annotations

import pytest

from tests.markings import mark, marked
from tests.pipelines import make_pipeline, query
from tests.trainings import save_base
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, RunFailed
from tidemill.running.backfill_run import BackfillRun
from tidemill.training.retraining import is_better, retrain


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


def promoted(pipeline: Pipeline) -> str:
    return str(query(pipeline.lake, "SELECT promoted_version FROM _pipelines")[0][0])


def with_retrain(pipeline: Pipeline, **changes: object) -> Pipeline:
    own = pipeline.schedule.retrain.model_copy(update=changes)
    return pipeline.model_copy(update={"schedule": pipeline.schedule.model_copy(update={"retrain": own})})


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("f1 > current", True),
        ("f1 > current + 0.05", True),
        ("f1 > current + 0.2", False),
        ("accuracy > current", False),
        ("accuracy >= current", True),
        ("accuracy > current - 0.01", True),
    ],
)
def test_promote_if_holds_one_measure_of_both_versions_against_each_other(condition, holds):
    truth = {"f1": {"old": 0.5, "new": 0.625}, "accuracy": {"old": 0.75, "new": 0.75}}

    assert is_better(condition, truth, "new") is holds


@pytest.mark.parametrize("condition", ["f1", "recall > current", "f1 > 0.9", "f1 > current * 2"])
def test_a_promote_if_of_another_form_is_refused(condition):
    raw = {"name": "a", "dataset": {"path": "b"}, "model": {"path": "c"}}

    with pytest.raises(ValueError, match=r"schedule.retrain.promote_if"):
        Pipeline.model_validate({**raw, "schedule": {"retrain": {"promote_if": condition}}})


def test_without_a_training_file_nothing_can_be_trained(tmp_path):
    with pytest.raises(ConfigError, match=r"Set schedule.retrain.file"):
        retrain(make_pipeline(tmp_path, "unread"))


@pytest.mark.slow
def test_enough_marks_train_once_and_nothing_is_promoted_unasked(tmp_path, base):
    pipeline = marked(tmp_path, base)
    first = promoted(pipeline)

    too_few = retrain(with_retrain(pipeline, every_marks=61))
    computed = retrain(pipeline)
    again = retrain(pipeline)

    assert (too_few.state, too_few.new_marks, too_few.folder) == ("too few marks", 60, None)
    assert computed.state == "computed, and not promoted: schedule.retrain.promote_if is not set"
    assert computed.truth is not None
    assert computed.truth["accuracy"].keys() == {first, computed.version}
    assert computed.truth["rows"] + computed.truth["learned"] == 60
    assert (again.state, again.new_marks, promoted(pipeline)) == ("too few marks", 0, first)


@pytest.mark.soak
def test_what_was_trained_is_promoted_only_where_promote_if_says_so(tmp_path, base):
    pipeline = marked(tmp_path, base)
    first = promoted(pipeline)

    never = retrain(with_retrain(pipeline, promote_if="f1 > current + 1"))
    assert (never.state, promoted(pipeline)) == ("computed, and not promoted: not f1 > current + 1", first)
    mark(pipeline, 3)
    always = retrain(with_retrain(pipeline, every_marks=3, promote_if="accuracy >= current - 1"))
    assert (always.state, promoted(pipeline)) == ("promoted", always.version)


@pytest.mark.soak
def test_a_backfill_that_failed_is_gone_on_with_though_no_mark_is_new(tmp_path, base, monkeypatch):
    pipeline = marked(tmp_path, base)
    with monkeypatch.context() as patched:
        patched.setattr(BackfillRun, "execute", interrupted)
        with pytest.raises(RunFailed, match="the worker ended"):
            retrain(pipeline)

    done = retrain(pipeline)

    assert (done.new_marks, done.state.partition(",")[0]) == (0, "computed")
    assert {name for (name,) in query(pipeline.lake, "SELECT DISTINCT version FROM _ledger")} >= {done.version}


def interrupted(self: object) -> None:
    raise RunFailed("the worker ended")
