"""Quick runs, ways for them to end, and what the ledger says of them: for the tests of spending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpft.runs.ledger import Entry, Ledger
from dpft.runs.store import Store
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.training.observer import Observer, Progress, RunFacts

STEPS = 3


def spec_maker(model: Path, folder: Path) -> Callable[..., RunSpec]:
    """Specs of quick runs of three steps; options of the privacy part are taken as they are."""

    def make(
        *,
        mode: str = "ia3",
        data: Path = folder,
        length: int = 32,
        every: int | None = None,
        **privacy: Any,
    ) -> RunSpec:
        given = {} if privacy.get("enabled") is False else {"target_epsilon": None, "noise_multiplier": 1.5}
        return RunSpec(
            data=DataSpec(dataset="sst2", data_dir=str(data), max_length=length),
            model=ModelSpec(checkpoint=str(model)),
            tuning=TuningSpec(mode=mode),
            privacy=PrivacySpec(**{**given, **privacy}),
            optimisation=OptimisationSpec(learning_rate=1e-2, batch_size=20, epochs=1.0),
            hardware=HardwareSpec(precision="fp32", micro_batch_tokens=400, checkpoint_every=every),
        )

    return make


class StopsAfter(Observer):
    """Ctrl-C, or something worse, after some step."""

    def __init__(self, step: int, how: type[BaseException] = KeyboardInterrupt) -> None:
        self.step, self.how = step, how
        self.warnings: list[str] = []

    def started(self, facts: RunFacts) -> None:
        if self.step == 0:
            raise self.how

    def progressed(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise self.how

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def charged() -> tuple[Entry, ...]:
    """All charges in the store, which is of one dataset."""
    ledger = Ledger()
    (fingerprint,) = ledger.fingerprints()
    return ledger.entries(fingerprint)


def tuning_of(run_id: str) -> dict[str, Any]:
    return dict(Store().manifest(Store().resolve(run_id))["tuning"])
