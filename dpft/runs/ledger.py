"""The privacy ledger: what has been spent on each dataset, over all runs, whatever became of them.

One append-only file per dataset, ``$DPFT_HOME/ledger/<fingerprint>.jsonl``. A run is *charged* for all its
planned steps before its first noisy step; :meth:`Ledger.charge` returns only when the line is on the disk. At
its end the charge is *settled* with the steps really taken. A process that dies in between leaves its charge
standing. Ledgers are outside the run directories, so that removing a run refunds nothing.

A dataset is its training rows as a multiset: its name, path, order, tokenizer and preparation do not matter
(see ``data.raw.RawDataset.content_digest``). A ledger does not see that two datasets overlap: one row added,
removed or edited makes another dataset, with a ledger of its own, though nearly everybody is in both.

Power cuts. A line is written and flushed, then its line feed is written and flushed, and only then does the
call return (``files.append_durably``). So whatever the last line lacks of its line feed was never
acknowledged. A torn *charge* counts for nothing, since its process cannot have gone on to a step; a torn
*settle* or *advance* leaves more charged than was spent, which is safe. An unacknowledged line that is whole
is kept; one that is torn is copied to ``<name>.torn-<time>`` and cut off, and the caller is told. Anything
else that is wrong (a line altered, removed or moved) cannot come from a power cut, and is refused.

Keys. Fingerprints are made with the store's local key; each ledger keeps a check value of it. Under another
key every dataset would look new, so with ledgers from another key nothing is charged or told.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpft.errors import LockedError, NotFoundError, PrivacyError, StoreError
from dpft.runs import paths
from dpft.runs.files import ensure_directory
from dpft.runs.ledger_entries import Entry, checked_event
from dpft.runs.ledger_pages import Pages, key_check_of
from dpft.runs.secret import key_check

__all__ = ["Admission", "Charge", "Entry", "Ledger"]

Admission = Callable[[Sequence[Entry]], None]
"""Looks at all earlier charges of a dataset, and raises a PrivacyError if another must not be added."""

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_PATIENCE_SECONDS = 120.0  # whoever admits a charge composes all earlier ones meanwhile, which takes seconds


class Ledger:
    """All ledgers of a store.

    Args:
        home: the store; None for :func:`dpft.runs.paths.home`.
        warn: told, in one line, of each torn line that was found and set aside.
        lock_timeout: seconds to wait for another process at work on the same dataset's ledger.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        warn: Callable[[str], object] | None = None,
        lock_timeout: float = _PATIENCE_SECONDS,
    ) -> None:
        self._home = ensure_directory(home) if home is not None else paths.home()
        self._folder = self._home / "ledger"
        self._warn = warn
        self._timeout = lock_timeout

    def charge(
        self,
        *,
        fingerprint: str,
        run_id: str,
        name: str,
        dataset: str,
        source: str,
        mode: str,
        event: Mapping[str, Any] | None,
        delta: float | None,
        start_step: int = 0,
        unaccounted: str | None = None,
        admit: Admission | None = None,
    ) -> Charge:
        """Charge a dataset for the steps a run is about to take.

        Call it before the first of them; go on only if it returns.

        Args:
            fingerprint: of the dataset, 64 hex characters.
            run_id: the run's.
            name: the run's.
            dataset: its name.
            source: what kind of place the rows came from; no path.
            mode: the fine-tune mode.
            event: ``sample_rate``, ``noise_multiplier``, ``steps`` that may be taken under this charge, and
                ``adjacency``; None for a run that no ε covers, which is recorded as unprotected.
            delta: δ of the run; None goes with no event.
            start_step: steps of the run that earlier charges cover.
            unaccounted: why no ε covers the run, where it was meant to be private.
            admit: asked while the ledger is locked, so that of two processes the second sees the first's
                charge; if it raises, nothing is written.

        Returns:
            The charge, on the disk.

        Raises:
            PrivacyError: ``admit`` refused; an event or δ out of range; the ledger is damaged, or of another
                key.
            LockedError: another process holds the ledger.
            StoreError: it cannot be written; nothing is charged then, and nothing may be released.
        """
        self._check_name(fingerprint)
        if (event is None) != (delta is None):
            raise PrivacyError("an event is charged with its δ, and an unprotected run with neither", hint="")
        if delta is not None and not 0 < delta < 1:
            raise PrivacyError(
                f"delta is {delta!r}, not in (0, 1)", hint="1/(2n) for n examples is customary"
            )
        charge_id = secrets.token_hex(8)
        record: dict[str, Any] = {
            "kind": "unprotected" if event is None else "charge",
            "charge_id": charge_id,
            "run_id": run_id,
            "name": name,
            "dataset": dataset,
            "source": source,
            "mode": mode,
            "start_step": start_step,
        }
        if event is not None and delta is not None:
            record |= {"event": checked_event(event), "delta": float(delta)}
        if unaccounted is not None:
            record["unaccounted"] = unaccounted
        with self._locked(fingerprint) as pages:
            if admit is not None:
                admit(pages.entries)
            pages.add(record)
        return Charge(self, fingerprint, charge_id)

    def entries(self, fingerprint: str) -> tuple[Entry, ...]:
        """All charges of a dataset, oldest first; none if it was never charged.

        Raises:
            PrivacyError: the ledger is damaged, or of another key.
            LockedError: another process holds it.
            StoreError: it cannot be read.
        """
        self._check_name(fingerprint)
        if not self._file(fingerprint).exists():
            self._check_keys()
            return ()
        with self._locked(fingerprint) as pages:
            return pages.entries

    def events(self, fingerprint: str) -> list[dict[str, Any]]:
        """What was spent on a dataset: an event for each charge that an ε covers, to be composed.

        A charge that is not settled counts for all its planned steps. Runs that no ε covers are not here: see
        ``Entry.protected``.

        Raises:
            as :meth:`entries`.
        """
        return [spent for entry in self.entries(fingerprint) if (spent := entry.spent) is not None]

    def fingerprints(self) -> tuple[str, ...]:
        """The datasets that were ever charged."""
        if not self._folder.is_dir():
            return ()
        return tuple(sorted(path.stem for path in self._files()))

    def of_run(self, run_id: str) -> tuple[Entry, ...]:
        """All charges of one run, oldest first.

        Raises:
            as :meth:`entries`.
        """
        return tuple(
            entry
            for fingerprint in self.fingerprints()
            for entry in self.entries(fingerprint)
            if entry.run_id == run_id
        )

    def settle_lost(self, charge_id: str) -> Entry:
        """Settle the charge of a process that died, at its last mark: it cannot have gone beyond.

        Call it only while holding the lock of the charge's run: a living process would go on.

        Args:
            charge_id: of a charge that is not settled.

        Returns:
            The charge as it stands now: without any ``advance`` nothing is known, and it stays charged for
            all its planned steps.

        Raises:
            NotFoundError: there is no such charge.
            PrivacyError: it is settled already; or as :meth:`entries`.
        """
        for fingerprint in self.fingerprints():
            with self._locked(fingerprint) as pages:
                entry = pages.get(charge_id)
                if entry is None:
                    continue
                if entry.settled is not None:
                    raise PrivacyError(f"charge {charge_id} is settled already", hint="it was not lost")
                if entry.mark is not None:
                    pages.add({"kind": "settle", "charge_id": charge_id, "steps": entry.mark, "lost": True})
                return pages.get(charge_id) or entry
        raise NotFoundError(f"no charge {charge_id}", hint="see 'dpft budget --json'")

    @contextmanager
    def _locked(self, fingerprint: str) -> Iterator[Pages]:
        """A ledger's pages, while nobody else can turn them."""
        ensure_directory(self._folder)
        lock = FileLock(self._folder / f"{fingerprint}.lock", timeout=self._timeout, mode=0o600)
        try:
            lock.acquire(poll_interval=0.01)
        except Timeout as error:
            raise LockedError(
                f"another process holds the ledger of dataset {fingerprint[:8]}",
                hint="try again when it is done",
            ) from error
        try:
            self._check_keys()
            yield Pages(self._file(fingerprint), fingerprint, key_check(self._home), self._warn)
        finally:
            lock.release()

    def _check_keys(self) -> None:
        """No ledger of this store may be of another key: under this one its dataset would look new."""
        files = self._files()
        mine = key_check(self._home) if files else ""
        for path in files:
            theirs = key_check_of(path)
            if theirs is not None and theirs != mine:
                raise PrivacyError(
                    f"{path} was written with another key than {self._home / 'secret.key'}",
                    hint="restore the key from a backup; without it nobody can tell what was spent on which "
                    "dataset",
                )

    def _files(self) -> list[Path]:
        return [path for path in sorted(self._folder.glob("*.jsonl")) if _FINGERPRINT.fullmatch(path.stem)]

    def _file(self, fingerprint: str) -> Path:
        return self._folder / f"{fingerprint}.jsonl"

    @staticmethod
    def _check_name(fingerprint: str) -> None:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise StoreError(
                f"{fingerprint!r} is no fingerprint", hint="give 64 hex characters, from keyed_fingerprint"
            )


