"""Clippers: from per-example norms to the factors that bound each example's contribution; one file each."""

from dpft.privacy.clipping.automatic import AutomaticClipper
from dpft.privacy.clipping.base import ROUNDING_GUARD, Clipper, Factors, GroupFactors, norm_of
from dpft.privacy.clipping.flat import FlatClipper
from dpft.privacy.clipping.per_layer import PerLayerClipper

__all__ = [
    "ROUNDING_GUARD",
    "AutomaticClipper",
    "Clipper",
    "Factors",
    "FlatClipper",
    "GroupFactors",
    "PerLayerClipper",
    "norm_of",
]
