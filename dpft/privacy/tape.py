"""The tape: what each trainable layer saw in one forward and one backward pass.

While a tape is attached, trainable parameters take part in no autograd graph (``requires_grad`` is off), so
the backward pass computes input gradients only. Where a layer's output gradient is needed, the output runs
through :class:`_Watch`, an identity whose backward hands the gradient to the layer's rule and passes it on.
What a rule returns is the layer's per-example gradient; nothing is summed over examples before it is
clipped.

A trainable parameter that no rule claims is refused by name when the tape is made: it is never trained
unclipped, and never silently left where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpft.errors import PrivacyError, UnsupportedLayerError
from dpft.privacy.gradients import PerExampleGradient, SharedTokens, merge, tokens
from dpft.tables import RULES

if TYPE_CHECKING:
    from dpft.privacy.rules.base import Rule

__all__ = ["Tape"]

_CONTAINERS = (nn.ParameterDict, nn.ParameterList)  # they compute nothing; the layer around them does
_COUPLING = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class _Once:
    """Hands one gradient to a rule, then lets go of what the rule kept for it.

    Autograd frees what a layer saved as soon as the backward pass has gone through it, and the memory serves
    the next layer. What a rule keeps (often the very same tensors) would live until the pass has ended.
    """

    def __init__(self, on_gradient: Callable[[Tensor], None]) -> None:
        self._on_gradient: Callable[[Tensor], None] | None = on_gradient

    def __call__(self, gradient: Tensor) -> None:
        on_gradient, self._on_gradient = self._on_gradient, None
        if on_gradient is None:
            raise PrivacyError(
                "a micro-batch was sent through a second backward pass",
                hint="its gradients would count twice: run the forward pass again",
            )
        on_gradient(gradient)


class _Watch(torch.autograd.Function):
    """Identity; backward gives the gradient to ``on_gradient`` and passes it on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor:
        ctx.on_gradient = on_gradient
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        ctx.on_gradient(gradient)
        return (gradient if ctx.needs_input_grad[0] else None), None, None


class Tape:
    """Records per-example gradients of ``parameters`` of ``model``.

    Args:
        model: the module that will be called; it may hold frozen parts anywhere.
        parameters: the trainable parameters by qualified name.

    Raises:
        UnsupportedLayerError: a parameter belongs to a layer no rule handles, or to none.
        PrivacyError: a layer mixes examples (batch normalisation), so no per-example gradient exists.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self._model = model
        self._sites = _assign_rules(model, self.parameters)
        self._handles: list[RemovableHandle] = []
        self._batch_size: int | None = None
        self._widths: set[int] = set()
        self._paused = False
        self._uses: dict[int, list[PerExampleGradient]] = {}
        self._expected: Counter[int] = Counter()
        self._shared: WeakValueDictionary[tuple[object, ...], SharedTokens] = WeakValueDictionary()
        self._anchor = torch.zeros((), requires_grad=True)

    def __enter__(self) -> Tape:
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)
        for name, module, rule, wanted in self._sites:
            self._handles += rule.attach(name, module, wanted, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    @property
    def rules(self) -> dict[str, str]:
        """The rule that records each parameter, by the parameter's name."""
        known = {id(RULES.get(name)): name for name in RULES}
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        found = {names[id(p)]: known[id(rule)] for _, _, rule, wanted in self._sites for p in wanted.values()}
        return {name: found[name] for name in self.parameters}

    @contextmanager
    def recording(self, batch_size: int) -> Iterator[None]:
        """Record the forward and backward pass of one micro-batch of ``batch_size`` examples."""
        if not self._handles:
            raise PrivacyError(
                "the tape records only while it is attached", hint="use it as a context manager"
            )
        self._batch_size = batch_size
        self._widths = set()
        self.forget()
        try:
            yield
        finally:
            self._batch_size = None

    @property
    def active(self) -> bool:
        """Whether a micro-batch is being recorded (evaluation passes by unrecorded)."""
        return self._batch_size is not None and not self._paused and torch.is_grad_enabled()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let a rule run a layer again without recording it."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    @property
    def batch_size(self) -> int:
        """Examples of the micro-batch that is being recorded."""
        assert self._batch_size is not None
        return self._batch_size

    def gradients(self) -> dict[str, PerExampleGradient]:
        """What the last recorded micro-batch left, by parameter name; unused parameters are absent (zero)."""
        return {
            name: merge(self._uses[id(parameter)]).settle()
            for name, parameter in self.parameters.items()
            if id(parameter) in self._uses
        }

    def forget(self) -> None:
        """Free what was recorded."""
        self._uses = {}
        self._expected = Counter()

    @property
    def notes(self) -> tuple[str, ...]:
        """Layers without a rule of their own, in a sentence each kind."""
        kinds: dict[str, list[str]] = {}
        for site, module, rule, _ in self._sites:
            if rule.slow:
                kinds.setdefault(type(module).__name__, []).append(site)
        return tuple(
            f"exact but slow: no rule knows {kind}, so each example goes through {sites[0]}"
            + (f" and {len(sites) - 1} more" if len(sites) > 1 else "")
            + " on its own"
            for kind, sites in kinds.items()
        )

    # -- what rules call ------------------------------------------------------------------------------------

    def batched(self, site: str, value: Tensor) -> Tensor:
        """``value`` as the model goes on with it: examples apart, a row shared by all of them expanded first.

        Position ids and prompts are often computed once, with leading dimension 1, and broadcast later. Their
        gradient would then arrive summed over the batch. Expanding *before* the gradient is watched keeps it
        apart; the sum that autograd would have formed is formed after clipping instead.

        Tokens of all examples in one axis, example by example, are let through where the number of tokens per
        example is one that was seen beside a batch axis; :meth:`examples` gives such a value its batch axis.

        Raises:
            UnsupportedLayerError: the leading dimension is none of these.
        """
        assert self._batch_size is not None
        rows = value.shape[0] if value.dim() >= 2 else 0
        if rows == 1 and self._batch_size > 1:
            value, rows = value.expand(self._batch_size, *value.shape[1:]), self._batch_size
        if rows == self._batch_size:
            if value.dim() > 2 or not value.is_floating_point():  # (b t …), not (b d)
                self._widths.add(value.shape[1])
            return value
        if rows and rows % self._batch_size == 0 and rows // self._batch_size in self._widths:
            return value
        raise UnsupportedLayerError(
            f"layer {site!r} works on shape {tuple(value.shape)}, not on one row per example "
            f"(batch {self._batch_size})",
            hint="freeze this layer, or choose another --finetune-mode",
        )

    def examples(self, value: Tensor) -> Tensor:
        """What :meth:`batched` let through, one row per example, its tokens in an axis of their own."""
        rows = self.batch_size
        return value if value.shape[0] == rows else value.reshape(rows, -1, *value.shape[1:])

    def watch(self, value: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor:
        """``value``, whose gradient will be given to ``on_gradient`` during backward, once.

        Where autograd knows the value, a hook on it does, at a fraction of the cost of an operation more. Not
        on a view: a change in place would give it another history, and the hook would be left behind.
        """
        once = _Once(on_gradient)
        if value.grad_fn is not None and not value._is_view():
            value.register_hook(once)  # type: ignore[no-untyped-call]
            return value
        watched: Tensor = _Watch.apply(value, self._anchor.to(value.device), once)  # type: ignore[no-untyped-call]
        return watched

    def expect(self, parameters: Iterable[nn.Parameter]) -> None:
        """Announce, during forward, one use of each of ``parameters``.

        Speed only: the gradient of a parameter with a single use is settled during backward, while what it
        consists of is still in the processor's caches.
        """
        self._expected.update(map(id, parameters))

    def add(self, parameter: nn.Parameter, gradient: PerExampleGradient) -> None:
        """One use of ``parameter``."""
        assert gradient.batch_size == self._batch_size
        if self._expected[id(parameter)] == 1:
            gradient = gradient.settle()
        self._uses.setdefault(id(parameter), []).append(gradient)

    def shared(self, value: Tensor) -> SharedTokens:
        """``value`` (b … d) as tokens; the same object for every layer that saw the same tensor."""
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value._version)
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = SharedTokens(tokens(value), value)
        return found


