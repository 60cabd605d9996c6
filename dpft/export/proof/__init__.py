"""``dpft verify``: what can be checked of a run, an adapter or an export, from its files alone.

It proves arithmetic and integrity: that ε follows from the recorded events, and that manifest, weights and
card are the ones that were written together. It cannot prove that training was honest, nor find a forger who
rewrites all of them to agree.
"""

from __future__ import annotations

from dpft.export.proof.report import Check, Verification
from dpft.export.proof.verification import verify

__all__ = ["Check", "Verification", "verify"]
