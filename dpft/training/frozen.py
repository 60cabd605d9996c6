"""Whether a run may ask its frozen encoder once instead of in every epoch."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

from dpft.engines.base import MicroBatch
from dpft.privacy.plan import Schedule
from dpft.spec import RunSpec
from dpft.training.assemble import Assembled
from dpft.training.features import keep_features, reading_of
from dpft.training.observer import Observer
from dpft.training.preflight import synthetic_batch

__all__ = ["made_up", "with_features"]


def made_up(assembled: Assembled) -> MicroBatch:
    """A few made-up texts of different lengths, as the model takes them."""
    return synthetic_batch(
        assembled.model,
        token_types="token_type_ids" in assembled.tokenizer.model_input_names,
        labels=len(assembled.task.labels),
        pad_token_id=assembled.pad_token_id,
    )


def with_features(
    spec: RunSpec, assembled: Assembled, schedule: Schedule, observer: Observer, *, alone: bool = True
) -> Assembled:
    """With what the encoder says of every example, where only the head trains, in more than one epoch.

    Args:
        spec: the run.
        assembled: its materials.
        schedule: how often each example is expected to be looked at.
        observer: told that it takes a while.
        alone: whether one process does all of the run. Several cut each step's batch by its lengths, each for
            itself: they must all see the same lengths, or an example might count twice.

    Returns:
        ``assembled``, with features or as it was.

    Raises:
        DpftError: the cache cannot be written.
    """
    if not alone or schedule.steps * schedule.sample_rate <= 1 or spec.hardware.precision != "fp32":
        return assembled
    if spec.privacy.enabled and spec.privacy.engine != "dpft":
        return assembled
    reading = reading_of(assembled.model, assembled.parameters, made_up(assembled))
    if reading is None:
        return assembled
    observer.working("asking the frozen encoder about each example, once")
    identity = {
        "data": assembled.data.cache_key,
        "encoder": assembled.base.sha256,
        "class": type(assembled.model).__name__,
        "config": assembled.model.config.to_json_string(),
        "transformers": metadata.version("transformers"),
    }
    split = assembled.data.splits["train"]
    features = keep_features(assembled.model, reading, split, assembled.pad_token_id, identity)
    return replace(assembled, features=features)
