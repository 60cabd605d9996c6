import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpft.accounting import MechanismEvent
from dpft.errors import UsageError

GOOD = {"sample_rate": 0.1, "noise_multiplier": 3.0, "steps": 512, "adjacency": "add-or-remove-one"}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sample_rate", 0.0),
        ("sample_rate", -0.1),
        ("sample_rate", 1.0001),
        ("sample_rate", math.nan),
        ("sample_rate", "0.1"),
        ("sample_rate", True),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", None),
        ("steps", -1),
        ("steps", 1.0),
        ("steps", math.nan),
        ("steps", True),
        ("steps", 10**13),
        ("adjacency", "replace-special"),
        ("adjacency", None),
    ],
)
def test_a_wrong_value_is_named_with_its_range(argument, value):
    with pytest.raises(UsageError) as caught:
        MechanismEvent(**{**GOOD, argument: value})
    assert argument in caught.value.message
    assert repr(value) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("argument", "value"),
    [("sample_rate", 1), ("sample_rate", 5e-324), ("noise_multiplier", 7), ("steps", 0)],
)
def test_the_edges_of_the_ranges_are_inside(argument, value):
    assert getattr(MechanismEvent(**{**GOOD, argument: value}), argument) == value


def test_an_event_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MechanismEvent(**GOOD).steps = 1


def test_the_same_mechanism_with_other_steps_or_adjacency():
    event = MechanismEvent(**GOOD)
    assert event.with_steps(7) == MechanismEvent(0.1, 3.0, 7)
    assert event.with_adjacency("replace-one") == MechanismEvent(0.1, 3.0, 512, "replace-one")
    with pytest.raises(UsageError):
        event.with_steps(-7)


@given(
    sample_rate=st.floats(0, 1, exclude_min=True),
    noise_multiplier=st.floats(0, exclude_min=True, allow_infinity=False),
    steps=st.integers(0, 10**12),
    adjacency=st.sampled_from(["add-or-remove-one", "replace-one"]),
)
def test_the_record_survives_json_exactly(sample_rate, noise_multiplier, steps, adjacency):
    event = MechanismEvent(sample_rate, noise_multiplier, steps, adjacency)
    assert MechanismEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_the_record_has_the_fields_in_their_order():
    assert list(MechanismEvent(**GOOD).to_dict().items()) == list(GOOD.items())


@pytest.mark.parametrize("missing", GOOD)
def test_evidence_with_a_missing_field_is_refused(missing):
    with pytest.raises(UsageError, match="fields"):
        MechanismEvent.from_dict({key: value for key, value in GOOD.items() if key != missing})


def test_evidence_with_an_unknown_field_is_refused():
    with pytest.raises(UsageError, match="sampling"):
        MechanismEvent.from_dict({**GOOD, "sampling": "shuffle"})


def test_evidence_out_of_range_is_refused():
    with pytest.raises(UsageError, match="noise_multiplier"):
        MechanismEvent.from_dict({**GOOD, "noise_multiplier": 0})
