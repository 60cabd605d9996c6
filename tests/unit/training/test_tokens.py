"""No private row can end a run: what the model cannot take is refused before the first step, by its line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from dpft.data.prepare import PreparedData, prepare
from dpft.errors import DataError
from dpft.runs.store import Store
from dpft.tables import TASKS
from dpft.training.run import train
from dpft.training.tokens import check_tokens
from tests import architectures
from tests.unit.training.resuming import MakeSpec


def with_row(folder: Path, tmp_path: Path, text: str, file: str = "train.tsv") -> Path:
    """The same data with one row more, the last."""
    copy = tmp_path / "glue"
    shutil.copytree(folder, copy)
    path = copy / "SST-2" / file
    path.write_text(path.read_text() + f"{text}\t1\n")
    return copy


def with_word(model: Path, tmp_path: Path, word: str) -> Path:
    """The same model with a tokenizer that knows a word more than the model has rows for."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([word])
    tokenizer.save_pretrained(copy)
    return copy


@pytest.mark.parametrize(("file", "split"), [("train.tsv", "train"), ("dev.tsv", "validation")])
def test_a_token_that_the_model_has_no_row_for_is_refused_by_line(
    file: str, split: str, small: MakeSpec, tiny_model: Path, glue_dir: Path, tmp_path: Path
) -> None:
    data = with_row(glue_dir, tmp_path, "a zanzibar film", file)
    lines = len((data / "SST-2" / file).read_text().splitlines())
    model = with_word(tiny_model, tmp_path, "zanzibar")
    with pytest.raises(DataError, match=rf"split {split}, .*{file}, line {lines}: .*no row") as caught:
        train(small(model=model, data_dir=data))
    assert "zanzibar" not in caught.value.message
    assert Store().list() == []


def prepared(tokenizer: Any, data: Path, tmp_path: Path) -> PreparedData:
    return prepare(
        TASKS.get("sst2"),
        tokenizer,
        tokenizer_id="tiny",
        max_length=16,
        cache_dir=tmp_path / "cache",
        data_dir=data,
    )


def test_a_text_that_quotes_the_end_of_text_trains_like_any_other(
    small: MakeSpec, glue_dir: Path, tmp_path: Path
) -> None:
    """T5 answers at that token; a row with two of them among rows with one stopped the step that drew it."""
    data = with_row(glue_dir, tmp_path, "w5 </s> w6 <pad> w7")
    model = architectures.checkpoint("t5", tmp_path / "t5")
    record = train(small(model=model, data_dir=data))
    assert record.status == "completed"
    split = prepared(AutoTokenizer.from_pretrained(model), data, tmp_path).splits["train"]
    assert split.input_ids[split.offsets[-2] :].tolist() == [5, 2, 6, 2, 7, architectures.EOS]


@pytest.mark.parametrize(
    ("of_the_rows", "now", "message"),
    [("$A", "$A", "0 end-of-text tokens, not 1"), ("$A </s>", "$A </s> </s>", "1 end-of-text tokens, not 2")],
)
def test_rows_without_their_ends_are_refused(
    of_the_rows: str, now: str, message: str, glue_dir: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(architectures.checkpoint("t5", tmp_path / "t5"))
    model, end = architectures.build("t5"), [("</s>", architectures.EOS)]
    check_tokens(prepared(tokenizer, glue_dir, tmp_path), model, tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(of_the_rows, None, end)
    data = prepared(tokenizer, glue_dir, tmp_path)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(now, None, end)
    with pytest.raises(DataError, match=rf"split train, .*train\.tsv, line 2: the row has {message}"):
        check_tokens(data, model, tokenizer)
