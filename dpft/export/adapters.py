"""Adapter folders, as plain ``peft`` loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from dpft import hub
from dpft.errors import ModelError
from dpft.export.card import base_call
from dpft.export.form import EXACT, Form
from dpft.export.source import RestoredRun
from dpft.tuning.mode import Mode

__all__ = ["AdapterFolder"]

_CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", _CONFIG)


class AdapterFolder(Form):
    """The run's own adapter files; with several parts, one folder for each.

    Args:
        mode: one with ``parts``.
    """

    format = "peft"

    def __init__(self, mode: Mode) -> None:
        self.parts = mode.parts
        self.what = "a PEFT adapter" if len(self.parts) == 1 else f"{len(self.parts)} PEFT adapters"
        if len(self.parts) > 1:
            inner = ", then ".join(f"`{part}`" for part in self.parts)
            self.remark = f"The order matters: {inner} on top of it, which carries the classification head."

    def tolerance(self, logits: Tensor) -> float:
        """The same tensors: ``EXACT``."""
        return EXACT

    def write(self, run: RestoredRun, folder: Path) -> None:
        """Copy the files; their bytes stay as they are, but for a base model named by a path."""
        for part in self.parts:
            (folder / part).mkdir(mode=0o700, exist_ok=True)
            for name in _FILES:
                shutil.copyfile(run.source.adapter / part / name, folder / part / name)
            _name_base(folder / part / _CONFIG, run.source.base.public_id)

    def load(self, run: RestoredRun, folder: Path) -> Any:
        """A fresh base model with ``PeftModel.from_pretrained``, part by part."""
        from peft import PeftModel

        model = _load_base(run)
        for part in self.parts[:-1]:
            model = PeftModel.from_pretrained(model, folder / part).get_base_model()
        return PeftModel.from_pretrained(model, folder / self.parts[-1])

    def loading(self, run: RestoredRun) -> list[str]:
        """The same in words of the card."""
        *inner, outer = (f'f"{{folder}}/{part}"' if part else "folder" for part in self.parts)
        return [
            "from peft import PeftModel",
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            "",
            'folder = "."  # where this README is',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            *base_call(run),
            *(f"model = PeftModel.from_pretrained(model, {path}).get_base_model()" for path in inner),
            f"model = PeftModel.from_pretrained(model, {outer}).eval()",
        ]


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


def _name_base(path: Path, public_id: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("base_model_name_or_path") != public_id:
        config["base_model_name_or_path"] = public_id
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
