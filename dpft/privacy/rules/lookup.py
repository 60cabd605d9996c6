"""Embedding tables with a forward of their own: rows chosen elsehow (OPT's positions), or scaled (Gemma).

Which rows were read, and times what, is asked of the layer itself: the same call with a one-column table that
holds row numbers answers with row numbers, one that holds ones answers with factors. Then ``factor · W[row]``
must be what the layer gave, for every token, or the layer is not handled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from dpft.errors import UnsupportedLayerError
from dpft.privacy.gradients import IndexedGradient
from dpft.privacy.rules.base import Rule, close, tokens
from dpft.privacy.tape import Tape

__all__ = ["RULE", "LookupRule"]


class LookupRule(Rule):
    """Subclasses of ``torch.nn.Embedding`` that give rows of their table, possibly scaled."""

    def owned(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The table, where the class has its own ``forward``."""
        if not isinstance(module, nn.Embedding) or type(module).forward is nn.Embedding.forward:
            return {}
        if module.max_norm is not None or module.scale_grad_by_freq:
            return {}
        own = dict(module.named_parameters(recurse=False))
        return own if own.keys() == {"weight"} else {}

    def attach(
        self, site: str, module: nn.Module, wanted: dict[str, nn.Parameter], tape: Tape
    ) -> list[RemovableHandle]:
        """Ask for rows and factors; watch the output."""
        assert isinstance(module, nn.Embedding)
        weight = wanted["weight"]

        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
            if not tape.active:
                return None
            with tape.paused():
                ids, factors = _read(site, module, args, kwargs, output)
            watched = tape.batched(site, output)
            ids = tape.examples(ids.expand(watched.shape[:-1])).flatten(1)
            factors = tape.examples(factors.expand(watched.shape[:-1])).flatten(1)

            def record(gradient: Tensor) -> None:
                g = tokens(tape.examples(gradient)) * factors[:, :, None]
                tape.add(weight, IndexedGradient(ids, g, module.num_embeddings))

            return tape.watch(watched, record)

        return [module.register_forward_hook(after, with_kwargs=True)]


def _read(
    site: str, module: nn.Embedding, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> tuple[Tensor, Tensor]:
    """Rows and factors of each token; the factor is zero where a token gives its row no gradient."""
    rows = torch.arange(module.num_embeddings, device=module.weight.device, dtype=torch.float64)[:, None]
    with torch.no_grad():
        scaled = functional_call(module, {"weight": rows}, args, kwargs)
    ones = torch.ones_like(rows, requires_grad=True)
    with torch.enable_grad():
        factors = functional_call(module, {"weight": ones}, args, kwargs)
        (reach,) = torch.autograd.grad(factors.sum(), ones)
    factors = factors.detach().squeeze(-1)
    ids = (scaled.squeeze(-1) / factors).round().long().clamp_(0, module.num_embeddings - 1)
    expected = module.weight.detach()[ids] * factors[..., None]
    if not isinstance(output, Tensor) or not close(output.detach(), expected):
        raise UnsupportedLayerError(
            f"layer {site!r} ({type(module).__name__}) gives more than rows of its table",
            hint="freeze this layer, or choose another --finetune-mode",
        )
    padding = module.padding_idx
    if padding is not None and not bool(reach[padding].any()):
        factors = factors.masked_fill(ids == padding, 0.0)
    return ids, factors.float()


RULE = LookupRule()
