"""The wrong inputs: options, references, files, and what the machine itself may do."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from typing import Any

from dpft.runs.store import Store
from tests.unit.runs.builders import make_spec

from .wrong_inputs import Arguments, Case, Setup, World

__all__ = ["CASES"]


def plain(*arguments: object) -> Setup:
    """Nothing but these arguments."""
    return lambda world: [*arguments]


def full_disk(world: World) -> None:
    """No file can be replaced, or appended to, any more."""

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.patch.setattr("os.replace", refuse)
    world.patch.setattr("dpft.data.arrow_cache._private_file", refuse)


def on_a_full_disk(*arguments: object) -> Setup:
    def setup(world: World) -> Arguments:
        full_disk(world)
        return [*arguments]

    return setup


def ambiguous(world: World) -> Arguments:
    for digit in "12":
        with world.patch.context() as patch:
            patch.setattr("dpft.runs.store.new_run_id", lambda digit=digit: f"abc{digit}" * 4)
            Store().create(make_spec(f"run-{digit}")).close()
    Store().list()
    return ["show", "abc"]


def busy(*arguments: object) -> Setup:
    def setup(world: World) -> Arguments:
        world.stack.enter_context(Store().create(make_spec("busy")))
        return [*arguments]

    return setup


def locked(world: World) -> Arguments:
    from filelock import FileLock

    defaults: Any = Store.__init__.__kwdefaults__
    world.patch.setitem(defaults, "lock_timeout", 0.05)
    world.stack.enter_context(FileLock(world.home / "registry.lock"))
    return ["rm", "kept"]


def newer_registry(world: World) -> Arguments:
    (world.home / "registry.json").write_text('{"schema_version": "2.0", "runs": {}}')
    return ["list"]


def damaged(name: str, content: str, *arguments: object) -> Setup:
    def setup(world: World) -> Arguments:
        (world.kept / name).write_text(content)
        return [*arguments]

    return setup


def home_is_a_file(world: World) -> Arguments:
    world.patch.setenv("DPFT_HOME", str(world.file("a-file")))
    return ["list"]


def cache_is_a_file(world: World) -> Arguments:
    world.patch.setenv("DPFT_CACHE", str(world.file("a-file")))
    return ["prepare", "demo", "-m", "builtin:minilm"]


def unreadable_cache(world: World) -> Arguments:
    """As with another user's folder, also where the tests' user may read everything."""
    original = os.open

    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).startswith(str(world.cache / "prepared")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path, *arguments, **more)

    world.patch.setattr("os.open", refuse)
    return ["prepare", "sst2", *world.glue("sentence\tlabel\ngood\t1\nbad\t0\n"), "-m", "builtin:minilm"]


def broken_download(world: World) -> Arguments:
    import datasets

    def cut(*arguments: object, **more: object) -> None:
        raise ConnectionError("Connection broken: IncompleteRead(512 bytes read, 4096 more expected)")

    world.patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    world.patch.setattr("dpft.data.glue_hub._commit", lambda task: "0" * 40)
    world.patch.setattr("dpft.data.sources.out_of_reach_because", lambda: "", raising=False)
    world.patch.setattr("dpft.hub.out_of_reach_because", lambda *given: "")
    world.patch.setattr(datasets, "load_dataset", cut)
    return ["prepare", "sst2", "-m", "builtin:minilm"]


def removed_already(world: World) -> Arguments:
    return ["restore", "kept"]


def name_taken(world: World) -> Arguments:
    Store().trash.put(Store().resolve("kept"))
    with Store().create(make_spec("kept")) as made:
        made.finish("failed", manifest=None)
    return ["restore", "kept"]


def config(content: str, name: str = "run.toml") -> Setup:
    return lambda world: ["train", "demo", "--config", world.file(name, content)]


def pickled_adapter(world: World) -> Arguments:
    folder = world.file("adapter/adapter_model.bin", b"\x80\x04").parent
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 8, "target_modules": ["query"]}
    world.file("adapter/adapter_config.json", json.dumps(settings))
    return ["eval", folder, "-d", "demo", "-m", "builtin:minilm"]


def empty_model(world: World) -> Arguments:
    (world.folder / "model").mkdir()
    return ["train", "demo", "-m", world.folder / "model"]


def charged(alter: Callable[[str], str]) -> Setup:
    """A ledger that somebody wrote into."""

    def setup(world: World) -> Arguments:
        from dpft.runs.ledger import Ledger

        event = {"sample_rate": 0.1, "noise_multiplier": 2.0, "steps": 40, "adjacency": "add-or-remove-one"}
        Ledger().charge(
            fingerprint="ab" * 32, run_id="c" * 16, name="kept", dataset="sst2", source="local files",
            mode="lora", event=event, delta=1e-5,
        )  # fmt: skip
        path = world.home / "ledger" / f"{'ab' * 32}.jsonl"
        path.write_text(alter(path.read_text()))
        return ["budget"]

    return setup


def lost_key(world: World) -> Arguments:
    arguments = charged(str)(world)
    (world.home / "secret.key").unlink()
    return arguments


def full_while_preparing(world: World) -> Arguments:
    full_disk(world)
    return ["prepare", "sst2", *world.glue("sentence\tlabel\ngood\t1\nbad\t0\n"), "-m", "builtin:minilm"]


def bad_row(rows: str | bytes) -> Setup:
    return lambda world: ["prepare", "sst2", *world.glue(rows), "-m", "builtin:minilm"]


HEADER = "sentence\tlabel\n"
CASES = (
    # options
    Case("a command misspelt", plain("trian", "demo"), 2, "'trian'", "did you mean 'train'?"),
    Case(
        "an option misspelt",
        plain("train", "demo", "--epsilon", "3"),
        2, "--epsilon", "did you mean --target-epsilon?",
    ),
    Case("words for a number", plain("train", "demo", "--epochs", "many"), 2, "'many'", "train --help"),
    Case("a number out of range", plain("train", "demo", "--epochs=-1"), 2, "--epochs", "train --help"),
    Case("not a number", plain("train", "demo", "--target-epsilon", "nan"), 2, "nan", "train --help"),
    Case("a δ of one", plain("train", "demo", "--target-delta", "1"), 2, "--target-delta", "train --help"),
    Case(
        "target and noise at once",
        plain("train", "demo", "--target-epsilon", "8", "--noise-multiplier", "1"),
        2, "exclude each other", "or the noise",
    ),
    Case("an unknown dataset", plain("train", "sst3"), 2, "unknown dataset 'sst3'", "did you mean 'sst2'?"),
    Case("an unknown mode", plain("train", "demo", "-f", "loar"), 2, "'loar'", "did you mean 'lora'?"),
    Case("an unknown engine", plain("train", "demo", "--engine", "opacsu"), 2, "'opacsu'", "'opacus'"),
    Case("no dataset", plain("train"), 2, "dataset", "demo"),
    Case(
        "a name for a device",
        plain("train", "demo", "--name", "con.txt"),
        2, "cannot name a run", "letters",
    ),
    Case(
        "a cap without privacy",
        plain("train", "demo", "--no-dp", "--budget-cap", 3),
        4, "budget cap", "leave out",
    ),
    Case("dropout with privacy", plain("train", "demo", "--lora-dropout", 0.1), 4, "lora_dropout", "--no-dp"),
    Case("a column misspelt", plain("list", "--sort", "acuracy"), 2, "'acuracy'", "did you mean 'accuracy'?"),
    Case("a filter that is code", plain("list", "--filter", "exit()"), 2, "'exit()'", "compare fields"),
    Case("a filter without quotes", plain("list", "--filter", "mode==lora"), 2, "'lora'", "quotes"),
    Case(
        "a text against a number",
        plain("list", "--filter", "accuracy>'x'"),
        2, "number with a text", "quotes",
    ),
    Case("an age that is none", plain("gc", "--older-than", "soon"), 2, "'soon'", "30m, 12h, 7d"),
    Case("a tag with a slash", plain("tag", "kept", "+a/b"), 2, "'a/b'", "letters"),
    Case("a note that drives the terminal", plain("note", "kept", "\x1b[2J"), 2, "control", "leave them out"),
    Case("one run to compare", plain("compare", "kept", "kept"), 2, "only run kept", "two runs"),
    # references
    Case("no such run", plain("show", "kpet"), 3, "no run 'kpet'", "did you mean kept?"),
    Case("more runs back than there are", plain("show", "@9"), 3, "'@9'", "dpft list"),
    Case("an ambiguous id", ambiguous, 3, "is ambiguous", "more of the id"),
    Case("an export of nothing", plain("export", "stopped"), 3, "has no adapter", "dpft list"),
    Case("a completed run resumed", plain("train", "--resume", "kept"), 2, "is completed", "train anew"),
    Case("a running run removed", busy("rm", "kept", "busy"), 5, "is being trained", "wait"),
    Case("a running run tagged", busy("tag", "busy", "+x"), 5, "is being trained", "wait"),
    Case("a run restored that is not removed", removed_already, 3, "in the trash", "dpft list --trash"),
    Case("a run restored whose name is taken", name_taken, 2, "is taken", "--name"),
    # files
    Case("no such data folder", plain("train", "sst2", "--data-dir", "nowhere"), 3, "nowhere", "--data-dir"),
    Case(
        "no such task in it",
        lambda w: ["prepare", "qnli", *w.glue(HEADER + "a\t1\n"), "-m", "builtin:minilm"],
        3, "QNLI", "--data-dir",
    ),
    Case(
        "a row without a label",
        bad_row(HEADER + "good\t1\nbad\n"),
        1, "train.tsv, line 3", "correct or remove",
    ),
    Case("an unknown label", bad_row(HEADER + "good\t1\nbad\t7\n"), 1, "line 3", "correct or remove"),
    Case("text in another encoding", bad_row(b"sentence\tlabel\ngr\xfcn\t1\n"), 1, "UTF-8", "convert"),
    Case("an empty file", bad_row(""), 1, "train.tsv", "header"),
    Case("no such config", plain("train", "demo", "--config", "none.toml"), 3, "none.toml", "TOML or YAML"),
    Case("a config key misspelt", config("epoch = 3"), 2, "'epoch'", "did you mean 'epochs'?"),
    Case("a config that is no TOML", config("epochs = "), 2, "not valid TOML", "toml.io"),
    Case("a config value of another kind", config("epochs = 'many'"), 2, "'many'", "run.toml"),
    Case("a model that is none", empty_model, 1, "not a sequence-classification checkpoint", "config.json"),
    Case("a model from a hub out of reach", plain("train", "demo", "-m", "no/such"), 1, "no/such", "-m"),
    Case("a pickled adapter", pickled_adapter, 1, "adapter_model.bin", "safetensors"),
    Case("nothing to verify", lambda w: ["verify", w.file("empty/x").parent], 3, "privacy.json", "dpft list"),
    # the store and the machine
    Case("a registry of a newer dpft", newer_registry, 1, "schema 2.0", "upgrade dpft"),
    Case("a spec damaged", damaged("config.yaml", "{", "show", "kept"), 1, "config.yaml", "backup"),
    Case("a manifest damaged", damaged("privacy.json", "{", "show", "kept"), 1, "privacy.json", "backup"),
    Case("a record damaged", damaged("run.json", "{", "note", "kept", "x"), 1, "run.json", "backup"),
    Case(
        "a ledger altered",
        charged(lambda text: text.replace('"steps":40', '"steps":30')),
        4, "jsonl", "backup",
    ),
    Case("a ledger whose key is lost", lost_key, 4, "secret.key is gone", "backup"),
    Case("a store that is a file", home_is_a_file, 1, "not a folder", "set DPFT_HOME"),
    Case("a cache that is a file", cache_is_a_file, 1, "not a folder", "set DPFT_CACHE"),
    Case("a cache nobody may read", unreadable_cache, 1, "cache", "DPFT_CACHE"),
    Case("a registry held by another", locked, 5, "is locked", "try again"),
    Case(
        "a full disk, while writing a note",
        on_a_full_disk("note", "kept", "x"),
        1, "No space left", "free some space",
    ),
    Case(
        "a full disk, while removing a run",
        on_a_full_disk("rm", "stopped"),
        1, "No space left", "free some space",
    ),
    Case("a full disk, while preparing", full_while_preparing, 1, "No space left", "DPFT_CACHE"),
    Case("a download that breaks off", broken_download, 1, "IncompleteRead", "--data-dir"),
)  # fmt: skip
