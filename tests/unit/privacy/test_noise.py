"""The keystream and the normals made of it."""

from __future__ import annotations

import copy
import math
import os
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from dpft.errors import EntropyError, PrivacyError
from dpft.privacy.noise import KEY_BYTES, KeyStream, Purpose, normals_from_uniforms
from tests import statistics
from tests.statistics import ALPHA

ZERO_KEY = bytes(KEY_BYTES)
# AES-256 of counter blocks 0, 1, 2 under the zero key: test cases 13 and 14 of McGrew & Viega, "The
# Galois/Counter Mode of Operation" (2005): the hash subkey, the tag of the empty message, the ciphertext.
KNOWN_BLOCKS = (
    "dc95c078a2408989ad48a21492842087",
    "530f8afbc74536b9a963b4f1c4cb738b",
    "cea7403d4d606b6e074ec5d3baf39d18",
)


def test_known_answer() -> None:
    assert KeyStream(ZERO_KEY).bytes(48).hex() == "".join(KNOWN_BLOCKS)


def test_known_answer_does_not_depend_on_how_it_is_read() -> None:
    stream = KeyStream(ZERO_KEY)
    assert b"".join(stream.bytes(n) for n in (1, 7, 30, 10)).hex() == "".join(KNOWN_BLOCKS)


def test_every_stream_has_a_key_of_its_own() -> None:
    assert KeyStream().bytes(32) != KeyStream().bytes(32)


def test_no_entropy_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(count: int) -> bytes:
        raise NotImplementedError("no generator")

    monkeypatch.setattr(os, "urandom", broken)
    with pytest.raises(EntropyError, match="no secure randomness") as caught:
        KeyStream()
    assert isinstance(caught.value, PrivacyError)
    assert caught.value.exit_code == 4


def test_a_short_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: bytes(count - 1))
    with pytest.raises(EntropyError, match="31 random bytes"):
        KeyStream()


def test_uniforms_lie_on_the_53_bit_grid_and_are_never_zero() -> None:
    values = KeyStream(ZERO_KEY).uniforms(100_000)
    assert values.min() > 0
    assert values.max() <= 1
    scaled = values * 2.0**53
    assert np.array_equal(scaled, np.round(scaled))
    assert np.any(scaled.astype(np.uint64) & np.uint64(1))  # down to the last bit, so not from float32


def test_extreme_words_give_the_ends_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = KeyStream(ZERO_KEY)
    monkeypatch.setattr(stream, "bytes", lambda count: bytes(count))
    assert stream.uniforms(1)[0] == 2.0**-53
    monkeypatch.setattr(stream, "bytes", lambda count: b"\xff" * count)
    assert stream.uniforms(1)[0] == 1.0


def tail_reach(smallest: float, dtype: torch.dtype) -> float:
    """How far the transform reaches when handed the smallest uniform."""
    return float(normals_from_uniforms(torch.tensor([smallest, 1.0], dtype=dtype)).abs().max())


def test_tails_reach_beyond_eight_and_a_half() -> None:
    assert tail_reach(2.0**-53, torch.float64) == pytest.approx(math.sqrt(106 * math.log(2)))
    assert tail_reach(2.0**-53, torch.float64) > 8.57


def test_pairs_are_the_transform_of_their_uniforms() -> None:
    """Against sines and cosines, at the ends of both ranges and where either is zero."""
    ends = [2.0**-53, 0.125, 0.25, 0.5, 0.75, 1 - 2.0**-53, 1.0]
    grid = torch.cartesian_prod(*[torch.tensor(ends, dtype=torch.float64)] * 2)
    radius, angle = grid.T
    r, turn = (-2 * radius.log()).sqrt(), 2 * math.pi * (angle - 0.5)
    found = normals_from_uniforms(torch.cat([radius, angle]))
    torch.testing.assert_close(found, torch.cat([r * turn.cos(), r * turn.sin()]), rtol=1e-14, atol=4e-15)


def test_known_normals() -> None:
    """The first of the zero key, from the uniforms of its known bytes, by the formula."""
    words = [
        int.from_bytes(bytes.fromhex("".join(KNOWN_BLOCKS))[i : i + 8], "little") for i in range(0, 32, 8)
    ]
    u = [((word >> 11) + 1) * 2.0**-53 for word in words]
    pairs = [(math.sqrt(-2 * math.log(u[i])), 2 * math.pi * (u[2 + i] - 0.5)) for i in range(2)]
    expected = [r * math.cos(t) for r, t in pairs] + [r * math.sin(t) for r, t in pairs]
    assert KeyStream(ZERO_KEY).normals(4).tolist() == pytest.approx(expected, rel=1e-13)


