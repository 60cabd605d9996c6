"""The story of an export, top to bottom: nothing is published before it was loaded afresh and compared."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from dpft.errors import ExportError, StoreError
from dpft.export.card import card
from dpft.export.form import Form
from dpft.export.place import check_place
from dpft.export.plain import statement_in
from dpft.export.report import ExportReport
from dpft.export.source import RestoredRun, Source, check_base, open_run, restore_run
from dpft.export.verify import compare, logits_of, synthetic_batch
from dpft.runs.files import ensure_directory, file_table, publish_dir, write_atomic
from dpft.runs.onnx_file import read_onnx
from dpft.runs.record import RunRecord
from dpft.runs.seal import seal
from dpft.spec import RunSpec
from dpft.tuning.virtual import reads_where_texts_end

__all__ = ["build"]

_SURROUNDINGS = (
    "is_local", "local_files_only", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file",
)  # fmt: skip
_ONE_BY_ONE = (
    "Give the model one text at a time, or texts of one length: behind a soft prompt it takes the last "
    "position for a text's last token, padding included."
)
_FEWEST_PARTS = 3  # root and two names: "/data" tells nothing of anybody, and may stand in any text


def build(
    form: Form, record: RunRecord, spec: RunSpec, output: Path, *, overwrite: bool = False
) -> ExportReport:
    """Write a run in one form, load it afresh, compare, publish.

    Args:
        form: how the folder is laid out.
        record: the run.
        spec: what it was asked to do.
        output: the folder to be made.
        overwrite: replace an earlier export there.

    Raises:
        DpftError: nothing is published, and an earlier export at ``output`` is as it was.
    """
    form.check()
    output = output.expanduser().resolve()
    source = open_run(record, spec)
    check_place(output, source, overwrite=overwrite)
    run = restore_run(source)
    check_base(source, run.tokenizer.pad_token_id)
    virtual = spec.tuning.num_prepend_tokens or 0
    batches = [synthetic_batch(run.model, run.tokenizer, virtual, shape) for shape in form.shapes]
    expected = [logits_of(run.model, batch) for batch in batches]
    tolerance = form.tolerance(torch.cat(expected))
    one_by_one = reads_where_texts_end(run.model) and not form.ends_texts
    with _staging(output) as folder:
        _write(form, run, folder, tolerance, _ONE_BY_ONE if one_by_one else "")
        _check_tokenizer(run, folder)
        loaded = form.load(run, folder)
        difference = max(
            compare(right, logits_of(loaded, batch, one_by_one=one_by_one), tolerance)
            for batch, right in zip(batches, expected, strict=True)
        )
        _check_headers(source, folder)
        _check_paths(source, folder, output)
        files = tuple(file_table(folder))
        publish_dir(folder, output, overwrite=overwrite)
    return ExportReport(
        record.run_id, form.format, output, files, difference, requires=form.requires, opset=form.opset
    )


def _write(form: Form, run: RestoredRun, folder: Path, tolerance: float, warning: str) -> None:
    remark = " ".join(filter(None, [form.remark, warning]))
    form.write(run, folder)
    for name in _SURROUNDINGS:  # how it was loaded here is nothing to hand on
        run.tokenizer.init_kwargs.pop(name, None)
    run.tokenizer.save_pretrained(folder)
    write_atomic(folder / "README.md", card(run, form, remark=remark, tolerance=tolerance))
    write_atomic(folder / "requirements.txt", "".join(f"{name}\n" for name in form.requires))
    seal(folder, run.source.manifest_bytes)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _check_tokenizer(run: RestoredRun, folder: Path) -> None:
    """The tokenizer, loaded afresh, cuts a text as the run's does.

    Raises:
        ExportError: it does not.
    """
    from transformers import AutoTokenizer

    text = "Don't panic: 42 naïve cafés, state-of-the-art!"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    expected, found = run.tokenizer(text, text), tokenizer(text, text)
    if dict(found) != dict(expected) or tokenizer.pad_token_id != run.tokenizer.pad_token_id:
        raise ExportError(
            "the exported tokenizer cuts texts differently", hint="report this, with the base model"
        )


def _check_headers(source: Source, folder: Path) -> None:
    """Every weights file says of which run it is.

    Raises:
        ExportError: one does not.
    """
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.onnx")]):
        try:
            run_id = json.loads(_statement_in(path) or "{}").get("run_id")
        except ValueError:
            run_id = None
        if run_id != source.record.run_id:
            raise ExportError(
                f"{path.name} does not carry the statement of run {source.record.run_id}: it is of {run_id}",
                hint="the run's files were changed after it ended; restore them from a backup",
            )


def _statement_in(path: Path) -> str | None:
    return read_onnx(path).metadata.get("dpft") if path.suffix == ".onnx" else statement_in(path)


def _check_paths(source: Source, folder: Path, output: Path) -> None:
    """No text of the export names a folder of this machine.

    Raises:
        ExportError: one does.
    """
    places = [source.store_home, source.record.run_dir, folder, output]
    if source.base.local:
        places.append(Path(source.base.source))
    if source.spec.data.data_dir is not None:
        places.append(Path(source.spec.data.data_dir).expanduser())
    places += [Path(file) for file in (source.spec.data.data_file, source.spec.data.validation_file) if file]
    spelt = {str(form) for place in places for form in (place.absolute(), place.resolve())}
    telling = [place for place in spelt if len(Path(place).parts) >= _FEWEST_PARTS]
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix == ".safetensors":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for place in telling:
            if place in text or json.dumps(place)[1:-1] in text:
                raise ExportError(
                    f"{path.relative_to(folder)} would name the local path {place}",
                    hint="nothing was published; report this, with the run's mode and base model",
                )


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A new folder beside ``output``; what is left of it, and of parents made for it, goes on the way out."""
    made = [parent for parent in output.parents if not parent.exists()]
    try:
        ensure_directory(output.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise StoreError(
            f"could not write beside {output}: {error.strerror or error}",
            hint="check the folder's owner and permissions, or choose another --output",
        ) from error
    try:
        yield folder
    except OSError as error:
        raise StoreError(
            f"could not write {output}: {error.strerror or error}",
            hint="free some space there, or choose another --output; nothing was published",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # not empty: it holds the export
                parent.rmdir()
