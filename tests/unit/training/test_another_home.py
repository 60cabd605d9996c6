"""A store that is not at the user's home has a key of its own, and a run there uses no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpft.runs import paths
from dpft.runs.ledger import Ledger
from dpft.runs.store import Store
from dpft.training.run import resume, train
from tests.unit.training.resuming import DiesAfter, Killed, MakeSpec


def test_a_run_and_its_resumption_use_the_key_of_their_own_store(small: MakeSpec, tmp_path: Path) -> None:
    store = Store(tmp_path / "another")
    with pytest.raises(Killed):
        train(small(), DiesAfter(2), store)
    record = resume(store.list()[0].run_id, store=store)
    (fingerprint,) = Ledger(store.home).fingerprints()
    assert store.manifest(record)["data"]["fingerprint"] == fingerprint
    assert (store.home / "secret.key").exists()
    assert not (paths.home() / "secret.key").exists()
