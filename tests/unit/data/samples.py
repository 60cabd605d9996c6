"""Small datasets and tokenizers for the data tests; nothing here is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpft.data.task import Task


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Write a tab-separated file, without any quoting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, line)) for line in (header, *rows)]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def write_folder(task: Task, root: Path, rows_per_label: int = 3) -> Path:
    """Write a GLUE folder with every split of a task, labels by turns as names and as integers."""
    header = ("index", *task.text_columns, "remark", task.label_column)
    for split, file in task.files.items():
        rows = []
        for i in range(rows_per_label * len(task.labels)):
            label = i % len(task.labels)
            texts = [f'the {column} number {i} of {split} says "{label}' for column in task.text_columns]
            rows.append((i, *texts, "unused", label if i % 2 else task.labels[label]))
        write_tsv(root / str(task.glue_folder) / file, header, rows)
    return root


def tiny_tokenizer(**options: Any) -> Any:
    """A word-level tokenizer with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "the",
        "a",
        "of",
        "in",
        "not",
        "very",
        "good",
        "bad",
        "food",
        "film",
        "says",
        "number",
        "question",
        "sentence",
        "text",
        "premise",
    ]
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names, **options)


class PlainTokenizer:
    """One token per word, no special tokens, no Rust and no transformers: cheap to import in a process.

    Words of punctuation only are dropped, so a text may have no token at all.
    """

    special_tokens_map: Mapping[str, str] = {}
    model_input_names = ("input_ids",)
    truncation_side = "right"
    init_kwargs: Mapping[str, Any] = {}

    def __init__(self, model_max_length: int = 64) -> None:
        self.model_max_length = model_max_length
        self.calls = 0

    def get_vocab(self) -> dict[str, int]:
        return {"word": 1}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 0

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, **kwargs: Any
    ) -> dict[str, list[list[int]]]:
        self.calls += 1
        limit = kwargs["max_length"] if kwargs["truncation"] else None
        pairs = zip(text, text_pair or [""] * len(text), strict=True)
        rows = [[len(word) for word in f"{a} {b}".split() if word.strip(".!?")] for a, b in pairs]
        return {"input_ids": [row[:limit] for row in rows]}
