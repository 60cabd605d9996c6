"""Every architecture, in every mode, with every clipper: what each example contributes is exact, or refused.

The truth is :mod:`dpft.engines.oracle`: one example alone and without padding, through plain autograd. The
tables below say what goes through the model one example at a time, and what is refused; all else is recorded
in a single backward pass. They are what the README's table shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dpft.engines import oracle
from dpft.engines.base import MicroBatch
from dpft.engines.bookkeeping import ENGINE
from dpft.errors import ModelError, PrivacyError
from dpft.privacy.clipping import FlatClipper
from dpft.privacy.gradients import DenseGradient, IndexedGradient, Norms, OuterGradient
from dpft.privacy.rules import conv1d, embedding, linear, lookup, norm, reexecution, rms_norm, scale
from dpft.privacy.rules.base import tokens
from dpft.privacy.tape import Tape
from dpft.tables import CLIPPERS, MODES, RULES
from dpft.training.preflight import check_engine, check_reachable, synthetic_batch
from tests import architectures, models
from tests.architectures import ARCHITECTURES
from tests.unit.export import workshop

RELATIVE = 1e-4

PREFIXES = ("prefix", "prefix+lora")
PROMPTS = ("soft-prompt", "soft-prompt+lora")
NO_PAST = "takes no keys and values from outside"
REFUSED = {
    **{
        (name, mode): NO_PAST
        for name in ("distilbert", "albert", "mpnet", "deberta-v2", "modernbert")
        for mode in PREFIXES
    },
    **{("t5", mode): "classifies with an encoder or a decoder, not with both" for mode in PREFIXES},
    **{("t5", mode): "takes no embeddings in place of token ids" for mode in PROMPTS},
}
"""What an architecture cannot do, and the reason given."""

ONE_BY_ONE = {
    ("mpnet", "full"),  # a table of relative positions, without a batch axis
    ("t5", "full"),  # likewise
    ("deberta-v2", "full"),  # relative positions go through the attention's own projections
    ("deberta-v2", "lora"),
    ("deberta-v2", "ia3"),
    ("deberta-v2", "soft-prompt+lora"),
}
"""What goes through the model one example at a time."""

CASES = [(name, mode) for name in ARCHITECTURES for mode in MODES.names() if (name, mode) not in REFUSED]


@functools.cache
def tuned(name: str, mode: str) -> tuple[Any, dict[str, nn.Parameter]]:
    return architectures.tuned(name, mode)


@functools.cache
def truth(name: str, mode: str) -> tuple[list[dict[str, Tensor]], Tensor]:
    model, parameters = tuned(name, mode)
    gradients = oracle.per_example_gradients(model, parameters, architectures.batch(name))
    return gradients, oracle.clipped_sum(gradients, 1.0)[1]


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative, over all parameters together."""
    return float((models.flat(found) - models.flat(expected)).norm() / models.flat(expected).norm())


def error(
    model: Any, parameters: dict[str, nn.Parameter], batch: MicroBatch, session: Callable[..., Any]
) -> float:
    """The largest relative difference from the oracle, over norms and the clipped sum."""
    gradients = oracle.per_example_gradients(model, parameters, batch)
    _, norms = oracle.clipped_sum(gradients, 1.0)
    clipper = FlatClipper(float(norms.median()))
    sums = models.zeros(parameters)
    with session(model, parameters, clipper, "fp32") as opened:
        report = opened.accumulate(batch, sums)
    worst = float(((report.norms - norms).abs() / norms).max())
    return max(worst, difference(sums, oracle.clipped_sum(gradients, clipper)[0]))


# -- exactness


@pytest.mark.parametrize("clipping", CLIPPERS.names())
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_norms_and_clipped_sums_equal_the_oracle(name: str, mode: str, clipping: str) -> None:
    model, parameters = tuned(name, mode)
    gradients, norms = truth(name, mode)
    clipper = CLIPPERS.get(clipping)(float(norms.median()))
    sums = models.zeros(parameters)
    with ENGINE.session(model, parameters, clipper, "fp32") as session:
        report = session.accumulate(architectures.batch(name), sums)
        slow = any("each example goes through the model on its own" in note for note in session.notes)
    torch.testing.assert_close(report.norms, norms, rtol=RELATIVE, atol=0)
    assert difference(sums, oracle.clipped_sum(gradients, clipper)[0]) <= RELATIVE
    assert slow == ((name, mode) in ONE_BY_ONE)


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(rows=st.integers(1, 6), length=st.integers(2, 12), seed=st.integers(0, 99))
def test_shapes_do_not_matter(name: str, mode: str, rows: int, length: int, seed: int) -> None:
    model, parameters = tuned(name, mode)
    assert error(model, parameters, architectures.batch(name, rows, length, seed), ENGINE.session) <= RELATIVE


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_preflight_agrees(name: str, mode: str) -> None:
    """Exact under more padding and in other company, and every trainable parameter is reached."""
    model, parameters = tuned(name, mode)
    batch = synthetic_batch(
        model,
        token_types=False,
        labels=architectures.LABELS,
        pad_token_id=int(ARCHITECTURES[name]["pad_token_id"]),
    )
    check_reachable(model, parameters, batch)
    notes = check_engine(ENGINE, model, parameters, batch)
    assert bool(notes) == ((name, mode) in ONE_BY_ONE)


