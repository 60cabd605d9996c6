"""Which precision ``auto`` stands for."""

from __future__ import annotations

from typing import Literal

import torch

from dpft.spec import PrivacySpec, RunSpec, TuningSpec

__all__ = ["at", "chosen", "has_bfloat16", "settled"]


def has_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 matrices itself (AVX-512 BF16 or AMX)."""
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def settled(spec: RunSpec) -> RunSpec:
    """``spec`` with a precision that is one: what is recorded is what ran, and a resumed run keeps it.

    ``auto`` is bf16 where the hardware has it, and fp32 otherwise; and fp32 where bf16 would gain nothing (a
    head alone trains on features that are computed once) or is refused (other engines, in private runs).
    """
    if spec.hardware.precision != "auto":
        return spec
    return at(chosen(spec.tuning, spec.privacy), spec)


def at(precision: Literal["fp32", "bf16"], spec: RunSpec) -> RunSpec:
    """``spec`` at that precision."""
    return spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"precision": precision})})


def chosen(tuning: TuningSpec, privacy: PrivacySpec) -> Literal["fp32", "bf16"]:
    """What ``auto`` stands for, on this machine."""
    gains = tuning.mode != "last-layer" and (not privacy.enabled or privacy.engine == "dpft")
    return "bf16" if gains and has_bfloat16() else "fp32"
