"""CSV, TSV, JSON Lines and Parquet: what is read, and what is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpft.data.own_files import own_task
from dpft.data.raw import RawSplit
from dpft.data.table_file import labels_in, read_table
from dpft.errors import DataError, DpftError, NotFoundError, UsageError

SECRET = "a private confession"  # stands in for every text that no error may repeat


def read(
    path: Path, columns: tuple[str, ...] = ("text",), labels: tuple[str, ...] = ("no", "yes")
) -> RawSplit:
    return read_table(own_task("mine", {}, columns, "label", labels), path)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


SAME = {
    "a.csv": 'id,text,label\n1,"a, b",yes\n2,達語,no\n',
    "a.tsv": "id\ttext\tlabel\n1\ta, b\tyes\n2\t達語\tno\n",
    "a.jsonl": '{"text": "a, b", "label": "yes"}\n{"label": "no", "text": "\\u9054語", "x": [1]}\n',
    "A.NDJSON": '{"text": "a, b", "label": 1}\r\n{"label": 0, "text": "達語"}',
}


@pytest.mark.parametrize("name", SAME)
def test_each_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    split = read(write(tmp_path, name, SAME[name]))
    assert split.texts == (["a, b", "達語"],)
    assert split.labels == [1, 0]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
@pytest.mark.parametrize("labels", [["yes", "no"], [1, 0]])
def test_parquet_gives_them_too(tmp_path: Path, kind: Any, labels: list[Any]) -> None:
    texts = pa.array(["a, b", "達語"]).cast(kind)
    pq.write_table(pa.table({"text": texts, "x": [1, 2], "label": labels}), tmp_path / "a.parquet")
    split = read(tmp_path / "a.parquet")
    assert (split.texts, split.labels) == ((["a, b", "達語"],), [1, 0])


def test_a_byte_order_mark_crlf_and_a_missing_last_line_feed(tmp_path: Path) -> None:
    split = read(write(tmp_path, "a.csv", b'\xef\xbb\xbf"text",label\r\na,yes\r\n"b\r\nc",no'))
    assert (split.texts, split.labels) == ((["a", "b\r\nc"],), [1, 0])


def test_two_text_columns_in_the_order_given(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "second,label,first\nb,yes,a\n")
    assert read(path, ("first", "second")).texts == (["a"], ["b"])


def test_quotation_marks_mean_nothing_in_tsv(tmp_path: Path) -> None:
    split = read(write(tmp_path, "a.tsv", 'text\tlabel\n"a\tyes\n'))
    assert split.texts == (['"a'],)


def test_rows_are_named_by_their_first_line(tmp_path: Path) -> None:
    """Counting rows instead of lines would call the third row line 4."""
    split = read(write(tmp_path, "a.csv", 'text,label\n"one\ntwo\nthree",yes\nfour,no\n"f\ni",no\n'))
    assert [split.locate(row).rpartition(", ")[2] for row in range(3)] == ["line 2", "line 5", "line 6"]


def test_labels_that_are_integers_are_never_positions(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\na,1\nb,2\n")
    assert read(path, labels=("1", "2")).labels == [0, 1]
    with pytest.raises(DataError, match="unknown label '1'"):
        read(path, labels=("2", "3"))


def test_long_files_are_read_piece_by_piece(tmp_path: Path) -> None:
    rows = 5000  # more than a batch of Parquet's
    pq.write_table(
        pa.table({"text": [f"t{i}" for i in range(rows)], "label": [0] * rows}), tmp_path / "a.parquet"
    )
    split = read(tmp_path / "a.parquet")
    assert len(split) == rows
    assert split.texts[0][-1] == "t4999"


BAD = [
    ("a.csv", "", "the file is empty", ""),
    ("a.csv", "text,label\n", "no rows", ""),
    ("a.csv", "\ntext,label\na,yes\n", "line 1: the header is empty", ""),
    ("a.csv", "txet,label\na,yes\n", "line 1: no column 'text'", "did you mean 'txet'"),
    ("a.csv", "Text,label\na,yes\n", "line 1: no column 'text'", "did you mean 'Text'"),
    ("a.csv", "text,class\na,yes\n", "no column 'label'; columns found: text, class", "here --label-column"),
    ("a.csv", "text,label,text\na,yes,b\n", "column 'text' is there 2 times", "rename"),
    ("a.csv", "text;label\na;yes\n", "separated by semicolons, not by commas", ""),
    ("a.csv", "text\tlabel\na\tyes\n", "separated by tabs", ".tsv"),
    ("a.csv", "text,label\na,yes\nb\n", "line 3: expected 2 fields, as the header has, found 1", ""),
    ("a.csv", 'text,label\n"x\ny",yes\nb,no,no\n', "line 4: expected 2 fields", ""),
    ("a.csv", "text,label\na,yes\n\nb,no\n", "line 3: the line is empty", ""),
    ("a.csv", "text,label\n  ,yes\n", "line 2: column 'text' is empty", ""),
    ("a.csv", "text,label\na,\n", "line 2: column 'label' is empty", ""),
    (
        "a.csv",
        "text,label\na,maybe\n",
        "line 2: unknown label of 5 characters in column 'label'; declared: no, yes",
        "--labels",
    ),
    (
        "a.csv",
        f'text,label\na,yes\n"{SECRET},no\n',
        "line 3: a quotation mark is opened and never closed",
        "",
    ),
    ("a.csv", f'text,label\n"{SECRET}"x,no\n', "line 2: text follows a closing quotation mark", ""),
    ("a.csv", f'text,label\n"{SECRET}{"a" * 140_000}",no\n', "more than 131,072 characters", ""),
    ("a.csv", f"text,label\nno,{SECRET}\n", f"line 2: unknown label of {len(SECRET)} characters", "--labels"),
    ("a.jsonl", f'{{"text": "no", "label": "{SECRET}"}}\n', "unknown label of", "--labels"),
    ("a.csv", b"text,label\ra,yes\r", "line 1: a carriage return stands inside a line", ""),
    ("a.csv", b"text,label\na,yes\ncaf\xe9,no\n", "line 3: byte 4 is not valid UTF-8", "UTF-8"),
    ("a.csv", "text,label\n".encode("utf-16"), "UTF-16", "convert"),
    ("a.csv", b"\x1f\x8b\x08", "gzip", "unpack"),
    ("a.csv", b"PK\x03\x04", "spreadsheet", "CSV"),
    ("a.tsv", f"text\tlabel\n{SECRET}\tb\tyes\n", "line 2: expected 2 fields", ""),
    ("a.jsonl", "", "the file is empty", ""),
    ("a.jsonl", '{"text": "a", "label": "yes"}\n{"text": ', "line 2: not valid JSON", ""),
    ("a.jsonl", '{"text": "a", "label": "yes"}\n["a", "yes"]\n', "line 2: not a JSON object", ""),
    ("a.jsonl", '{"text": "a", "lable": "yes"}\n', "line 1: no column 'label'", "did you mean 'lable'"),
    ("a.jsonl", '{"text": "a", "label": "yes"}\n{"label": "no"}\n', "line 2: no 'text' in the object", ""),
    ("a.jsonl", '{"text": "a", "text": "b", "label": "yes"}\n', "line 1: 'text' stands twice", ""),
    ("a.jsonl", '{"text": null, "label": "yes"}\n', "line 1: column 'text' is null", ""),
    ("a.jsonl", '{"text": 3, "label": "yes"}\n', "line 1: 'text' is no text but a JSON number", ""),
    ("a.jsonl", '{"text": "a", "label": 1.0}\n', "line 1: label 'label' is a JSON decimal number", ""),
    ("a.jsonl", '{"text": "a", "label": NaN}\n', "line 1: label 'label' is a JSON decimal number", ""),
    (
        "a.jsonl",
        '{"text": "\\ud800", "label": "yes"}\n',
        "line 1: column 'text' has half a surrogate pair",
        "",
    ),
    ("a.jsonl", "[" * 100_000, "line 1: not", ""),
    ("a.parquet", b"PAR1 not really", "cannot be read as Parquet", "whole"),
]


@pytest.mark.parametrize(("name", "content", "message", "hint"), BAD)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str, hint: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, "no column 'label'"),
        ({"text": ["a"], "label": [1.0]}, "label column 'label' is of type double"),
        ({"text": [1], "label": [1]}, "text column 'text' is of type int64"),
        ({"text": ["a", None], "label": [1, 0]}, "row 1 (counted from 0): column 'text' is null"),
        ({"text": ["a", "b"], "label": [1, None]}, "row 1 (counted from 0): column 'label' is null"),
    ],
)
def test_parquet_is_held_to_types(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    table = pa.table({**columns, "label": pa.array(columns["label"])} if "label" in columns else columns)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.parquet")
    assert message in caught.value.message


def test_a_parquet_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 99, "label": [0] * 99}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(path)


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\n" + "a,maybe\n" * 9)
    with pytest.raises(DataError, match=r"line 2: .* \(8 more bad rows: line 3, 4, 5, 6, 7, …\)"):
        read(path)


def test_a_header_that_may_be_a_text_is_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", f'"{SECRET} of some length",yes\nb,no\n')
    with pytest.raises(DataError) as caught:
        read(path)
    assert "(35 characters)" in caught.value.message
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("name", "kind"),
    [("none.csv", NotFoundError), ("a.xlsx", UsageError), ("a", UsageError), (".", UsageError)],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, kind: type[DpftError]) -> None:
    write(tmp_path, "a.xlsx", "x")
    with pytest.raises(kind):
        read(tmp_path / name)


def test_labels_are_found_for_their_owner_only_where_they_look_like_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\na,yes\nb,no\nc,yes\n")
    assert labels_in(path, ("text", "label")) == ["no", "yes"]
    assert labels_in(path, ("label", "text"), most=2) is None
    assert labels_in(write(tmp_path, "b.jsonl", json.dumps({"label": SECRET * 9})), ("label",)) is None