def test_planted_float32_tails_fall_short() -> None:
    """A 24-bit uniform, as float32 generators draw, never leaves ±5.77: what the test above would refuse."""
    assert tail_reach(2.0**-24, torch.float32) < 5.78


@pytest.mark.statistical
@pytest.mark.parametrize("count", [1, 2, 3, 99_999])
def test_normals_are_standard_normal(count: int) -> None:
    values = KeyStream(count.to_bytes(KEY_BYTES, "little")).normals(count)
    assert values.dtype == torch.float64
    assert values.shape == (count,)
    if count > 100:
        assert statistics.variance_p_value(values.numpy(), 1.0) > ALPHA
        assert statistics.normality_p_value(values.numpy(), 1.0) > ALPHA
        halves = values[: count // 2], values[count // 2 : 2 * (count // 2)]
        assert statistics.correlation_p_value(halves[0].numpy(), halves[1].numpy()) > ALPHA
        assert statistics.variance_p_value(values.numpy() * 0.98, 1.0) < ALPHA


def test_chunks_join_without_repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpft.privacy.noise._CHUNK", 8)
    values = KeyStream(ZERO_KEY).normals(50)
    assert len(torch.unique(values)) == 50


# -- a step's part of the stream depends on key and step alone, and is read once


def part(step: int, purpose: Purpose, count: int = 64) -> bytes:
    stream = KeyStream(ZERO_KEY)
    stream.begin(step, purpose)
    return stream.bytes(count)


def test_each_part_begins_at_its_own_counter() -> None:
    """Against AES-256 block by block: step 5's noise has the counters 5 ‖ 1 ‖ 0, 1, 2, 3."""
    block_cipher = Cipher(algorithms.AES(ZERO_KEY), modes.ECB()).encryptor()
    counters = b"".join((5).to_bytes(8, "big") + b"\1" + n.to_bytes(7, "big") for n in range(4))
    assert part(5, Purpose.NOISE) == block_cipher.update(counters)


def test_a_part_does_not_depend_on_what_was_read_before() -> None:
    stream = KeyStream(ZERO_KEY)
    for step in range(1, 5):
        stream.begin(step, Purpose.SAMPLING)
        stream.uniforms(3 * step)
        stream.begin(step, Purpose.NOISE)
        if step < 4:
            stream.normals(step)
    assert stream.bytes(64) == part(4, Purpose.NOISE)


def shared_blocks(parts: list[bytes]) -> int:
    blocks = [chunk[i : i + 16] for chunk in parts for i in range(0, len(chunk), 16)]
    return len(blocks) - len(set(blocks))


def test_no_two_parts_share_a_block() -> None:
    """AES is a permutation: distinct counters give distinct blocks, so a shared block is a shared counter."""
    parts = [part(step, purpose, 4096) for step in range(1, 9) for purpose in Purpose]
    assert shared_blocks([KeyStream(ZERO_KEY).bytes(4096), *parts]) == 0


def test_planted_overlap_of_steps_is_noticed() -> None:
    stream = KeyStream(ZERO_KEY)
    parts = [stream.bytes(64)]
    for block in range(
        1, 4
    ):  # a step's number in the counter's last bytes: each step begins inside the former
        stream._encrypt = Cipher(stream._cipher, modes.CTR(block.to_bytes(16, "big"))).encryptor().update
        parts.append(stream.bytes(64))
    assert shared_blocks(parts) > 0


@pytest.mark.parametrize(
    ("again", "purpose"), [(3, Purpose.SAMPLING), (3, Purpose.NOISE), (2, Purpose.NOISE), (0, Purpose.NOISE)]
)
def test_no_part_is_read_twice(again: int, purpose: Purpose) -> None:
    stream = KeyStream(ZERO_KEY)
    stream.begin(3, Purpose.NOISE)
    with pytest.raises(PrivacyError, match="drawn already"):
        stream.begin(again, purpose)
    stream.begin(4, Purpose.SAMPLING)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, ForkingPickler.dumps])
def test_a_stream_is_neither_copied_nor_stored(duplicate: object) -> None:
    assert callable(duplicate)
    with pytest.raises(PrivacyError, match="cannot be copied or stored"):
        duplicate(KeyStream())


def test_a_forked_process_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = KeyStream()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(PrivacyError, match="same noise as its parent"):
        stream.begin(1, Purpose.SAMPLING)
