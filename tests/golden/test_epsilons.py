"""Numbers that other people's code computed; ours must agree.

Provenance. Rows are GLUE-size settings (sample rate B/n, δ = 1/(2n)) at the noise multiplier that
dp-accounting 0.6.0 calibrated; ``low`` and ``high`` bracket ε by an independent library, prv-accountant 0.2.0
(eps_error 1e-3; Gopi et al. 2021, arXiv 2106.02848). The replace-one column is dp-accounting 0.6.0's
``PLDAccountant(REPLACE_ONE, 1e-4)``, the rdp column its ``RdpAccountant`` with default orders. Closed forms:
the analytic Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06530) for full batches, and the hockey-stick
divergence of one subsampled Gaussian for single Poisson steps.
"""

import pytest

from dpft.accounting import MechanismEvent, calibrate_noise_multiplier, guarantee, round_up
from dpft.accounting.pld import PLD
from dpft.accounting.rdp import RDP

# dataset, n, expected batch, steps, noise multiplier, low, high, replace-one, rdp
ROWS = [
    ("SST-2", 67349, 256, 790, 0.8361, 0.998711, 1.000955, 1.252228, 1.638166),
    ("QNLI", 104743, 4096, 256, 1.2153, 2.998746, 3.001123, 4.879413, 3.332523),
    ("QQP", 363846, 256, 4264, 0.5512, 2.997074, 2.999769, 3.086425, 3.976092),
    ("QQP", 363846, 4096, 889, 1.6192, 0.998938, 1.001053, 1.829649, 1.088814),
    ("MNLI", 392702, 4096, 959, 0.8683, 2.998488, 3.000878, 4.130974, 3.475618),
    ("CoLA", 8551, 256, 335, 1.0144, 2.998493, 3.000995, 4.666856, 3.432670),
    ("small-biz", 2000, 64, 625, 2.5091, 0.998862, 1.001072, 2.081958, 1.132759),
    ("small-biz", 2000, 64, 625, 0.7414, 7.997698, 8.001071, 11.485003, 9.248830),
]

# noise multiplier, sample rate, steps, δ, exact ε
CLOSED_FORMS = [
    (5.0, 1.0, 1, 1e-5, 0.7255217508577948),
    (20.0, 1.0, 100, 1e-6, 2.2540846502197422),
    (40.0, 1.0, 1000, 1e-5, 3.341409469239722),
    (1.0, 0.01, 1, 1e-5, 0.19945044779591503),
    (0.6, 0.05, 1, 1e-6, 4.746038260155178),
    (0.5, 0.004, 1, 1e-5, 1.6795980340779235),
]

STANDARD = MechanismEvent(sample_rate=0.1, noise_multiplier=3.0, steps=512)


def test_the_standard_setting():
    # dp-accounting 0.6.0, PLD (interval 1e-4) and RDP.
    found = guarantee([STANDARD], 1e-6)
    assert found.epsilon == pytest.approx(3.7697, abs=5e-5)
    assert found.epsilon_rdp == pytest.approx(4.0510, abs=5e-5)
    assert round_up(found.epsilon) == 3.7697


def test_the_noise_of_the_standard_setting_at_epsilon_1():
    # dp-accounting 0.6.0, PLD: ε(9.6618) = 1.0000033 and ε(9.6619) = 0.9999920. To the nearest decimal the
    # noise multiplier is 9.6618; on the safe side it is 9.6619.
    found = calibrate_noise_multiplier(sample_rate=0.1, steps=512, target_epsilon=1.0, target_delta=1e-6)
    assert found.noise_multiplier == 9.6619
    assert found.epsilon == pytest.approx(0.9999920, abs=1e-6)
    assert PLD.epsilon([MechanismEvent(0.1, 9.6618, 512)], 1e-6) == pytest.approx(1.0000033, abs=1e-6)


@pytest.mark.parametrize("row", CLOSED_FORMS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_closed_forms(row):
    noise_multiplier, sample_rate, steps, delta, exact = row
    event = MechanismEvent(sample_rate, noise_multiplier, steps)
    found = PLD.epsilon([event], delta)
    assert exact <= found <= exact * (1 + 1e-5)
    assert RDP.epsilon([event], delta) > found


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[2]}-{row[4]}")
def test_glue_sizes(row):
    _, n, batch, steps, noise_multiplier, low, high, replace_one, rdp = row
    found = guarantee([MechanismEvent(batch / n, noise_multiplier, steps)], 1 / (2 * n))
    assert low <= found.epsilon <= high
    assert found.epsilon_replace_one == pytest.approx(replace_one, rel=1e-5)
    assert found.epsilon_rdp == pytest.approx(rdp, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("row", [ROWS[0], ROWS[1], ROWS[6]], ids=lambda row: f"{row[0]}-{row[2]}-{row[4]}")
def test_calibration_at_glue_sizes(row):
    _, n, batch, steps, noise_multiplier, low, high, *_ = row
    target = round((low + high) / 2)
    found = calibrate_noise_multiplier(
        sample_rate=batch / n, steps=steps, target_epsilon=target, target_delta=1 / (2 * n)
    )
    assert found.noise_multiplier == pytest.approx(noise_multiplier, abs=1.01e-4)
    assert found.epsilon <= target
