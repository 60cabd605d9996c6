"""``--format onnx``: one ONNX file, virtual tokens and adapters inside, for ONNX Runtime."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dpft.errors import ExportError, UsageError
from dpft.export import snippets
from dpft.export.build import build
from dpft.export.form import MERGED, TRANSFORMERS, Form
from dpft.export.plain import exported_statement
from dpft.export.report import ExportReport
from dpft.export.source import RestoredRun
from dpft.export.verify import SHAPE, Batch, synthetic_batch
from dpft.runs.onnx_file import read_onnx
from dpft.runs.record import RunRecord
from dpft.spec import RunSpec

__all__ = ["OPSET", "OnnxFolder", "export"]

OPSET = 17
"""Version of the standard operators; ONNX Runtime knows it since 1.12."""

_FILE = "model.onnx"
_PACKAGES = ("onnx", "onnxruntime")
_SHAPES = (SHAPE, (1, 5), (3, 17), (8, 64))
_TRACED = (3, 7)  # no axis of 1: it would be taken for a constant
_MOST_BYTES = (2 << 30) - (64 << 20)  # a protocol-buffers message ends at 2 GiB; the graph needs some of it


def export(record: RunRecord, spec: RunSpec, output: Path, *, overwrite: bool = False) -> ExportReport:
    """Publish a run's model as one ONNX file: logits from token ids, for any number of rows and tokens.

    Every mode can be exported; adapters and virtual tokens become part of the graph.

    Args:
        record: the run.
        spec: what it was asked to do.
        output: the folder to be made.
        overwrite: replace an earlier export there.

    Returns:
        What was published. The largest logit difference, under ONNX Runtime and over batches of several
        shapes, is at most 1e-4 times the run's largest absolute logit (or 1, if that is larger).

    Raises:
        UsageError: a package is missing, the model is too large, or ``output`` cannot be used.
        NotFoundError: the run has no adapter.
        ExportError: the file, loaded afresh, does not give the run's logits; nothing is published.
        StoreError: the disk refuses, or the run's files are damaged.
        ModelError: the base model cannot be loaded.
    """
    return build(OnnxFolder(), record, spec, output, overwrite=overwrite)


class OnnxFolder(Form):
    """``model.onnx`` and the base model's ``config.json``, with the run's labels."""

    format = "onnx"
    what = "a whole model as an ONNX file"
    library = None
    tags = ("onnx",)
    requires = ("onnxruntime>=1.20", "numpy", TRANSFORMERS)
    shapes = _SHAPES
    ends_texts = True
    opset = OPSET
    remark = (
        f"`{_FILE}` (opset {OPSET}, float32) takes any number of texts of any length the base model takes, "
        "padding included. Adapters and virtual tokens are inside. Nothing here needs torch."
    )

    def check(self) -> None:
        """Are the packages there?

        Raises:
            UsageError: one is missing.
        """
        missing = [name for name in _PACKAGES if find_spec(name) is None]
        if missing:
            raise UsageError(f"--format onnx needs {' and '.join(missing)}", hint="pip install 'dpft[onnx]'")

    def tolerance(self, logits: Tensor) -> float:
        """``MERGED`` times the scale of ``logits``: another runtime sums in another order."""
        return MERGED * max(1.0, float(logits.abs().max()))

    def write(self, run: RestoredRun, folder: Path) -> None:
        """Trace, check, and put the run's statement into the file's metadata.

        Raises:
            UsageError: the model is too large for one file.
            ExportError: the exporter cannot express the model.
        """
        _check_size(run.model)
        batch = synthetic_batch(
            run.model, run.tokenizer, run.source.spec.tuning.num_prepend_tokens or 0, _TRACED
        )
        path = folder / _FILE
        _trace(run.model, batch, path)
        _finish(path, run.source.adapter)
        run.model.config.save_pretrained(folder)

    def load(self, run: RestoredRun, folder: Path) -> Any:
        """The file under ONNX Runtime, as a callable like a model of ``transformers``."""
        return _Session(folder / _FILE)

    def loading(self, run: RestoredRun) -> list[str]:
        """The same in words of the card."""
        return snippets.onnx_lines()

    def using(self, run: RestoredRun) -> list[str]:
        """With arrays."""
        source = run.source
        return snippets.onnx_label_lines(is_pair=source.is_pair, max_length=source.spec.data.max_length)


class _Logits(nn.Module):
    """Inputs by position, logits only: what an exporter can trace."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (b k)."""
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


class _Session:
    """ONNX Runtime behind the face of a model."""

    def __init__(self, path: Path) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.log_severity_level = 4  # what fails is raised
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = InferenceSession(
            os.fspath(path), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def eval(self) -> _Session:
        """It knows nothing else."""
        return self

    def __call__(self, **batch: Tensor) -> SimpleNamespace:
        inputs = {entry.name: batch[entry.name].numpy() for entry in self._session.get_inputs()}
        [logits] = self._session.run(["logits"], inputs)
        return SimpleNamespace(logits=torch.from_numpy(logits))


def _check_size(model: Any) -> None:
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if size > _MOST_BYTES:
        raise UsageError(
            f"the model has {size / 2**30:.1f} GiB of weights, and one ONNX file holds 2 GiB",
            hint="export it with --format peft or merged",
        )


def _trace(model: Any, batch: Batch, path: Path) -> None:
    """Write the graph of ``model`` with batch and sequence left open.

    The exporter that traces TorchScript is the one used: with torch 2.13 it does every supported
    architecture in every mode, in a tenth of the other's time. torch calls it old, and its tracer warns of
    whatever it takes for a constant; what it took wrongly shows when the file is run on other shapes.

    Raises:
        ExportError: it cannot express the model.
    """
    names = tuple(batch)
    open_axes = {name: {0: "batch", 1: "sequence"} for name in names} | {"logits": {0: "batch"}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(model, names).eval(),
                tuple(batch.values()),
                path,
                dynamo=False,
                input_names=list(names),
                output_names=["logits"],
                dynamic_axes=open_axes,
                opset_version=OPSET,
            )
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{type(model).__name__} cannot be written as ONNX: {reason}",
            hint="export it with --format peft or merged",
        ) from error


def _finish(path: Path, adapter: Path) -> None:
    """Check the graph by ONNX's own rules, and let its metadata say whose it is, and its digest."""
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    export = {"format": OnnxFolder.format, "model_sha256": read_onnx(path).sha256}
    onnx.helper.set_model_props(model, {"dpft": exported_statement(adapter, export)})
    path.write_bytes(model.SerializeToString(deterministic=True))
    if read_onnx(path).sha256 != export["model_sha256"]:
        raise ExportError(
            "the ONNX file's digest changed while its statement was added",
            hint="nothing was published; report this, with the versions of torch and onnx",
        )
