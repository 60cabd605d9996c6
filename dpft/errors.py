"""Every error dpft raises on purpose.

    DpftError                      1   something failed
    ├── UsageError                 2   a wrong option, value or combination
    ├── NotFoundError              3   no such run, dataset, file or model
    │   └── AmbiguousError         3   a reference with several matches
    ├── PrivacyError               4   a guarantee that cannot be stated truthfully
    │   ├── UnsupportedLayerError  4   a trainable parameter no rule can clip exactly
    │   ├── RoundingError          4   bf16 would round an example by its company
    │   └── EntropyError           4   no secure randomness to be had
    ├── LockedError                5   another process holds the lock
    ├── DataError                  1   rows that cannot be used
    ├── ModelError                 1   a model that cannot be loaded or tuned so
    │   └── HubError               1   the hub is out of reach
    ├── StoreError                 1   a damaged or newer store
    ├── ExportError                1   an export that does not reproduce the run
    ├── UntrustedError             1   files from elsewhere that are not what they must be
    └── InterruptedRunError      130   stopped by the user

Each error is one line (what failed, with the value) and a hint (the remedy). They are caught once, in
``dpft.cli.app``, which prints both and exits with the class's code.
"""

from __future__ import annotations

__all__ = [
    "AmbiguousError",
    "DataError",
    "DpftError",
    "EntropyError",
    "ExportError",
    "HubError",
    "InterruptedRunError",
    "LockedError",
    "ModelError",
    "NotFoundError",
    "PrivacyError",
    "RoundingError",
    "StoreError",
    "UnsupportedLayerError",
    "UntrustedError",
    "UsageError",
]


class DpftError(Exception):
    """Base of the tree.

    Args:
        message: one line: what failed, naming the value.
        hint: one line: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DpftError):
    """A wrong option, value or combination of both."""

    exit_code = 2


class NotFoundError(DpftError):
    """No such run, dataset, file or model."""

    exit_code = 3


class AmbiguousError(NotFoundError):
    """A reference with several matches; the message lists them."""


class PrivacyError(DpftError):
    """A privacy guarantee that cannot be stated truthfully: nothing is trained, or nothing is claimed."""

    exit_code = 4


class UnsupportedLayerError(PrivacyError):
    """A trainable parameter that no rule can clip exactly."""


class RoundingError(PrivacyError):
    """At bf16, on this machine, company would decide how an example is rounded."""


class EntropyError(PrivacyError):
    """The operating system gives no secure randomness."""


class LockedError(DpftError):
    """Another process holds the lock."""

    exit_code = 5


class DataError(DpftError):
    """Rows that cannot be used; the message names file and line."""


class ModelError(DpftError):
    """A model that cannot be loaded, or cannot be tuned in the asked mode."""


class HubError(ModelError):
    """The model or dataset hub is out of reach."""


class StoreError(DpftError):
    """A damaged store, or one written by a newer version."""


class ExportError(DpftError):
    """An export that does not reproduce the run's logits."""


class UntrustedError(DpftError):
    """Files from elsewhere that are not what they must be; nothing of them was loaded."""


class InterruptedRunError(DpftError):
    """The user stopped the run; what was released is recorded."""

    exit_code = 130