def _check_layer(name: str, layer: nn.Module) -> None:
    """Refuse layers with which no example's gradient is its own, whether they train or not."""
    kind = type(layer).__name__
    if isinstance(layer, _COUPLING):
        raise PrivacyError(
            f"layer {name!r} ({kind}) mixes the examples of a batch",
            hint="choose a model without batch normalisation: private training has no meaning with it",
        )
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
        raise PrivacyError(
            f"layer {name!r} ({kind}) rescales the rows of the tokens it meets (max_norm), without noise",
            hint="choose a model whose embeddings have no max_norm",
        )


def _assign_rules(
    model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> list[tuple[str, nn.Module, Rule, dict[str, nn.Parameter]]]:
    """For every module that owns a trainable parameter: its rule, and what the rule is to record."""
    rules: list[Rule] = [RULES.get(name) for name in RULES]
    names = {id(parameter): name for name, parameter in parameters.items()}
    everywhere: set[int] = set()
    unclaimed: dict[int, str] = {}
    sites: list[tuple[str, nn.Module, Rule, dict[str, nn.Parameter]]] = []
    for module_name, module in model.named_modules():
        _check_layer(module_name, module)
        claimed: set[int] = set()
        for rule in rules if any(id(parameter) in names for parameter in module.parameters()) else ():
            # A parameter is recorded once: by the first rule that knows its layer.
            wanted = {
                local: p
                for local, p in rule.owned(module).items()
                if id(p) in names and id(p) not in claimed and module is not model
            }
            if wanted:
                sites.append((module_name, module, rule, wanted))
                claimed.update(id(parameter) for parameter in wanted.values())
        for local, parameter in module.named_parameters(recurse=False):
            # A parameter tied into a second layer must be claimed there too, or that use would go unseen.
            if (
                id(parameter) in names
                and id(parameter) not in claimed
                and not isinstance(module, _CONTAINERS)
            ):
                unclaimed.setdefault(id(parameter), f"{module_name}.{local} ({type(module).__name__})")
        everywhere |= claimed
    for key, name in names.items():
        if key not in everywhere:
            unclaimed.setdefault(key, name)
    if unclaimed:
        owners = sorted(unclaimed.values())
        raise UnsupportedLayerError(
            f"no rule gives exact per-example gradients for {', '.join(owners[:3])}"
            + (f" and {len(owners) - 3} more" if len(owners) > 3 else ""),
            hint="choose a --finetune-mode that freezes these parameters "
            f"(layers with a rule: {', '.join(RULES)})",
        )
    return sites
