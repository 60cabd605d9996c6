"""Adapter folders, as plain ``peft`` loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from dpft import hub
from dpft.errors import ModelError
from dpft.export import snippets
from dpft.export.form import EXACT, PEFT, TRANSFORMERS, Form
from dpft.export.source import RestoredRun
from dpft.tuning.mode import Mode

__all__ = ["AdapterFolder"]

_CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", _CONFIG)
_TAKES_PREFIXES = "<5.24"  # from there on models take keys and values by another name than PEFT gives them
_TAGS = {"PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning"}


class AdapterFolder(Form):
    """The run's own adapter files; with several parts, one folder for each.

    Args:
        mode: one with ``parts``.
    """

    format = "peft"
    library = "peft"
    relation = "adapter"
    requires = ("torch", TRANSFORMERS, PEFT)

    def __init__(self, mode: Mode) -> None:
        self.parts = mode.parts
        if "PREFIX_TUNING" in mode.peft_types:
            self.requires = ("torch", f"{TRANSFORMERS},{_TAKES_PREFIXES}", PEFT)
        self.tags = tuple(_TAGS.get(kind, kind.lower()) for kind in mode.peft_types)
        self.what = "a PEFT adapter" if len(self.parts) == 1 else f"{len(self.parts)} PEFT adapters"
        if len(self.parts) > 1:
            inner = ", then ".join(f"`{part}`" for part in self.parts)
            self.remark = f"The order matters: {inner} on top of it, which carries the classification head."

    def tolerance(self, logits: Tensor) -> float:
        """The same tensors: ``EXACT``."""
        return EXACT

    def write(self, run: RestoredRun, folder: Path) -> None:
        """Copy the files; only the configuration changes, where it names the base model otherwise."""
        for part in self.parts:
            (folder / part).mkdir(mode=0o700, exist_ok=True)
            for name in _FILES:
                shutil.copyfile(run.source.adapter / part / name, folder / part / name)
            _name_base(folder / part / _CONFIG, run.source.base.public_id, run.source.base_revision)

    def load(self, run: RestoredRun, folder: Path) -> Any:
        """A fresh base model with ``PeftModel.from_pretrained``, part by part."""
        from peft import PeftModel

        model = _load_base(run)
        for part in self.parts[:-1]:
            model = PeftModel.from_pretrained(model, folder / part).get_base_model()
        return PeftModel.from_pretrained(model, folder / self.parts[-1])

    def loading(self, run: RestoredRun) -> list[str]:
        """The same in words of the card."""
        base = run.source.base
        remark = "" if run.source.base_is_public else "a local folder of that name"
        return snippets.adapter_lines(base.public_id, run.base_options, self.parts, remark=remark)

    def shorter(self, run: RestoredRun) -> list[str]:
        """PEFT finds the base model of one adapter by itself; not of one on top of another."""
        return snippets.auto_lines(run.base_options) if len(self.parts) == 1 else []


def _load_base(run: RestoredRun) -> Any:
    """The base model exactly as the card says.

    Raises:
        ModelError: the commit that the manifest names is not to be had.
    """
    from transformers import AutoModelForSequenceClassification

    base = run.source.base
    offline = not base.local and not hub.in_reach()
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            base.source, local_files_only=offline, **run.base_options
        )
    except OSError as error:
        commit = f" at commit {run.source.base_revision}" if run.source.base_revision else ""
        raise ModelError(
            f"base model {base.public_id}{commit} cannot be loaded",
            hint="check that the hub is in reach, or give the model's folder when training",
        ) from error


def _name_base(path: Path, public_id: str, revision: str | None) -> None:
    """Let the configuration name the base model by id and commit: ``AutoPeftModel…`` loads exactly that."""
    config = json.loads(path.read_text(encoding="utf-8"))
    named = {"base_model_name_or_path": public_id, "revision": revision}
    if any(config.get(key) != value for key, value in named.items()):
        path.write_text(json.dumps({**config, **named}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
