"""Randomness that carries the guarantee: a keystream keyed by the system, and float64 normals from it.

Two things are drawn here and nowhere else: who is sampled, and the noise. Both come from AES-256 in counter
mode (NIST SP 800-38A), keyed by ``os.urandom`` and never by a seed; the key lives in this process's memory
only and is written nowhere. A public seed would let anyone subtract the noise again.

The 128-bit counter is divided up, so that what a step draws depends on key and step alone, and no two draws
share a block: ``step (8 bytes) ‖ purpose (1 byte) ‖ block (7 bytes)``, big endian. A process that resumes a
run draws a new key and goes on with the next step; nothing it draws was ever drawn before.

Normals are drawn from 53-bit uniforms by the Box–Muller transform in float64, which reaches ±8.57 standard
deviations; float32 generators stop near ±5.77, and a value outside their support proves membership.
Not addressed: the discreteness of float64 itself (Mironov 2012, CCS); its effect is far below δ here but not
accounted for, and the manifest says "float64 Box–Muller", not "discrete Gaussian".
"""

from __future__ import annotations

import math
import os
from enum import IntEnum
from typing import Any, Never

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from dpft.errors import EntropyError, PrivacyError

__all__ = ["KEY_BYTES", "KeyStream", "Purpose", "normals_from_uniforms"]

KEY_BYTES = 32
_CHUNK = 1 << 15  # numbers at a time: what they pass through stays in the processor's caches


def _fresh_key() -> bytes:
    """A key from the operating system.

    Raises:
        EntropyError: it has none to give; training must not go on with a weaker source.
    """
    try:
        key = os.urandom(KEY_BYTES)
    except (NotImplementedError, OSError) as error:
        raise EntropyError(
            f"the operating system gives no secure randomness ({error})",
            hint="private noise cannot be drawn without it; check /dev/urandom or the getrandom system call",
        ) from error
    if len(key) != KEY_BYTES:
        raise EntropyError(
            f"the operating system gave {len(key)} random bytes, {KEY_BYTES} were asked for",
            hint="private noise cannot be drawn without a full key",
        )
    return key


class Purpose(IntEnum):
    """What a part of a step's keystream is for, in the order in which a step needs it."""

    SAMPLING = 0
    NOISE = 1


class KeyStream:
    """AES-256-CTR keystream as a source of uniforms and normals.

    It is read from where :meth:`begin` put it; before that, from the counter's zero, which is no step's. It
    can be neither copied, pickled nor read in a forked process: each would draw the same noise a second time.

    Args:
        key: 32 bytes; None (always, outside tests) draws a fresh key from the operating system.

    Raises:
        EntropyError: no key can be had.
    """

    description = "AES-256-CTR keyed by operating-system entropy"

    def __init__(self, key: bytes | None = None) -> None:
        self._cipher = algorithms.AES(key if key is not None else _fresh_key())
        self._process = os.getpid()
        self._begun = (0, 0)
        self._seek(0, 0)

    def begin(self, step: int, purpose: Purpose) -> None:
        """Read on from the start of the part that belongs to ``step`` and ``purpose``.

        Args:
            step: counted from 1.
            purpose: what is drawn; each has 2⁵⁶ blocks of 16 bytes, more than can be read in a lifetime.

        Raises:
            PrivacyError: this part, or a later one, was begun before (its noise would be used twice), or the
                process is a fork of the one that holds the key.
        """
        if os.getpid() != self._process:
            raise PrivacyError(
                "a forked process would draw the same noise as its parent",
                hint="make the plan in the process that trains",
            )
        if not (step, purpose) > self._begun or not 0 < step < 1 << 64:
            raise PrivacyError(
                f"the {purpose.name.lower()} of step {step} was drawn already",
                hint="noise is used once: make a new plan, which draws a new key",
            )
        self._begun = (step, purpose)
        self._seek(step, purpose)

    def _seek(self, step: int, purpose: int) -> None:
        counter = step.to_bytes(8, "big") + purpose.to_bytes(1, "big") + bytes(7)
        self._encrypt = Cipher(self._cipher, modes.CTR(counter)).encryptor().update

    def __reduce__(self) -> Never:
        raise PrivacyError(
            "a keystream cannot be copied or stored", hint="noise is drawn once, by the process with the key"
        )

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes of the keystream (the encryption of zeros)."""
        return self._encrypt(bytes(count))

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """``count`` independent uniforms on the grid {1, …, 2⁵³}·2⁻⁵³, so never zero."""
        grid = np.frombuffer(self.bytes(8 * count), dtype="<u8") >> np.uint64(11)
        grid += np.uint64(1)
        values = grid.view(np.int64).astype(np.float64)  # at most 2⁵³: exact, and signed converts faster
        values *= 2.0**-53
        return values

    def normals(self, count: int) -> Tensor:
        """``count`` independent standard normals, float64."""
        out = np.empty(count, dtype=np.float64)
        for start in range(0, count, _CHUNK):
            size = min(_CHUNK, count - start)
            pairs = (size + 1) // 2
            if size % 2:
                out[start : start + size] = _box_muller(self.uniforms(2 * pairs))[:size]
            else:
                _box_muller(self.uniforms(2 * pairs), out[start : start + size])
        return torch.from_numpy(out)


def normals_from_uniforms(uniforms: Tensor) -> Tensor:
    """Box–Muller: pairs of uniforms in (0, 1] to pairs of independent normals.

    Args:
        uniforms: float64, an even number of them; the first half gives radii, the second angles.

    Returns:
        float64, as many normals. The smallest uniform, 2⁻⁵³, gives a radius of √(106·ln 2) ≈ 8.57.
    """
    return torch.from_numpy(_box_muller(uniforms.numpy().copy()))


def _box_muller(uniforms: npt.NDArray[Any], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """``r cos θ`` and ``r sin θ`` with ``r = √(−2 ln u)`` and ``θ = 2π(v − ½)``; ``uniforms`` are used up.

    Sine and cosine come from ``t = tan(θ/2)``, as ``2t/(1+t²)`` and ``(1−t²)/(1+t²)``: each has a relative
    error of a few units in the last place (the cosine, near its zeros, an absolute one), and one tangent
    costs a fraction of a sine and a cosine.
    """
    if out is None:
        out = np.empty_like(uniforms)
    radius, t = uniforms.reshape(2, -1)
    cosine, sine = out.reshape(2, -1)
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    t -= 0.5
    t *= math.pi
    np.tan(t, out=t)
    np.multiply(t, t, out=cosine)  # t²
    np.add(cosine, 1.0, out=sine)
    radius /= sine  # r / (1 + t²)
    np.subtract(1.0, cosine, out=cosine)
    cosine *= radius
    t += t
    np.multiply(t, radius, out=sine)
    return out
