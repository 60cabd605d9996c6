"""Runs without training: a tiny base model in some mode, its parameters moved at random, and a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dpft.export import ExportReport
from dpft.runs.files import publish_dir, write_atomic
from dpft.runs.manifest import Manifest, safetensors_header
from dpft.runs.manifest_parts import BaseModelInfo, Evidence, Mechanism, TrainableParameter
from dpft.runs.record import RunRecord
from dpft.runs.store import Store
from dpft.spec import (
    DataSpec,
    HardwareSpec,
    ModelSpec,
    OptimisationSpec,
    PrivacySpec,
    RunSpec,
    TuningSpec,
)
from dpft.tables import EXPORT_FORMATS, MODES, TASKS
from dpft.tuning.base import identify, load_model
from dpft.tuning.files import adapter_sha256, stamp
from tests.unit.runs import builders

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *(f"w{i}" for i in range(55)),
    "a",
    "b",
    "c",
    "##b",
    "##c",
]
SEED = 20_271_828  # looked for in exports, where no seed may be
MERGEABLE = ("full", "last-layer", "lora", "ia3")


@dataclass(frozen=True)
class MadeRun:
    """A run, and the model as it was when training would have ended."""

    record: RunRecord
    spec: RunSpec
    model: Any

    def export(self, output: Path, format_name: str = "peft", *, overwrite: bool = False) -> ExportReport:
        report = EXPORT_FORMATS.get(format_name)(self.record, self.spec, output, overwrite=overwrite)
        assert isinstance(report, ExportReport)
        return report


def make_base(folder: Path, architecture: str = "bert") -> Path:
    """A checkpoint of two random layers with its tokenizer; its head is for another number of labels."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizer,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    common = {
        "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "initializer_range": 0.2, "num_labels": 5, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(1)
    model: Any
    if architecture == "bert":
        model = BertForSequenceClassification(BertConfig(**common, max_position_embeddings=40))
    else:
        model = RobertaForSequenceClassification(
            RobertaConfig(**common, max_position_embeddings=42, type_vocab_size=1)
        )
    model.save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def make_spec(base: Path, mode: str, *, dataset: str = "mnli", private: bool = False) -> RunSpec:
    prompts = MODES.get(mode).defaults.num_prepend_tokens
    return RunSpec(
        data=DataSpec(dataset=dataset, data_dir=str(base.parent / "private-data"), max_length=24),
        model=ModelSpec(checkpoint=str(base)),
        tuning=TuningSpec(mode=mode, lora_r=3, num_prepend_tokens=prompts and 5),
        privacy=PrivacySpec(enabled=private),
        optimisation=OptimisationSpec(learning_rate=1e-3, seed=SEED),
        hardware=HardwareSpec(precision="fp32"),
        tags=("secret-tag",),
        note="secret-note",
    )


def make_run(home: Path, spec: RunSpec, parts: Any = None, *, scale: float = 0.2) -> MadeRun:
    """A completed run.

    Args:
        home: of the store.
        spec: of the run.
        parts: of the manifest, by run id; those of a non-private run if left out.
        scale: how far the trainable parameters move.
    """
    mode = MODES.get(spec.tuning.mode)
    torch.manual_seed(2)
    base = load_model(spec.model, TASKS.get(spec.data.dataset).labels, 0)
    identity = identify(base, spec.model)
    model = mode.apply(base, spec.tuning).eval()
    with torch.no_grad():
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for parameter in trained.values():
            parameter.add_(scale * torch.randn_like(parameter))
    with Store(home).create(spec) as active:
        active.append_local_only({"step": 1, "loss": 0.5})
        staging = active.directory / ".adapter"
        staging.mkdir()
        mode.save(model, staging)
        given = (parts or builders.ordinary_parts)(active.record.run_id)
        shapes = tuple(TrainableParameter(name=name, shape=tuple(p.shape)) for name, p in trained.items())
        given["mechanism"] = Mechanism(
            **{**given["mechanism"].model_dump(), "finetune_mode": mode.name, "trainable_parameters": shapes}
        )
        given["base_model"] = BaseModelInfo(checkpoint=identity.public_id, sha256=identity.sha256)
        given["evidence"] = Evidence(tensors_sha256=adapter_sha256(staging), verify_command="dpft verify")
        manifest = Manifest(**given)
        stamp(staging, safetensors_header(manifest))
        write_atomic(staging / "README.md", "the run's own card")
        publish_dir(staging, active.adapter_dir)
        record = active.finish("completed", manifest=manifest.to_dict())
    return MadeRun(record, spec, model)


def a_batch() -> dict[str, torch.Tensor]:
    """Another one than the export's own: padded, with two segments."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, len(WORDS), (5, 13), generator=generator)
    lengths = torch.tensor([13, 12, 7, 3, 2])[:, None]
    mask = (torch.arange(13) < lengths).long()
    segments = (torch.arange(13) >= lengths // 2).long() * mask
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": segments}


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(**batch).logits
    return logits


def corrupt(path: Path, tensor: str) -> None:
    """Change the sign of the first tensor whose name contains ``tensor``, keeping the header."""
    from dpft.export.plain import statement_in

    tensors, statement = load_file(path), statement_in(path)
    name = next(name for name in tensors if tensor in name)
    tensors[name] = -tensors[name]  # adding a constant would not do: a layer norm may take it out again
    save_file(tensors, path, metadata={"format": "pt", "dpft": statement or ""})


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
