"""One planted error per rule, on a real architecture: the comparison with the oracle must reject each.

The guard is left out here (``ENGINE.recording``): it would notice, and go one example at a time instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpft.engines.bookkeeping import ENGINE
from dpft.privacy.gradients import DenseGradient, IndexedGradient, Norms, OuterGradient
from dpft.privacy.rules import conv1d, embedding, linear, lookup, norm, reexecution, rms_norm, scale
from dpft.privacy.rules.base import tokens
from dpft.privacy.tape import Tape
from dpft.tables import RULES
from tests import architectures


class NoBias(linear.LinearRule):
    """The bias forgotten."""

    def record(self, module: Any, wanted: Any, *rest: Any) -> None:
        super().record(module, {key: p for key, p in wanted.items() if key != "bias"}, *rest)


class EachTokenApart(embedding.EmbeddingRule):
    """A norm that forgets that a token may occur twice."""

    def record(self, module: Any, wanted: Any, seen: Tensor, gradient: Tensor, tape: Tape) -> None:
        class Apart(IndexedGradient):
            def norms(self) -> Norms:
                square = self.output_gradients.double().square().sum((1, 2))
                return Norms(square, square)

        tape.add(wanted["weight"], Apart(seen.flatten(1), tokens(gradient), module.num_embeddings))


class Unscaled(lookup.LookupRule):
    """The factor forgotten."""

    def attach(self, site: str, module: Any, wanted: Any, tape: Tape) -> Any:
        def after(_: Any, args: Any, output: Tensor) -> Any:
            def record(g: Tensor) -> None:
                tape.add(wanted["weight"], IndexedGradient(args[0], g, module.num_embeddings))

            return tape.watch(output, record) if tape.active else None

        return [module.register_forward_hook(after)]


class Untransposed(conv1d.Conv1DRule):
    """The weight as a linear layer stores it."""

    def record(self, module: Any, wanted: Any, seen: Tensor, gradient: Tensor, tape: Tape) -> None:
        tape.add(wanted["weight"], OuterGradient(tokens(seen), tokens(gradient)))
        tape.add(wanted["bias"], DenseGradient(tokens(gradient).sum(1)))


class NotNormalised(norm.LayerNormRule):
    """The input in place of the normalised input."""

    def record(self, module: Any, wanted: Any, seen: Tensor, gradient: Tensor, tape: Tape) -> None:
        tape.add(wanted["weight"], DenseGradient((gradient * seen).flatten(1, -2).sum(1)))
        tape.add(wanted["bias"], DenseGradient(gradient.flatten(1, -2).sum(1)))


class Centred(rms_norm.RMSNormRule):
    """A layer norm's normalisation."""

    def attach(self, site: str, module: Any, wanted: Any, tape: Tape) -> Any:
        class Inner(rms_norm._KnownEpsilon):
            def record(self, module: Any, wanted: Any, seen: Tensor, *rest: Any) -> None:
                super().record(module, wanted, seen - seen.mean(-1, keepdim=True), *rest)

        return Inner(1e-6).attach(site, module, wanted, tape)


class LastTokenOnly(scale.ScaleRule):
    """A gradient that is not summed over tokens."""

    def attach(self, site: str, module: Any, wanted: Any, tape: Tape) -> Any:
        class Spy:
            def __getattr__(self, name: str) -> Any:
                return getattr(tape, name)

            def examples(self, value: Tensor) -> Tensor:
                kept = torch.zeros_like(value)
                kept[:, :1] = value[:, :1]
                return kept

        return super().attach(site, module, wanted, Spy())  # type: ignore[arg-type]


class Exchanged(reexecution.ReexecutionRule):
    """The gradient of a neighbour."""

    def attach(self, site: str, module: Any, wanted: Any, tape: Tape) -> Any:
        class Spy:
            def __getattr__(self, name: str) -> Any:
                return getattr(tape, name)

            def add(self, parameter: nn.Parameter, gradient: DenseGradient) -> None:
                tape.add(parameter, DenseGradient(gradient.values.roll(1, 0)))

        return super().attach(site, module, wanted, Spy())  # type: ignore[arg-type]


class Unheard(nn.LayerNorm):
    """A layer norm that the rule for layer norms must not take for one."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


def with_unheard_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = Unheard
    return model


PLANTED: dict[str, tuple[Any, str, str, Callable[[Any], Any]]] = {
    "linear": (NoBias(), "bert", "", lambda model: model),
    "embedding": (EachTokenApart(), "bert", "", lambda model: model),
    "lookup": (Unscaled(), "gemma", "", lambda model: model),
    "conv1d": (Untransposed(), "gpt2", r"attn.c_proj", lambda model: model),  # square: the shapes would fit
    "layer-norm": (NotNormalised(), "bert", "", lambda model: model),
    "rms-norm": (Centred(), "llama", "", lambda model: model),
    "ia3-scale": (LastTokenOnly(), "bert", "", lambda model: model),
    "re-execution": (Exchanged(), "bert", "", with_unheard_norms),
}


@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "planted"])
@pytest.mark.parametrize("rule", RULES.names())
def test_one_planted_error_per_rule_is_caught(
    rule: str, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, name, part, change = PLANTED[rule]
    model, parameters = architectures.tuned(name, "ia3" if rule == "ia3-scale" else "full")
    change(model)
    used = {key: p for key, p in parameters.items() if part in key}
    for key, parameter in parameters.items():
        parameter.requires_grad_(key in used)
    right = RULES.get
    if planted:
        monkeypatch.setattr(RULES, "get", lambda asked: wrong if asked == rule else right(asked))
    found = architectures.error(model, used, architectures.batch(name), ENGINE.recording)
    assert (found > 10 * architectures.RELATIVE) if planted else (found <= architectures.RELATIVE)


@pytest.mark.parametrize(("name", "mode"), [("bert", "full"), ("gpt2", "lora"), ("gemma", "ia3")])
def test_planted_sum_over_the_batch_is_caught(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Tape.watch

    def summed(self: Tape, value: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor:
        return watch(self, value, lambda g: on_gradient(g.mean(0, keepdim=True).expand_as(g).contiguous()))

    monkeypatch.setattr(Tape, "watch", summed)
    model, parameters = architectures.tuned(name, mode)
    found = architectures.error(model, parameters, architectures.batch(name), ENGINE.recording)
    assert found > 10 * architectures.RELATIVE
