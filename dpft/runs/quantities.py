"""Validated number types shared by run records and manifests; a value out of range is a privacy error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from dpft.errors import PrivacyError

__all__ = ["Delta", "Epsilon", "NoiseMultiplier", "SampleRate"]


def _within(name: str, interval: str, holds: Callable[[float], bool]) -> AfterValidator:
    """Refuse by negation, so that NaN fails too."""

    def check(value: float) -> float:
        if not holds(value):
            raise PrivacyError(
                f"{name} is {value}, which is not in {interval}", hint="no guarantee can be stated with it"
            )
        return value

    return AfterValidator(check)


Epsilon = Annotated[
    float,
    _within("epsilon", "[0, ∞)", lambda value: 0 <= value < math.inf),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
Delta = Annotated[
    float,
    _within("delta", "(0, 1)", lambda value: 0 < value < 1),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
]
NoiseMultiplier = Annotated[
    float,
    _within("noise multiplier", "(0, ∞)", lambda value: 0 < value < math.inf),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]
SampleRate = Annotated[
    float,
    _within("sample rate", "(0, 1]", lambda value: 0 < value <= 1),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
]
