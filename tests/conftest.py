"""What every test stands on: no network, own folders, one thread; and a tiny model with data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Read once, when the libraries are first imported: so before any test module is.
os.environ.update(
    HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"
)

# A shell starts what it puts into the background with Ctrl-C ignored; tests press it nonetheless.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

# The same examples in every run: what a test says depends on the code alone. `--hypothesis-profile=search`
# looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None, max_examples=1000)
settings.load_profile("fixed")

ROWS = 60
PRAISE = ("a fine film", "truly good and warm", "i loved the cast", "bright , moving and fun")
BLAME = ("a dull film", "truly bad and cold", "i hated the cast", "dim , tedious and flat")


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a store and a cache of its own, and none of the user's settings."""
    for variable in [name for name in os.environ if name.startswith("DPFT_")]:
        monkeypatch.delenv(variable)
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DPFT_HOME", str(tmp_path / "dpft-home"))
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path / "dpft-cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer BERT (hidden size 32, with its pooler) and a WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    words = sorted({word for text in (*PRAISE, *BLAME) for word in text.split()})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *words,
        *(f"##{letter}" for letter in letters),
    ]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*vocabulary, *letters])) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def glue_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the GLUE layout: SST-2 and QNLI, with 60 train and 20 dev rows each."""
    folder = tmp_path_factory.mktemp("glue")
    for name, header in (("SST-2", "sentence\tlabel"), ("QNLI", "index\tquestion\tsentence\tlabel")):
        (folder / name).mkdir()
        for file, rows in (("train.tsv", ROWS), ("dev.tsv", ROWS // 3)):
            lines = [header, *(_row(name, number) for number in range(rows))]
            (folder / name / file).write_text("\n".join(lines) + "\n")
    return folder


def _row(name: str, number: int) -> str:
    label = number % 3 != 0  # two of three are positive: the majority baseline is above a half
    text = f"{(PRAISE if label else BLAME)[number % 4]} {'and fun ' * (number % 5)}".strip()
    if name == "SST-2":
        return f"{text}\t{int(label)}"
    return f"{number}\twas it {PRAISE[number % 4]}\t{text}\t{'entailment' if label else 'not_entailment'}"
