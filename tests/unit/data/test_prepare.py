from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpft.data import arrow_cache
from dpft.data.prepare import PreparedData, prepare, tokenizer_identity
from dpft.data.tasks.demo import TASK as DEMO
from dpft.data.tasks.mnli import TASK as MNLI
from dpft.data.tasks.sst2 import TASK as SST2
from dpft.errors import DataError, DpftError, UsageError
from tests.unit.data.samples import PlainTokenizer, tiny_tokenizer, write_folder, write_tsv

ROOT = Path(__file__).parents[3]
ROWS = [("the good film", 1), ("a bad , bad , very bad film", 0), ("not bad", 1)]
ARRAYS = ("input_ids", "offsets", "labels", "lengths")


def write_sst2(folder: Path, train: list[tuple[str, int]] | None = None) -> Path:
    write_tsv(folder / "SST-2" / "train.tsv", ("sentence", "label"), train or ROWS)
    write_tsv(folder / "SST-2" / "dev.tsv", ("sentence", "label"), ROWS[:2])
    return folder


def run(
    tmp_path: Path, tokenizer: Any = None, *, task: Any = SST2, max_length: int = 8, **options: Any
) -> PreparedData:
    return prepare(
        task,
        tokenizer or PlainTokenizer(),
        tokenizer_id="tiny",
        max_length=max_length,
        cache_dir=tmp_path / "cache",
        data_dir=tmp_path,
        **options,
    )


def entries(tmp_path: Path) -> set[str]:
    """What is in the cache, lock files and the folder's key aside."""
    names = (path.name for path in (tmp_path / "cache" / "prepared").iterdir())
    return {name for name in names if not name.endswith(".lock") and name != ".key"}


def assert_equal(one: PreparedData, other: PreparedData) -> None:
    assert set(one.splits) == set(other.splits)
    for name, split in one.splits.items():
        for array in (*ARRAYS, "token_type_ids"):
            left, right = getattr(split, array), getattr(other.splits[name], array)
            assert (left is None) == (right is None)
            if left is not None:
                np.testing.assert_array_equal(left, right)
        assert split.truncated == other.splits[name].truncated