@pytest.mark.parametrize(("name", "mode"), REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(name: str, mode: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[name, mode]) as caught:
        architectures.tuned(name, mode)
    assert "\n" not in caught.value.message
    assert "--finetune-mode" in caught.value.hint


def test_a_decoder_with_a_soft_prompt_answers_at_the_end_of_each_text() -> None:
    model, _ = tuned("llama", "soft-prompt")
    batch = architectures.batch("llama")
    with torch.no_grad():
        together = model(**batch.inputs).logits
        alone = torch.cat([model(**oracle.alone(batch, row)).logits for row in range(len(batch))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_planted_answer_at_the_padding_is_caught() -> None:
    model, parameters = architectures.tuned("llama", "soft-prompt")
    model.base_model.score._forward_pre_hooks.clear()
    assert error(model, parameters, architectures.batch("llama"), ENGINE.session) > 0.1


# -- frozen parts, shared weights, checkpointing


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "opt", "gemma", "qwen3"])
def test_frozen_parts_may_be_anywhere(name: str) -> None:
    model, parameters = architectures.tuned(name, "full")
    for number, parameter in enumerate(parameters.values()):
        parameter.requires_grad_(number % 3 == 0)
    some = {key: p for key, p in parameters.items() if p.requires_grad}
    assert error(model, some, architectures.batch(name), ENGINE.session) <= RELATIVE


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_tied_weights_have_the_gradient_of_all_their_uses(name: str) -> None:
    """Two layers of different depth, and of different kinds, with one weight."""
    model, _ = architectures.tuned(name, "full")
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)
    for (at, first), (_, second) in zip(layers[0].named_modules(), layers[1].named_modules(), strict=True):
        if at.endswith(("dense", "c_fc", "up_proj")):
            second.weight = first.weight
    parameters = dict(model.named_parameters())
    assert error(model, parameters, architectures.batch(name), ENGINE.session) <= RELATIVE


def checkpointing(name: str, mode: str, *, reentrant: bool) -> tuple[Any, dict[str, nn.Parameter], list[int]]:
    """A model that runs its layers again during backward, and a list that grows with each run of one."""
    silent = {
        "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "llama": {"attention_dropout": 0.0, "use_cache": False},
    }[name]
    model, parameters = architectures.tuned(name, mode, **silent)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.activation_checkpointing_enable({"use_reentrant": reentrant})
    runs: list[int] = []
    layers = next(m for m in base.modules() if isinstance(m, nn.ModuleList))
    inner = next(m for m in layers.modules() if isinstance(m, nn.Linear))
    inner.register_forward_hook(lambda *_: runs.append(1))
    return model.train(), parameters, runs


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_checkpointing_counts_nothing_twice(name: str, mode: str) -> None:
    """The forward pass is run again during backward; what it shows then was recorded already."""
    model, parameters, runs = checkpointing(name, mode, reentrant=False)
    batch = architectures.batch(name)
    with ENGINE.recording(model, parameters, FlatClipper(1.0), "fp32") as session:
        session.accumulate(batch, models.zeros(parameters))
    assert len(runs) == 2  # it was really run again
    assert error(model, parameters, batch, ENGINE.recording) <= RELATIVE
    assert error(model, parameters, batch, ENGINE.session) <= RELATIVE


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_reentrant_checkpointing_is_refused(name: str) -> None:
    model, parameters, _ = checkpointing(name, "full", reentrant=True)
    with (
        ENGINE.session(model, parameters, FlatClipper(1.0), "fp32") as session,
        pytest.raises(PrivacyError, match="reentrant") as caught,
    ):
        session.accumulate(architectures.batch(name), models.zeros(parameters))
    assert "use_reentrant=False" in caught.value.hint
    model, parameters, _ = checkpointing(name, "lora", reentrant=True)  # there, nothing gets a gradient
    with pytest.raises(ModelError, match=r"does not depend on .*lora_A"):
        check_reachable(model, parameters, architectures.batch(name))


# -- one planted error per rule


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
    found = error(model, used, architectures.batch(name), ENGINE.recording)
    assert (found > 10 * RELATIVE) if planted else (found <= RELATIVE)


@pytest.mark.parametrize(("name", "mode"), [("bert", "full"), ("gpt2", "lora"), ("gemma", "ia3")])
def test_planted_sum_over_the_batch_is_caught(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Tape.watch

    def summed(self: Tape, value: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor:
        return watch(self, value, lambda g: on_gradient(g.mean(0, keepdim=True).expand_as(g).contiguous()))

    monkeypatch.setattr(Tape, "watch", summed)
    model, parameters = tuned(name, mode)
    assert error(model, parameters, architectures.batch(name), ENGINE.recording) > 10 * RELATIVE


# -- saved, restored, exported


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("architectures")

    @functools.cache
    def folder(name: str) -> Path:
        return architectures.checkpoint(name, root / name)

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "format_name"),
    [("lora", "peft"), ("lora", "merged"), ("ia3", "merged"), ("full", "merged"), ("soft-prompt", "peft")],
)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_trained_is_saved_restored_and_exported(
    name: str, mode: str, format_name: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """Every export is loaded afresh and its logits compared: with those of the model that was saved."""
    if (name, mode) in REFUSED:
        pytest.skip("refused: see REFUSED")
    spec = workshop.make_spec(folders(name), mode, dataset="sst2")
    made = workshop.make_run(tmp_path / "home", spec)
    report = made.export(tmp_path / "export", format_name)
    assert report.max_logit_difference <= 1e-5 * max(1.0, 10 * (format_name == "merged"))
