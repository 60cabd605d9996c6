"""Which precision ``auto`` stands for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from dpft.spec import PrivacySpec, RunSpec, TuningSpec

__all__ = ["at", "chosen", "has_bfloat16", "settled"]

_WIDE = 256  # hidden size; below, widths of an example's own cost more than bf16 gains (measured with AMX)


def has_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 matrices itself (AVX-512 BF16 or AMX)."""
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def settled(spec: RunSpec, model: Any = None) -> RunSpec:
    """``spec`` with a precision that is one: what is recorded is what ran, and a resumed run keeps it.

    ``auto`` is bf16 where the hardware has it, and fp32 otherwise; and fp32 where bf16 would gain nothing (a
    head alone trains on features that are computed once; a narrow model trained privately) or is refused
    (other engines, in private runs).

    Args:
        spec: the run.
        model: its model, once there is one; until then it is taken for a wide one.
    """
    if spec.hardware.precision != "auto":
        return spec
    return at(chosen(spec.tuning, spec.privacy, model), spec)


def at(precision: Literal["fp32", "bf16"], spec: RunSpec) -> RunSpec:
    """``spec`` at that precision."""
    return spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"precision": precision})})


def chosen(tuning: TuningSpec, privacy: PrivacySpec, model: Any = None) -> Literal["fp32", "bf16"]:
    """What ``auto`` stands for, on this machine; ``model`` as in :func:`settled`."""
    if tuning.mode == "last-layer" or not has_bfloat16():
        return "fp32"
    if not privacy.enabled:
        return "bf16"
    return "bf16" if privacy.engine == "dpft" and _width(model) >= _WIDE else "fp32"


def _width(model: Any) -> int:
    """The hidden size of what reads text in ``model``; of one that does not tell, a wide one."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if isinstance(config, PretrainedConfig) else config
    width = getattr(text, "hidden_size", None)
    return width if isinstance(width, int) else _WIDE
