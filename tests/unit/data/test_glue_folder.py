from __future__ import annotations

from pathlib import Path

import pytest

from dpft.data.glue_folder import read_folder, read_tsv
from dpft.data.tasks.mnli import TASK as MNLI
from dpft.data.tasks.qqp import TASK as QQP
from dpft.data.tasks.sst2 import TASK as SST2
from dpft.errors import DataError, NotFoundError
from tests.unit.data.samples import write_folder, write_tsv

SECRET = "my landlord owes me money"


def bytes_file(folder: Path, content: bytes) -> Path:
    path = folder / "train.tsv"
    path.write_bytes(content)
    return path


def test_rows_are_read_as_they_stand(tmp_path: Path) -> None:
    texts = ['say "no" twice', '"', " spaces kept ", "a\u2028b\x85c", "naïve 漢字 🙂"]
    path = write_tsv(tmp_path / "train.tsv", ("sentence", "label"), [(text, "1") for text in texts])
    split = read_tsv(SST2, path)
    assert split.texts == (texts,)
    assert split.labels == [1] * 5
    assert split.locate(0) == f"{path}, line 2"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfsentence\tlabel\ngood\t1\nbad\t0\n",
        b"sentence\tlabel\r\ngood\t1\r\nbad\t0\r\n",
        b"sentence\tlabel\ngood\t1\nbad\t0",
        b"sentence\tlabel\ngood\t1\nbad\t0\n\n\r\n",
        b"label\tnote\tsentence\npositive\tx\tgood\nnegative\ty\tbad\n",
    ],
    ids=["byte order mark", "CRLF", "no last line feed", "empty lines at the end", "other columns"],
)
def test_tolerated(tmp_path: Path, content: bytes) -> None:
    split = read_tsv(SST2, bytes_file(tmp_path, content))
    assert (split.texts, split.labels) == ((["good", "bad"],), [1, 0])


HEADER = b"sentence\tlabel\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "train.tsv: the file is empty"),
        (b"\n\n", "train.tsv: the file is empty"),
        (HEADER, "train.tsv: no rows after the header"),
        (b"text\tlabel\ngood\t1\n", "'sentence' is missing from the header; columns found: text, label"),
        (b"sentence\tsentence\tlabel\na\tb\t1\n", "line 1: column 'sentence' is twice in the header"),
        (HEADER + b"good\t1\nbad\n", "line 3: expected 2 tab-separated fields, found 1"),
        (HEADER + b"good\t1\nb\tad\t0\n", "line 3: expected 2 tab-separated fields, found 3"),
        (HEADER + b"good\t1\n\nbad\t0\n", "line 3: expected 2 tab-separated fields, found 1"),
        (HEADER + b"good\t1\nbad\t2\n", "line 3: unknown label '2' in column 'label'; accepted: negat"),
        (HEADER + b"good\t1\nbad\t-\n", "line 3: unknown label '-' in column 'label'"),
        (HEADER + b"good\t1\nbad\t1.0\n", "line 3: unknown label '1.0'"),
        (HEADER + b"good\t\n", "line 2: unknown label ''"),
        (HEADER + b"good\t1\n\t0\n", "line 3: column 'sentence' is empty"),
        (HEADER + b"good\t1\n  \t0\n", "line 3: column 'sentence' is empty"),
        (HEADER + b"good\t1\nb\xffd\t0\n", "line 3: byte 2 is not valid UTF-8"),
        (HEADER.decode().encode("utf-16"), "line 1: byte 1 is not valid UTF-8"),
        (HEADER + b"bad\t7\ngood\t1\n" + b"bad\t8\n" * 7, "line 2: unknown label '7'"),
        (HEADER + b"bad\t7\ngood\t1\n" + b"bad\t8\n" * 7, "(7 more bad rows: line 4, 5, 6, 7, 8, …)"),
        (HEADER + b"bad\t7\ngood\t1\nbad\t8\n", "(1 more bad row: line 4)"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        read_tsv(SST2, bytes_file(tmp_path, content))
    assert expected in caught.value.message
    assert str(tmp_path / "train.tsv") in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        f"{SECRET}\t1\n{SECRET} again\t0\n",  # no header
        f"sentence\tlabel\n{SECRET}\tmaybe\n",
        f"label\tsentence\n{SECRET}\tgood\n",  # columns confused
        f"sentence\tlabel\n{SECRET}\n",
        f"sentence\tlabel\n{SECRET}\t1\t1\n",
    ],
)
def test_private_texts_are_not_repeated(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError) as caught:
        read_tsv(SST2, bytes_file(tmp_path, content.encode()))
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("label", ["x" * 500, "ill", "x1", "555-1234567", "1234567", "\u0661"])
def test_of_a_wrong_label_only_its_length_is_told(tmp_path: Path, label: str) -> None:
    with pytest.raises(DataError) as caught:
        read_tsv(SST2, bytes_file(tmp_path, HEADER + f"good\t{label}\n".encode()))
    assert f"unknown label of {len(label)} characters in column 'label'; accepted:" in caught.value.message
    assert label not in caught.value.message.replace(str(tmp_path), "")


def test_an_undecodable_file_is_not_chained(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_tsv(SST2, bytes_file(tmp_path, HEADER + SECRET.encode() + b"\xff\t1\n"))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_glue_folder_and_the_tasks_own_folder_are_both_taken(tmp_path: Path) -> None:
    write_folder(SST2, tmp_path)
    outer, inner = read_folder(SST2, tmp_path), read_folder(SST2, tmp_path / "SST-2")
    assert outer.content_digest == inner.content_digest
    assert outer.source == "local files in the GLUE layout (SST-2)"


def test_missing_files_are_listed(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_folder(SST2, tmp_path)
    for path in (tmp_path / "SST-2" / "train.tsv", tmp_path / "train.tsv"):
        assert str(path) in caught.value.message
    write_folder(MNLI, tmp_path)
    (tmp_path / "MNLI" / "dev_mismatched.tsv").unlink()
    assert set(read_folder(MNLI, tmp_path).splits) == {"train", "validation_matched"}
    (tmp_path / "MNLI" / "dev_matched.tsv").unlink()
    with pytest.raises(NotFoundError, match=r"no validation file for mnli.*dev_matched.*dev_mismatched"):
        read_folder(MNLI, tmp_path)


def test_a_pair_needs_both_texts(tmp_path: Path) -> None:
    header = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    path = write_tsv(
        tmp_path / "train.tsv", header, [(0, "", "", "who", "why", 0), (1, "", "", "who", "", 0)]
    )
    with pytest.raises(DataError, match="line 3: column 'question2' is empty"):
        read_tsv(QQP, path)


def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.tsv: No such file"):
        read_tsv(SST2, tmp_path / "train.tsv")
