"""Privacy accounting: from what was done (events) to what it cost (ε), and how much noise a target needs.

>>> event = MechanismEvent(sample_rate=0.1, noise_multiplier=3.0, steps=512)
>>> round_up(guarantee([event], delta=1e-6).epsilon)
3.7697

Knows no model and no tensor. Importing it costs little: dp-accounting, and scipy with it, are imported when
the first ε is computed.
"""

from __future__ import annotations

from dpft.accounting.accountant import Accountant
from dpft.accounting.calibrate import (
    Calibration,
    Guarantee,
    calibrate_noise_multiplier,
    guarantee,
    round_up,
)
from dpft.accounting.event import Adjacency, MechanismEvent

__all__ = [
    "Accountant",
    "Adjacency",
    "Calibration",
    "Guarantee",
    "MechanismEvent",
    "calibrate_noise_multiplier",
    "guarantee",
    "round_up",
]
