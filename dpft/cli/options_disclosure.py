"""Options of ``train`` that say what is public, and what the user knows of the base model's own data."""

from __future__ import annotations

from typing import Annotated

from dpft.cli.options import DATA, PRIVACY, setting

__all__ = ["BaseDataOverlap", "PublicN"]

PublicN = Annotated[
    int | None,
    setting(
        "--public-n",
        help="A public estimate of the number of training examples, where the number itself is private: "
        "sample rate, steps and δ then follow from it alone.",
        panel=PRIVACY,
        default="the number is public, and stated",
    ),
]
BaseDataOverlap = Annotated[
    str | None,
    setting(
        "--base-data-overlap",
        help="Whether the base model was trained on some of these examples: none, possible or unknown; "
        "the manifest says what you declare.",
        panel=DATA,
        default="unknown",
    ),
]
