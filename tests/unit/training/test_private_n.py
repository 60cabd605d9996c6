"""Row 11: with ``--public-n`` nothing that leaves a run tells how many examples there were.

Neighbours are 64 rows, and the same without one: around 64 the default batch size and the number of steps
would both change. What is set aside is what is drawn afresh for every run, and what the noise decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpft.errors import PrivacyError, UsageError
from dpft.privacy.plan import PrivatePlan, Schedule, derive_schedule, make_plan
from dpft.runs.manifest import Manifest
from dpft.runs.manifest_parts import DELTA_CHOSEN, DELTA_FROM_ROWS
from dpft.spec import DataSpec, HardwareSpec, ModelSpec, OptimisationSpec, PrivacySpec, RunSpec, TuningSpec
from dpft.training.assemble import Assembled, assemble
from dpft.training.declare import declare
from dpft.training.observer import Observer, RunFacts
from dpft.training.run import train

ROWS, DECLARED = 64, 70
SET_ASIDE = (("identity", "run_id"), ("identity", "created"), ("evidence", "tensors_sha256"))
OPTIMISATION = OptimisationSpec(learning_rate=1e-2, epochs=1.0)


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data of 64 rows, and without the last of them."""
    rows = [
        f"{'a fine film' if i % 3 else 'a dull film'} {'and fun ' * (i % 5)}\t{int(i % 3 > 0)}"
        for i in range(ROWS)
    ]
    folders = []
    for kept in (rows, rows[:-1]):
        folder = tmp_path_factory.mktemp("rows") / "SST-2"
        folder.mkdir()
        (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *kept]) + "\n")
        (folder / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows[:20]]) + "\n")
        folders.append(folder.parent)
    return folders[0], folders[1]


def spec_for(model: Path, data: Path, **privacy: Any) -> RunSpec:
    return RunSpec(
        data=DataSpec(dataset="sst2", data_dir=str(data), max_length=32),
        model=ModelSpec(checkpoint=str(model)),
        tuning=TuningSpec(mode="ia3"),
        privacy=PrivacySpec(
            **{"public_n": DECLARED, "target_epsilon": None, "noise_multiplier": 2.0, **privacy}
        ),
        optimisation=OPTIMISATION,
        hardware=HardwareSpec(precision="fp32", micro_batch_tokens=400),
    )


def stripped(document: dict[str, Any]) -> bytes:
    """A manifest's bytes, less what is set aside."""
    for group, field in SET_ASIDE:
        document[group].pop(field)
    return json.dumps(document, ensure_ascii=False).encode()


Planner = Callable[[int, PrivacySpec], PrivatePlan]


class Pair:
    """Both datasets, ready to train on; a manifest is made as if every step had been taken."""

    def __init__(self, model: Path, folders: tuple[Path, Path]) -> None:
        self.specs = [spec_for(model, folder) for folder in folders]
        self.assembled: list[Assembled] = [assemble(spec, Observer()) for spec in self.specs]

    def manifests(self, planner: Planner, **plan_changes: Any) -> list[bytes]:
        found = []
        for spec, assembled in zip(self.specs, self.assembled, strict=True):
            plan = planner(assembled.data.splits["train"].rows, spec.privacy)
            plan.steps_taken = plan.schedule.steps
            manifest = declare(
                run_id="0123456789abcdef",
                home=None,
                spec=spec,
                assembled=assembled,
                parameters=assembled.parameters,
                plan=plan,
                validation_split="validation",
                tensors_sha256="ab" * 32,
            )
            found.append(stripped(manifest.to_dict()))
        return found


@pytest.fixture
def pair(tiny_model: Path, neighbours: tuple[Path, Path]) -> Pair:
    return Pair(tiny_model, neighbours)


def honest(examples: int, privacy: PrivacySpec) -> PrivatePlan:
    plan = make_plan(examples, OPTIMISATION, privacy)
    assert isinstance(plan, PrivatePlan)
    return plan


def leaking(leak: Callable[[Schedule, int], Schedule]) -> Planner:
    """A planner that lets the realised number into its schedule."""

    def plan(examples: int, privacy: PrivacySpec) -> PrivatePlan:
        made = honest(examples, privacy)
        sigma = made.planned_event.noise_multiplier
        return PrivatePlan(leak(made.schedule, examples), made.clipper, sigma, examples=examples)

    return plan


def of_realised(examples: int) -> Schedule:
    return derive_schedule(examples, OPTIMISATION, None)


# Each is a valid manifest in itself: only the comparison of neighbours gives it away.
CONSISTENT_LEAKS: dict[str, Callable[[Schedule, int], Schedule]] = {
    "q, by the default batch size": lambda s, n: replace(
        s,
        expected_batch_size=of_realised(n).expected_batch_size,
        sample_rate=of_realised(n).expected_batch_size / s.examples,
    ),
    "T": lambda s, n: replace(s, steps=of_realised(n).steps),
    "δ": lambda s, n: replace(s, delta=1 / (2 * n), delta_rule=DELTA_CHOSEN),
    "rows": lambda s, n: replace(of_realised(n), delta_rule=DELTA_FROM_ROWS, declared=False),
}

# These a manifest's own parts contradict, so that it is not even made.
REFUSED_LEAKS: dict[str, Callable[[Schedule, int], Schedule]] = {
    "q": lambda s, n: replace(s, sample_rate=s.expected_batch_size / n),
    "δ": lambda s, n: replace(s, delta=1 / (2 * n)),
    "rows": lambda s, n: replace(s, examples=n),
}


