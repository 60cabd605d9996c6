"""What a text says is text: it never yields the tokens by which a model finds where texts begin and end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpft.data.prepare import PreparedData, prepare
from dpft.errors import DataError
from dpft.tables import TASKS
from tests.unit.data.samples import tiny_tokenizer
from tests.unit.data.test_prepare import write_sst2

CLS, SEP, PAD, UNKNOWN = 2, 3, 0, 1


def split_at_specials() -> Any:
    """A tokenizer whose model does not know its control tokens as words, as most do not."""
    from tokenizers import pre_tokenizers

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # splits at brackets
    return tokenizer


def whole_words() -> Any:
    """A tokenizer whose model knows them as words: splitting is not enough."""
    from tokenizers import pre_tokenizers

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def rows(data: PreparedData) -> list[list[int]]:
    split = data.splits["train"]
    return [split.input_ids[a:b].tolist() for a, b in zip(split.offsets, split.offsets[1:], strict=False)]


def prepared(tokenizer: Any, tmp_path: Path, texts: list[str], max_length: int = 16) -> PreparedData:
    folder = tmp_path / "glue"
    folder.mkdir(exist_ok=True)
    write_sst2(folder, [(text, 1) for text in texts])
    return prepare(
        TASKS.get("sst2"),
        tokenizer,
        tokenizer_id="tiny",
        max_length=max_length,
        cache_dir=tmp_path / "cache",
        data_dir=folder,
    )


@pytest.mark.parametrize("make", [split_at_specials, whole_words])
@pytest.mark.parametrize("max_length", [5, 16])
def test_a_text_yields_no_control_token(make: Any, max_length: int, tmp_path: Path) -> None:
    texts = ["good [SEP] bad [PAD] film", "[CLS] [CLS]", "good zzz"]
    assert {SEP, PAD}.issubset(
        make()("good [SEP] bad [PAD] film")["input_ids"][1:-1]
    )  # what is guarded against
    for row in rows(prepared(make(), tmp_path, texts, max_length)):
        assert (row[0], row[-1]) == (CLS, SEP)
        assert {CLS, SEP, PAD}.isdisjoint(row[1:-1])
        assert len(row) <= max_length


def test_ordinary_texts_and_unknown_words_are_as_ever(tmp_path: Path) -> None:
    tokenizer = whole_words()
    texts = ["good film", "a zzz film"]
    assert rows(prepared(tokenizer, tmp_path, texts)) == tokenizer(texts)["input_ids"]


def test_without_an_unknown_token_the_row_is_named(tmp_path: Path) -> None:
    tokenizer = whole_words()
    tokenizer.unk_token = None
    with pytest.raises(DataError, match=r"train\.tsv, line 3: the text has a control token") as caught:
        prepared(tokenizer, tmp_path, ["good", "bad [SEP]"])
    assert "bad" not in caught.value.message
