"""The local key, and fingerprints that only its holder can recompute.

A plain hash of private data lets an outsider confirm a guess at it. So a dataset is named by an HMAC under a
key that is made once, stays in the store, and is never exported.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from filelock import FileLock, Timeout

from dpft.errors import EntropyError, LockedError, PrivacyError, StoreError
from dpft.runs import paths
from dpft.runs.files import ensure_directory, write_atomic

__all__ = ["KEY_BYTES", "key_check", "keyed_fingerprint", "local_key"]

KEY_BYTES = 32
_DOMAIN = b"dpft/dataset-fingerprint/v1\x00"
_CHECK_DOMAIN = b"dpft/key-check/v1\x00"
_TIMEOUT_SECONDS = 30.0


def local_key(home: Path | None = None) -> bytes:
    """The store's key, made on first use.

    Args:
        home: the store; None for :func:`dpft.runs.paths.home`.

    Returns:
        32 bytes. Processes that ask at the same time for a key not yet made all get the same one.

    Raises:
        EntropyError: the operating system gives no randomness.
        LockedError: another process has been making it for half a minute.
        PrivacyError: it is gone, though there are ledgers whose datasets only it can recognise.
        StoreError: the key file is damaged, or cannot be read or written.
    """
    store = ensure_directory(home) if home is not None else paths.home()
    path = store / "secret.key"
    key = _read(path)
    if key is not None:
        return key
    try:
        with FileLock(store / "secret.lock", timeout=_TIMEOUT_SECONDS, mode=0o600):
            key = _read(path)  # somebody may have made it while we waited
            if key is None:
                _refuse_if_lost(store)
                key = _entropy()
                write_atomic(path, key)
            return key
    except Timeout as error:
        raise LockedError(f"{path} is being made by another process", hint="try again") from error


def keyed_fingerprint(content_digest: bytes, *, home: Path | None = None) -> str:
    """Name some content so that only the holder of the local key can check a guess.

    Args:
        content_digest: digest of the content, at least 16 bytes.
        home: the store; None for :func:`dpft.runs.paths.home`.

    Returns:
        64 hex characters: HMAC-SHA256 under the local key, for this purpose alone (domain-separated).

    Raises:
        StoreError: the digest is too short to be one, or as :func:`local_key`.
    """
    if not len(content_digest) >= 16:
        raise StoreError(
            f"a content digest of {len(content_digest)} bytes cannot name a dataset",
            hint="give a cryptographic digest, such as SHA-256's 32 bytes",
        )
    return hmac.new(local_key(home), _DOMAIN + content_digest, hashlib.sha256).hexdigest()


def key_check(home: Path | None = None) -> str:
    """A value that tells this key from any other, and nothing else of it: what a ledger keeps of its key.

    Returns:
        32 hex characters.

    Raises:
        as :func:`local_key`.
    """
    return hmac.new(local_key(home), _CHECK_DOMAIN, hashlib.sha256).hexdigest()[:32]


def _refuse_if_lost(store: Path) -> None:
    """Under a new key every dataset would look new, and what was spent on it would be forgotten."""
    if any((store / "ledger").glob("*.jsonl")):
        raise PrivacyError(
            f"{store / 'secret.key'} is gone, and the ledgers in {store / 'ledger'} need it",
            hint="restore it from a backup; without it nobody can tell what was spent on which dataset",
        )


def _read(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"could not read {path}: {error.strerror}", hint="check its permissions") from error
    if len(key) != KEY_BYTES:
        raise StoreError(
            f"{path} holds {len(key)} bytes instead of {KEY_BYTES}",
            hint="restore it from a backup: without it, earlier runs on a dataset cannot be recognised",
        )
    return key


def _entropy() -> bytes:
    try:
        return os.urandom(KEY_BYTES)
    except (NotImplementedError, OSError) as error:
        raise EntropyError(
            "the operating system gives no secure randomness", hint="run where os.urandom works"
        ) from error
