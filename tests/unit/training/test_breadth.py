"""Whole runs on architectures that are unlike BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from dpft.runs.record import RunRecord
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.tables import MODES
from dpft.training.observer import Observer
from dpft.training.run import train
from dpft.tuning.base import restore
from tests import architectures
from tests.unit.export.workshop import change_json

LABELS = ("negative", "positive")


class Listening(Observer):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def run(folder: Path, mode: str, glue_dir: Path) -> tuple[RunSpec, RunRecord, list[str]]:
    """Four steps of five examples each."""
    prompts = MODES.get(mode).defaults.num_prepend_tokens
    spec = RunSpec(
        data=DataSpec(dataset="sst2", data_dir=str(glue_dir), max_length=16),
        model=ModelSpec(checkpoint=str(folder)),
        tuning=TuningSpec(mode=mode, lora_r=2, num_prepend_tokens=prompts and 3),
        privacy=PrivacySpec(target_epsilon=None, noise_multiplier=1.0),
        optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=5, epochs=1 / 3, seed=1),
        hardware=HardwareSpec(precision="fp32", micro_batch_tokens=60),
    )
    observer = Listening()
    record = train(spec, observer)
    assert (record.status, record.steps) == ("completed", 4)
    return spec, record, observer.warnings


@pytest.mark.slow
def test_a_slow_path_is_told_before_training(tmp_path: Path, glue_dir: Path) -> None:
    _, _, warnings = run(architectures.checkpoint("t5", tmp_path / "t5"), "full", glue_dir)
    told = [text for text in warnings if text.startswith("exact but slow")]
    assert len(told) == 1
    assert "relative_attention_bias" in told[0]


@pytest.mark.slow
def test_a_fast_path_is_not_worth_a_word(tmp_path: Path, glue_dir: Path) -> None:
    folder = architectures.checkpoint("gpt2", tmp_path / "gpt2")
    change_json(folder / "tokenizer_config.json", pad_token=None)
    change_json(folder / "config.json", pad_token_id=None)
    _, _, warnings = run(folder, "lora", glue_dir)
    assert not any("slow" in text for text in warnings)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["soft-prompt", "soft-prompt+lora"])
def test_a_decoder_with_a_soft_prompt_answers_as_plain_peft_does_for_texts_alone(
    mode: str, tmp_path: Path, glue_dir: Path
) -> None:
    folder = architectures.checkpoint("llama", tmp_path / "llama")
    spec, record, _ = run(folder, mode, glue_dir)
    adapter = record.run_dir / "adapter"
    model, _ = restore(spec.model, spec.tuning, LABELS, adapter)
    plain: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, ignore_mismatched_sizes=True
    )
    for part in MODES.get(mode).parts:
        plain = peft.PeftModel.from_pretrained(plain, adapter / part)
        plain = plain.get_base_model() if part == "lora" else plain.eval()
    batch = architectures.batch("llama")
    lengths = batch.inputs["attention_mask"].sum(1).tolist()
    with torch.no_grad():
        together = model(**batch.inputs).logits
        alone = [
            plain(input_ids=batch.inputs["input_ids"][i : i + 1, :n]).logits for i, n in enumerate(lengths)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
