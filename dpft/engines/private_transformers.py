"""``--engine private-transformers``: hooks of private-transformers 0.2.3 (Li et al. 2022, arXiv 2110.05679).

Only its hooks are used; plan, sampler, factors and noise are ours. It knows linear layers, embeddings, layer
normalisation, Conv1D, 2-D convolution, T5's normalisation and OPT's positions, by exact class; a trainable
parameter anywhere else (an IA³ scale, say) is refused. Its ``PrivacyEngine`` is not used: that replaces the
forward passes of models by copies from an older Transformers, so that position ids have one row per example,
which our own hooks see to.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from dpft.engines.base import Session
from dpft.engines.hooked import Library, hooked_session
from dpft.errors import UsageError
from dpft.privacy.clipping import Clipper

__all__ = ["ENGINE", "PrivateTransformersEngine"]

_ADDRESS = "git+https://github.com/lxuechen/private-transformers"


class _PrivateTransformers(Library):
    """Its hooks; what they do is decided by a mode global to its module, set only while recording."""

    name = "private-transformers"
    precisions = ("fp32",)  # its products do not mix float32 and bfloat16
    sharing_error = ValueError

    def __init__(self) -> None:
        self._hooks, self._layers = _import()
        self._mode = ""

    def handles(self, module: nn.Module) -> bool:
        """By exact class, as the library looks it up."""
        return type(module) in self._layers

    def attach(self, model: nn.Module, *, norms_only: bool) -> None:
        """Hook each layer that it knows and that holds a trainable parameter."""
        self._mode = "ghost_norm" if norms_only else "default"
        self._attribute = "norm_sample" if norms_only else "grad_sample"
        with self._mode_restored():
            self._hooks.add_hooks(model, loss_reduction="sum")

    def detach(self, model: nn.Module) -> None:
        """Hooks off; attributes off parameters and modules."""
        if hasattr(model, "autograd_grad_sample_hooks"):
            self._hooks.remove_hooks(model)
        for module in model.modules():
            for attribute in ("activations", "max_batch_len"):
                module.__dict__.pop(attribute, None)
        for parameter in model.parameters():
            for attribute in ("norm_sample", "grad_sample"):
                if hasattr(parameter, attribute):
                    delattr(parameter, attribute)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Set the mode, and put back whatever was there."""
        with self._mode_restored():
            self._hooks.set_hooks_mode(self._mode)
            self._hooks.enable_hooks()
            yield

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Switch its hooks off, and put back whatever was there."""
        with self._mode_restored():
            self._hooks.disable_hooks()
            yield

    @contextmanager
    def _mode_restored(self) -> Iterator[None]:
        mode, disabled = self._hooks.get_hooks_mode(), self._hooks._hooks_disabled
        try:
            yield
        finally:
            self._hooks.set_hooks_mode(mode)
            (self._hooks.disable_hooks if disabled else self._hooks.enable_hooks)()

    def take(self, parameter: nn.Parameter) -> Tensor | None:
        """Norms or gradients of one pass."""
        left: Tensor | None = getattr(parameter, self._attribute, None)
        if left is not None:
            delattr(parameter, self._attribute)
        return left


def _import() -> tuple[Any, Any]:
    """Its module of hooks, and the layers it knows.

    Raises:
        UsageError: it, or what it imports, is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports what others have deprecated since
            from private_transformers import autograd_grad_sample, supported_layers_grad_samplers
    except ImportError as error:
        raise UsageError(
            f"engine 'private-transformers' needs that package and what it imports ({error})",
            hint="pip install 'dpft[private-transformers]' && pip install --no-deps ml-swissknife "
            f"{_ADDRESS}, or choose --engine dpft",
        ) from error
    return autograd_grad_sample, supported_layers_grad_samplers._supported_layers_grad_samplers


class PrivateTransformersEngine:
    """Opens sessions on the hooks of private-transformers."""

    name = "private-transformers"
    packages: tuple[str, ...] = ("private-transformers",)

    def session(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> AbstractContextManager[Session]:
        """Hook ``model``.

        Raises:
            UsageError: the library is not installed.
            UnsupportedLayerError: it does not know a layer that holds a trainable parameter.
        """
        return hooked_session(model, parameters, clipper, precision, _PrivateTransformers())


ENGINE = PrivateTransformersEngine()
