"""``--engine opacus``: per-example gradients, or their norms, by Opacus.

Yousefpour et al. 2021, arXiv 2109.12298. Only its hooks are used; plan, sampler, factors and noise are ours.
It can do every layer that it has a gradient sampler for (linear, embedding, layer and RMS normalisation,
convolution) and, by ``torch.func``, other layers that hold their parameters themselves. It cannot do IA³:
such a scale lives in a dictionary, which has no forward pass to hook.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from dpft.engines.base import Session
from dpft.engines.hooked import Library, hooked_session
from dpft.errors import UsageError
from dpft.privacy.clipping import Clipper

__all__ = ["ENGINE", "OpacusEngine"]


class _Opacus(Library):
    """``GradSampleHooks``, or for norms only ``GradSampleHooksFastGradientClipping``."""

    name = "opacus"
    precisions = ("fp32", "bf16")
    sharing_error = NotImplementedError

    def __init__(self) -> None:
        self._classes = _import()
        self._hooks: Any = None

    def handles(self, module: nn.Module) -> bool:
        """Containers of bare parameters have no forward pass to hook."""
        return not isinstance(module, (nn.ParameterDict, nn.ParameterList))

    def attach(self, model: nn.Module, *, norms_only: bool) -> None:
        """Opacus hooks each module that holds a trainable parameter."""
        instances, norms = self._classes
        self._hooks = (norms if norms_only else instances)(model, loss_reduction="sum", strict=False)
        self._hooks.disable_hooks()
        self._attribute = "_norm_sample" if norms_only else "grad_sample"

    def detach(self, model: nn.Module) -> None:
        """Hooks off; attributes off parameters and modules, also of hooks that were only half on."""
        if self._hooks is not None:
            self._hooks.cleanup()
            self._hooks = None
        for handle in model.__dict__.pop("autograd_grad_sample_hooks", ()):
            handle.remove()
        for parameter in model.parameters():
            for attribute in ("grad_sample", "_forward_counter"):
                parameter.__dict__.pop(attribute, None)
        for module in model.modules():
            for attribute in ("activations", "max_batch_len"):
                module.__dict__.pop(attribute, None)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Opacus's own switch, for this set of hooks."""
        self._hooks.enable_hooks()
        try:
            yield
        finally:
            self._hooks.disable_hooks()

    def silent(self) -> AbstractContextManager[None]:
        """Its hooks are switched on while recording only."""
        return nullcontext()

    def take(self, parameter: nn.Parameter) -> Tensor | None:
        """Norms or gradients of one pass."""
        left: Tensor | None = getattr(parameter, self._attribute, None)
        if left is not None:
            setattr(parameter, self._attribute, None)
        return left


def _import() -> tuple[Any, Any]:
    """Opacus's two kinds of hooks.

    Raises:
        UsageError: it is not installed.
    """
    root = logging.getLogger()
    handlers = list(root.handlers)
    try:
        from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping
    except ImportError as error:
        raise UsageError(
            "engine 'opacus' needs the package opacus, which is not installed",
            hint="pip install 'dpft[opacus]', or choose --engine dpft",
        ) from error
    finally:
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)  # importing Opacus sets up logging for the whole program
    return GradSampleHooks, GradSampleHooksFastGradientClipping


class OpacusEngine:
    """Opens sessions on Opacus's hooks."""

    name = "opacus"
    packages: tuple[str, ...] = ("opacus",)

    def session(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], clipper: Clipper, precision: str
    ) -> AbstractContextManager[Session]:
        """Hook ``model``.

        Raises:
            UsageError: Opacus is not installed.
            UnsupportedLayerError: it cannot do a layer that holds a trainable parameter.
        """
        return hooked_session(model, parameters, clipper, precision, _Opacus())


ENGINE = OpacusEngine()