def test_tokens_are_the_tokenizers_own(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(model_max_length=32)
    write_folder(MNLI, tmp_path)
    prepared = run(tmp_path, tokenizer, task=MNLI, max_length=14)
    split = prepared.splits["validation_mismatched"]
    assert split.rows == 9
    assert split.truncated == 9  # 19 tokens each
    for row in range(split.rows):
        label = row % 3
        texts = [f'the {c} number {row} of validation_mismatched says "{label}' for c in MNLI.text_columns]
        expected = tokenizer(*texts, truncation=True, max_length=14)
        part = slice(split.offsets[row], split.offsets[row + 1])
        assert split.input_ids[part].tolist() == expected["input_ids"]
        assert split.token_type_ids is not None
        assert split.token_type_ids[part].tolist() == expected["token_type_ids"]
        assert split.labels[row] == label


def test_arrays_and_what_is_said_of_them(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    prepared = run(tmp_path, max_length=4)
    train = prepared.splits["train"]
    dtypes = {array: getattr(train, array).dtype for array in ARRAYS}
    assert dtypes == {"input_ids": np.int32, "offsets": np.int64, "labels": np.int64, "lengths": np.int32}
    assert train.lengths.tolist() == [3, 4, 2]
    assert train.offsets.tolist() == [0, 3, 7, 9]
    assert train.labels.tolist() == [1, 0, 1]
    assert (train.rows, train.truncated) == (3, 1)
    assert train.token_type_ids is None
    assert not any(
        getattr(train, array).flags.owndata or getattr(train, array).flags.writeable for array in ARRAYS
    )
    assert prepared.directory == tmp_path / "cache" / "prepared" / prepared.cache_key
    assert (prepared.max_length, prepared.revision) == (4, None)
    assert str(tmp_path) not in prepared.source


def test_a_row_of_exactly_the_maximum_length_is_not_truncated(tmp_path: Path) -> None:
    write_sst2(tmp_path, [("one two three four", 1), ("one two three four five", 0)])
    train = run(tmp_path, max_length=4).splits["train"]
    assert (train.lengths.tolist(), train.truncated) == ([4, 4], 1)


@pytest.mark.parametrize("make", [tiny_tokenizer, PlainTokenizer])
def test_a_hit_equals_a_miss_and_tokenizes_nothing(tmp_path: Path, make: Any) -> None:
    write_sst2(tmp_path)
    told: list[tuple[str, int, int]] = []
    miss = run(tmp_path, make(), progress=lambda *about: told.append(about))
    assert told == [("train", 3, 3), ("validation", 2, 2)]
    again = PlainTokenizer()
    hit = run(
        tmp_path,
        make() if make is tiny_tokenizer else again,
        progress=lambda *about: pytest.fail("tokenized"),
    )
    assert (miss.cached, hit.cached) == (False, True)
    assert again.calls == 0
    assert hit.cache_key == miss.cache_key
    assert_equal(hit, miss)


def test_the_entry_is_an_arrow_dataset(tmp_path: Path) -> None:
    import datasets

    write_sst2(tmp_path)
    prepared = run(tmp_path)
    loaded = datasets.Dataset.from_file(str(prepared.directory / "train.arrow"))
    assert loaded[0] == {"label": 1, "length": 3, "input_ids": [3, 4, 4]}


def test_batches_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sst2(tmp_path, [(" ".join("x" * (i % 7 + 1) for i in range(i % 5 + 1)), i % 2) for i in range(50)])
    whole = run(tmp_path, max_length=3)
    monkeypatch.setattr("dpft.data.prepare._BATCH", 7)
    pieces = run(tmp_path / "SST-2", max_length=3)
    assert not pieces.cached
    assert_equal(whole, pieces)


def test_the_key_depends_on_everything_that_matters(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    key = run(tmp_path).cache_key
    assert run(tmp_path, max_length=9).cache_key != key
    assert run(tmp_path, tiny_tokenizer()).cache_key != key
    write_sst2(tmp_path, ROWS[::-1])
    assert run(tmp_path).cache_key != key
    write_sst2(tmp_path)
    assert run(tmp_path).cache_key == key


def test_the_key_says_nothing_to_outsiders(tmp_path: Path) -> None:
    """Another cache names the same rows otherwise, so nobody can look a guess up."""
    write_sst2(tmp_path)
    first = run(tmp_path)
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert run(tmp_path).cache_key != first.cache_key
    assert first.content_digest.hex()[:8] not in first.cache_key


def test_tokenizer_identity_survives_use_but_not_change() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_identity(tokenizer)
    tokenizer(["the film", "a"], truncation=True, max_length=4, padding=True)
    assert tokenizer_identity(tokenizer) == before
    assert tokenizer_identity(tiny_tokenizer()) == before
    tokenizer.add_tokens(["new"])
    assert tokenizer_identity(tokenizer) != before
    assert tokenizer_identity(tiny_tokenizer(truncation_side="left")) != before


def test_content_digest_ignores_order_and_source(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    digest = run(tmp_path).content_digest
    write_sst2(tmp_path, [ROWS[2], ROWS[0], ROWS[1]])
    shuffled = run(tmp_path)
    assert shuffled.content_digest == digest
    assert shuffled.splits["train"].labels.tolist() == [1, 1, 0]
    write_sst2(tmp_path, ROWS[:2])
    assert run(tmp_path).content_digest != digest


def test_lengths_that_cannot_be_are_refused(tmp_path: Path) -> None:
    write_folder(MNLI, tmp_path)
    with pytest.raises(UsageError, match="max_length 33 is more than tiny takes") as caught:
        run(tmp_path, tiny_tokenizer(model_max_length=32), max_length=33, task=MNLI)
    assert "--max-length 32" in caught.value.hint
    with pytest.raises(UsageError, match="leaves no room"):
        run(tmp_path, tiny_tokenizer(), max_length=4, task=MNLI)
    assert not (tmp_path / "cache").exists()
    run(tmp_path, tiny_tokenizer(model_max_length=10**30), max_length=5, task=MNLI)


def test_a_text_without_tokens_is_named(tmp_path: Path) -> None:
    write_sst2(tmp_path, [*ROWS, ("?!", 1)])
    with pytest.raises(DataError, match=r"train\.tsv, line 5: the tokenizer makes no token"):
        run(tmp_path)
    assert entries(tmp_path) == set()


def test_a_bad_row_leaves_nothing(tmp_path: Path) -> None:
    write_sst2(tmp_path, [*ROWS, ("fine", 3)])
    with pytest.raises(DataError, match="line 5"):
        run(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_a_cached_result_does_not_hide_a_file_gone_bad(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    run(tmp_path)
    with (tmp_path / "SST-2" / "train.tsv").open("a") as file:
        file.write("no label\n")
    with pytest.raises(DataError, match="line 5"):
        run(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("at", ["_write_split", "_private_file"])
def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], at: str
) -> None:
    write_sst2(tmp_path)
    before = run(tmp_path, max_length=5)
    calls = 0
    real = getattr(arrow_cache, at)

    def fail_at_second(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(arrow_cache, at, fail_at_second)
        with pytest.raises((error, DpftError)):
            run(tmp_path)
    assert calls == 2
    assert entries(tmp_path) == {before.cache_key}
    assert not run(tmp_path).cached
    assert run(tmp_path).cached


def damage_flip(entry: Path) -> None:
    content = bytearray((entry / "train.arrow").read_bytes())
    content[-40] ^= 1
    (entry / "train.arrow").write_bytes(content)


def damage_cut(entry: Path) -> None:
    content = (entry / "validation.arrow").read_bytes()
    (entry / "validation.arrow").write_bytes(content[: len(content) // 2])


def damage_format(entry: Path) -> None:
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps({**meta, "format": 0}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_flip,
        damage_cut,
        damage_format,
        lambda entry: (entry / "train.arrow").unlink(),
        lambda entry: (entry / "meta.json").unlink(),
        lambda entry: (entry / "meta.json").write_text('{"format": 1, "splits": ['),
        lambda entry: (entry / "meta.json").write_text('{"format": 1, "splits": {"train": 7}}'),
        lambda entry: (entry / "meta.json").write_text("[]"),
    ],
)
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: Any) -> None:
    write_sst2(tmp_path)
    sound = run(tmp_path)
    arrays = {name: split.input_ids.copy() for name, split in sound.splits.items()}
    damage(sound.directory)
    again = run(tmp_path)
    assert not again.cached
    assert {name: split.input_ids.tolist() for name, split in again.splits.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    assert run(tmp_path).cached
    assert entries(tmp_path) == {sound.cache_key}


def test_a_lost_folder_key_costs_only_time(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    run(tmp_path)
    (tmp_path / "cache" / "prepared" / ".key").write_bytes(b"short")
    assert not run(tmp_path).cached
    assert run(tmp_path).cached


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    old = os.umask(0)
    try:
        run(tmp_path)
    finally:
        os.umask(old)
    prepared = tmp_path / "cache" / "prepared"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [prepared, *prepared.rglob("*")]}
    assert len(modes) == 8  # the folder, its key and lock, the entry with three files and its lock
    assert {
        path: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)
    } == {}


def test_a_cache_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(DpftError, match="cannot write the prepared-data cache") as caught:
        run(tmp_path)
    assert "DPFT_CACHE" in caught.value.hint


def test_the_demo_needs_no_folder(tmp_path: Path) -> None:
    prepared = run(tmp_path, task=DEMO, max_length=64)
    assert prepared.splits["train"].rows == 4000
    assert prepared.source == "built-in generator (demo)"
    assert prepared.revision == DEMO.generator_revision


PREPARE_ELSEWHERE = """
import sys, time
from pathlib import Path
from dpft.data.prepare import prepare
from dpft.data.tasks.sst2 import TASK
from tests.unit.data.samples import PlainTokenizer

root, name = Path(sys.argv[1]), sys.argv[2]

def progress(split, done, rows):
    (root / f"tokenized-{name}").touch()
    while not (root / "go").exists():
        time.sleep(0.01)

options = {"tokenizer_id": "tiny", "max_length": 8, "cache_dir": root / "cache", "data_dir": root}
done = prepare(TASK, PlainTokenizer(), **options, progress=progress)
print(done.cached, done.splits["train"].labels.tolist())
"""


def elsewhere(tmp_path: Path, name: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PREPARE_ELSEWHERE, str(tmp_path), name]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_processes_at_once_share_one_build(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    others = [elsewhere(tmp_path, str(i)) for i in range(3)]
    wait_for(lambda: list(tmp_path.glob("tokenized-*")))
    (tmp_path / "go").touch()
    answers = sorted(other.communicate(timeout=60)[0] for other in others)
    assert answers == ["False [1, 0, 1]\n", "True [1, 0, 1]\n", "True [1, 0, 1]\n"]
    assert len(list(tmp_path.glob("tokenized-*"))) == 1
    assert run(tmp_path).cached


@pytest.mark.slow
def test_a_killed_process_neither_blocks_nor_litters(tmp_path: Path) -> None:
    write_sst2(tmp_path)
    other = elsewhere(tmp_path, "killed")
    wait_for((tmp_path / "tokenized-killed").exists)
    key = next((tmp_path / "cache" / "prepared").glob("sst2-*.lock")).stem
    (tmp_path / "cache" / "prepared" / f".{key}.scratch").mkdir()  # as if killed while writing
    other.send_signal(signal.SIGKILL)
    other.communicate()
    prepared = run(tmp_path)
    assert (prepared.cache_key, prepared.cached) == (key, False)
    assert entries(tmp_path) == {key}
