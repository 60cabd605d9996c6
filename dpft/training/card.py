"""The README beside an adapter: what it is, what it cost, and how to load it."""

from __future__ import annotations

from dpft.runs.manifest import Manifest
from dpft.spec import RunSpec
from dpft.training.assemble import Assembled

__all__ = ["card"]


def card(spec: RunSpec, assembled: Assembled, manifest: Manifest) -> str:
    """What the adapter is, and how to load it."""
    base = assembled.base.public_id
    labels = len(assembled.task.labels)
    lines = [
        f"# {spec.tuning.mode} adapter for {base} on {spec.data.dataset}",
        "",
        manifest.statement,
        "",
        "```python",
        "from transformers import AutoModelForSequenceClassification",
    ]
    options = f"num_labels={labels}, ignore_mismatched_sizes=True"
    start = f'AutoModelForSequenceClassification.from_pretrained("{base}", {options})'
    if assembled.mode.parts == ("",):
        lines += ["from peft import PeftModel", "", f'model = PeftModel.from_pretrained({start}, "adapter")']
    elif assembled.mode.parts:
        inner, outer = assembled.mode.parts
        lines += [
            "from peft import PeftModel",
            "",
            f"model = {start}",
            f'model = PeftModel.from_pretrained(model, "adapter/{inner}").get_base_model()',
            f'model = PeftModel.from_pretrained(model, "adapter/{outer}")',
        ]
    else:
        lines += [
            "from safetensors.torch import load_file",
            "",
            f"model = {start}",
            'model.load_state_dict(load_file("adapter/trained_parameters.safetensors"), strict=False)',
        ]
    return "\n".join([*lines, "```", ""])