def test_manifests_of_neighbours_are_the_same_bytes(pair: Pair) -> None:
    one, other = pair.manifests(honest)
    assert one == other
    document = json.loads(one)
    assert document["data"]["rows_declared"] == DECLARED
    assert {"rows", "fingerprint"} & document["data"].keys() == set()
    assert document["guarantee"]["delta"] == 1 / (2 * DECLARED)
    assert document["events"][0]["sample_rate"] == document["mechanism"]["expected_batch_size"] / DECLARED
    assert "number of examples" not in document["statement"]


@pytest.mark.parametrize("leak", CONSISTENT_LEAKS)
def test_a_planted_leak_is_seen(leak: str, pair: Pair) -> None:
    one, other = pair.manifests(leaking(CONSISTENT_LEAKS[leak]))
    assert one != other


@pytest.mark.parametrize("leak", REFUSED_LEAKS)
def test_a_leak_that_contradicts_the_declaration_is_refused(leak: str, pair: Pair) -> None:
    planner = leaking(REFUSED_LEAKS[leak])
    try:
        one, other = pair.manifests(planner)
    except PrivacyError:
        return
    assert one != other, "neither refused nor seen"
    raise AssertionError("it was seen, but not refused")


def test_without_a_declaration_neighbours_differ_and_the_manifest_says_so(
    tiny_model: Path, neighbours: tuple[Path, Path]
) -> None:
    """So that the comparison above is known to see anything at all."""
    pair = Pair(tiny_model, neighbours)
    pair.specs = [spec_for(tiny_model, folder, public_n=None) for folder in neighbours]
    one, other = pair.manifests(honest)
    assert one != other
    assert "number of examples" in json.loads(one)["statement"]


class Listening(Observer):
    def __init__(self) -> None:
        self.facts: list[RunFacts] = []
        self.warnings: list[str] = []

    def started(self, facts: RunFacts) -> None:
        self.facts.append(facts)

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def test_whole_runs_on_neighbours_leave_the_same_traces(
    tiny_model: Path, neighbours: tuple[Path, Path], tmp_path: Path
) -> None:
    traces = []
    for folder in neighbours:
        heard = Listening()
        record = train(spec_for(tiny_model, folder, target_epsilon=8.0, noise_multiplier=None), heard)
        files = json.loads((record.run_dir / "files.json").read_bytes())["files"]
        manifest = json.loads((record.run_dir / "privacy.json").read_bytes())
        card = (record.run_dir / "adapter" / "README.md").read_text()
        lines = [json.loads(line) for line in (record.run_dir / "metrics.jsonl").read_text().splitlines()]
        assert not any("rows" in name for line in lines for name in line)
        row = record.to_public_json()
        for name in ("run_id", "name", "created", "finished", "seconds", "metrics", "run_dir"):
            del row[name]
        (facts,) = heard.facts
        traces.append(
            {
                "manifest": stripped(manifest),
                "card": card,
                "files": [(f["name"], f["size"]) for f in files if f["name"] != "metrics.jsonl"],
                "metrics": [(line["step"], line["epsilon"], sorted(line)) for line in lines],
                "row": row,
                "facts": replace(facts, run_id="", name=""),
            }
        )
    for name, trace in traces[0].items():
        assert trace == traces[1][name], name


def test_each_example_is_drawn_with_the_declared_rate_whatever_their_number() -> None:
    privacy = PrivacySpec(public_n=1000, target_epsilon=None, noise_multiplier=1.0)
    optimisation = OptimisationSpec(learning_rate=1.0, batch_size=100)
    for examples in (900, 4000):
        plan = make_plan(examples, optimisation, privacy)
        assert isinstance(plan, PrivatePlan)
        assert plan._sampler.sample_rate == 0.1
        assert (plan._sampler.examples, plan.schedule.examples) == (examples, 1000)
        assert plan.doubt() is None
        mean = sum(len(_draw_and_close(plan)) for _ in range(30)) / 30
        assert abs(mean - examples / 10) < 6 * (examples * 0.09 / 30) ** 0.5


def _draw_and_close(plan: PrivatePlan) -> Any:
    draw = plan.draw()
    plan.release(draw, {})
    return draw.indices


def test_more_examples_than_declared_train_with_a_warning_that_stays_here(
    tiny_model: Path, neighbours: tuple[Path, Path]
) -> None:
    """A refusal would tell outsiders that there are more."""
    heard = Listening()
    record = train(spec_for(tiny_model, neighbours[0], public_n=40), heard)
    assert record.status == "completed"
    assert [text for text in heard.warnings if "--public-n" in text]
    document = json.loads((record.run_dir / "privacy.json").read_text())
    assert ROWS not in (*document["data"].values(), *document["mechanism"].values())


def test_a_batch_is_held_against_the_declared_number() -> None:
    privacy = PrivacySpec(public_n=50)
    with pytest.raises(UsageError, match="the 50 examples of --public-n"):
        make_plan(1000, OptimisationSpec(learning_rate=1.0, batch_size=60), privacy)
    with pytest.raises(PrivacyError, match="not below 1/n"):
        make_plan(1000, OptimisationSpec(learning_rate=1.0), PrivacySpec(public_n=50, target_delta=0.03))


def test_a_manifest_with_a_declared_number_is_a_valid_one(pair: Pair) -> None:
    document = json.loads(pair.manifests(honest)[0])
    document["identity"] |= {"run_id": "0123456789abcdef", "created": "2026-01-02T03:04:05Z"}
    assert Manifest.model_validate(document).data.rows_declared == DECLARED
