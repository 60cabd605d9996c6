from __future__ import annotations

import pytest

from dpft.errors import AmbiguousError, NotFoundError
from dpft.runs import store as store_module
from dpft.runs.store import Store

from .builders import make_spec


@pytest.fixture
def three(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    ids = iter(["aaaa000000000001", "aaaabbbb00000002", "cccc000000000003"])
    monkeypatch.setattr(store_module, "new_run_id", lambda: next(ids))
    for name in ("calm-otter", "brisk-owl", "calm-otter-2"):
        with store.create(make_spec(name)) as run:
            run.finish("failed", manifest=None)
    return store


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("aaaa000000000001", "calm-otter"),
        ("aaaab", "brisk-owl"),
        ("AAAAB", "brisk-owl"),
        ("c", "calm-otter-2"),
        ("calm-otter", "calm-otter"),
        ("Brisk-Owl", "brisk-owl"),
        ("@latest", "calm-otter-2"),
        ("@1", "calm-otter-2"),
        ("@2", "brisk-owl"),
        ("@3", "calm-otter"),
    ],
)
def test_references(three: Store, ref: str, name: str) -> None:
    assert three.resolve(ref).name == name


def test_an_ambiguous_reference_lists_its_matches(three: Store) -> None:
    with pytest.raises(AmbiguousError) as caught:
        three.resolve("aaaa")
    assert "aaaabbbb (brisk-owl), aaaa0000 (calm-otter)" in caught.value.message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("brisk-owI", "did you mean brisk-owl"),
        ("calm-oter", "calm-otter or calm-otter-2"),
        ("", "dpft list"),
        ("zzz", "dpft list"),
        ("@4", "dpft list"),
        ("@0", "@latest"),
        ("@newest", "@latest"),
    ],
)
def test_a_reference_to_nothing(three: Store, ref: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        three.resolve(ref)
    assert hint in caught.value.hint
    assert not isinstance(caught.value, AmbiguousError)