@dataclass(frozen=True)
class Charge:
    """A charge that stands in a ledger; from :meth:`Ledger.charge`.

    Attributes:
        ledger: where it stands.
        fingerprint: of the dataset.
        charge_id: 16 hex characters.
    """

    ledger: Ledger
    fingerprint: str
    charge_id: str

    def advance(self, upto: int) -> None:
        """Say, before it happens, how far steps may go until the next mark.

        Args:
            upto: steps under this charge that may be released from now on, counted from its beginning; never
                less than the mark before, nor more than were charged.

        Raises:
            PrivacyError: a mark out of range; or the charge was settled by somebody else, who took this
                process for dead: no further step may be released.
            LockedError, StoreError: the mark could not be written: no step beyond the last may be released.
        """
        with self.ledger._locked(self.fingerprint) as pages:
            entry = pages.open_charge(self.charge_id)
            most = upto if entry.event is None else int(entry.event["steps"])
            if not (entry.mark or 0) <= upto <= most:
                raise PrivacyError(
                    f"a mark at step {upto}, after one at {entry.mark or 0}, of {most} that were charged",
                    hint="no further step was released; report it",
                )
            pages.add({"kind": "advance", "charge_id": self.charge_id, "upto": upto})

    def settle(self, steps: int, *, unaccounted: str | None = None) -> None:
        """Say how many steps were really taken. Never settled, it stays charged for all that were planned.

        Args:
            steps: taken under this charge.
            unaccounted: why no ε covers them, if none does.

        Raises:
            PrivacyError: it is settled already, with another number; or more steps were taken than charged
                (which is written down all the same).
            LockedError, StoreError: it could not be written, and stays as it was.
        """
        with self.ledger._locked(self.fingerprint) as pages:
            entry = pages.get(self.charge_id)
            if entry is not None and entry.settled == steps and unaccounted in (None, entry.unaccounted):
                return
            entry = pages.open_charge(self.charge_id)
            record: dict[str, Any] = {"kind": "settle", "charge_id": self.charge_id, "steps": steps}
            pages.add(record if unaccounted is None else {**record, "unaccounted": unaccounted})
        if entry.event is not None and steps > entry.event["steps"]:
            raise PrivacyError(
                f"{steps} steps were taken, {entry.event['steps']} were charged",
                hint="the ledger has the true number; report it",
            )
