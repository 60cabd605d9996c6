"""ONNX files: bound to their manifest, and right for shapes that they were not traced with."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from dpft.errors import ExportError, UntrustedError, UsageError
from dpft.export import onnx as onnx_format
from dpft.export.proof import verify
from dpft.export.verify import compare, logits_of
from dpft.runs.onnx_file import read_onnx
from dpft.tuning.virtual import read_where_texts_end
from tests import architectures
from tests.unit.export.workshop import MadeRun

from .proof.conftest import list_anew

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")


@pytest.fixture(scope="module")
def exported(lora: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return lora.export(tmp_path_factory.mktemp("onnx") / "export", "onnx").path


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(exported, tmp_path / "copy"))


def failures(folder: Path) -> list[str]:
    """After the digests were made to agree, as anyone can."""
    list_anew(folder)
    return [check.name for check in verify(folder).failed]


def change(folder: Path, edit: Any) -> None:
    model = onnx.load(folder / "model.onnx")
    edit(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def test_the_file_is_one_model_with_open_axes_its_opset_and_its_statement(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [17]
    axes = [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert (axes, [output.name for output in model.graph.output]) == (["batch", "sequence"], ["logits"])
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert list(read_onnx(exported / "model.onnx").metadata) == ["dpft"]
    content = (exported / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content
    assert failures(exported) == []


def test_a_changed_weight_a_changed_graph_and_a_foreign_statement_are_found(folder: Path) -> None:
    original = (folder / "model.onnx").read_bytes()

    def weight(model: Any) -> None:
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        largest.raw_data = largest.raw_data[:-4] + struct.pack("<f", 9.0)

    def node(model: Any) -> None:
        next(entry for entry in model.graph.node if entry.op_type == "Tanh").op_type = "Sigmoid"

    def run_id(model: Any) -> None:
        said = json.loads(model.metadata_props[0].value)
        model.metadata_props[0].value = json.dumps({**said, "run_id": "0" * 16})

    def another_key(model: Any) -> None:
        model.metadata_props.add(key="seed", value="1")

    def unsaid(model: Any) -> None:
        del model.metadata_props[:]

    for edit, check in (
        (weight, "tensors"), (node, "tensors"), (run_id, "header"), (another_key, "header"),
        (unsaid, "header"),
    ):  # fmt: skip
        (folder / "model.onnx").write_bytes(original)
        change(folder, edit)
        assert check in failures(folder), edit.__name__


def test_other_weights_beside_the_file_are_found(folder: Path, lora: MadeRun, tmp_path: Path) -> None:
    merged = lora.export(tmp_path / "merged", "merged").path
    (folder / "model.safetensors").write_bytes((merged / "model.safetensors").read_bytes())
    assert "tensors" in failures(folder)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x0b", b"\x3a\xff\xff\x03abc", b"\x08" + b"\xff" * 11])
def test_what_is_no_onnx_file_is_refused(content: bytes, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(content)
    if content:
        with pytest.raises(UntrustedError, match=r"model\.onnx"):
            read_onnx(folder / "model.onnx")
    else:
        assert "header" in failures(folder)


def test_a_statement_given_twice_is_refused(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"\x72\x08\x0a\x04dpft\x12\x00")
    with pytest.raises(UntrustedError, match="twice"):
        read_onnx(folder / "model.onnx")


def test_missing_packages_are_named_before_anything_is_loaded(
    lora: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str, *rest: Any) -> Any:
        return None if name == "onnxruntime" else importlib.util.find_spec(name, *rest)

    monkeypatch.setattr(onnx_format, "find_spec", find)
    with pytest.raises(UsageError, match="needs onnxruntime") as caught:
        lora.export(tmp_path / "export", "onnx")
    assert caught.value.hint == "pip install 'dpft[onnx]'"
    assert not list(tmp_path.iterdir())


def test_a_model_too_large_for_one_file_is_refused(
    lora: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_format, "_MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="one ONNX file holds 2 GiB"):
        lora.export(tmp_path / "export", "onnx")
    assert not list(tmp_path.iterdir())


def test_planted_a_graph_frozen_at_one_shape_is_never_published(
    lora: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an exporter takes for a constant is right for the shape it saw, and for no other."""
    original = onnx_format._Logits.forward

    def frozen(self: Any, *inputs: torch.Tensor) -> torch.Tensor:
        found = original(self, *inputs)
        return found + (0.0 if inputs[0].shape[0] == 4 else 1e-2)

    monkeypatch.setattr(onnx_format, "_TRACED", (4, 7))
    monkeypatch.setattr(onnx_format._Logits, "forward", frozen)
    run_logits = logits_of

    def shifted(model: Any, batch: Any, **options: Any) -> torch.Tensor:
        found = run_logits(model, batch, **options)
        of_run = hasattr(model, "parameters")
        return found + (1e-2 if of_run and len(batch["input_ids"]) != 4 else 0.0)

    monkeypatch.setattr("dpft.export.build.logits_of", shifted)
    with pytest.raises(ExportError, match="does not reproduce the run"):
        lora.export(tmp_path / "export", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gpt2", "roberta", "t5", "modernbert"])
@pytest.mark.parametrize("mode", ["soft-prompt", "lora"])
def test_other_architectures_at_other_shapes(name: str, mode: str, tmp_path: Path) -> None:
    if (name, mode) == ("t5", "soft-prompt"):
        pytest.skip("it takes no soft prompt")
    model, _ = architectures.tuned(name, mode)
    model.eval()
    onnx_format._trace(model, architectures.batch(name, 3, 7).inputs, tmp_path / "model.onnx")
    session = onnx_format._Session(tmp_path / "model.onnx")
    for rows, length in ((1, 5), (3, 17), (8, 30), (2, 2)):
        batch = architectures.batch(name, rows, length).inputs
        expected = logits_of(model, batch)
        compare(expected, logits_of(session, batch), 1e-4 * max(1.0, float(expected.abs().max())))


def test_a_decoders_soft_prompt_reads_where_texts_end_in_the_graph_too(tmp_path: Path) -> None:
    """Planted: without the hook the graph reads the padding, and the comparison sees it."""
    model, _ = architectures.tuned("llama", "soft-prompt")
    batch = architectures.batch("llama").inputs
    onnx_format._trace(model, batch, tmp_path / "right.onnx")
    expected = logits_of(model, batch)
    compare(expected, logits_of(onnx_format._Session(tmp_path / "right.onnx"), batch), 1e-4)
    model.base_model.score._forward_pre_hooks.clear()
    onnx_format._trace(model, batch, tmp_path / "wrong.onnx")
    with pytest.raises(ExportError):
        compare(expected, logits_of(onnx_format._Session(tmp_path / "wrong.onnx"), batch), 1e-4)
    assert read_where_texts_end  # the hook that was cleared is this function's
