"""Clippers: from per-example norms to the factors that bound each example's contribution; one file each."""

from dpft.privacy.clipping.base import ROUNDING_GUARD, Clipper, Factors, GroupFactors
from dpft.privacy.clipping.flat import FlatClipper

__all__ = ["ROUNDING_GUARD", "Clipper", "Factors", "FlatClipper", "GroupFactors"]
