from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dpft.errors import ExportError
from dpft.export.verify import compare, logits_of, synthetic_batch
from tests import models


def tokenizer(**changes: Any) -> Any:
    given = {
        "all_special_ids": [0, 1, 2, 3],
        "pad_token_id": 0,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    return SimpleNamespace(**{**given, **changes})


def test_batch_is_the_same_at_every_call_whatever_was_drawn_before() -> None:
    model = models.tiny_bert()
    torch.manual_seed(1)
    first = synthetic_batch(model, tokenizer(), 0)
    torch.manual_seed(2)
    again = synthetic_batch(model, tokenizer(), 0)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_batch_has_rows_of_several_lengths_padded_on_the_right() -> None:
    batch = synthetic_batch(models.tiny_bert(), tokenizer(), 0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert mask.sum(1).tolist() == [32, 22, 12, 2]
    assert torch.equal(mask, mask.sort(dim=1, descending=True).values)
    assert bool((ids[mask == 0] == 0).all())
    assert not set(ids[mask == 1].tolist()) & {0, 1, 2, 3}
    assert int(ids.max()) < models.VOCABULARY
    assert batch["token_type_ids"].unique().tolist() == [0, 1]
    assert bool((batch["token_type_ids"] <= mask).all())


@pytest.mark.parametrize(("positions", "virtual", "longest"), [(64, 0, 32), (24, 5, 17), (8, 5, 2)])
def test_batch_leaves_room_for_virtual_tokens(positions: int, virtual: int, longest: int) -> None:
    model = models.tiny_bert(max_position_embeddings=positions)
    assert synthetic_batch(model, tokenizer(), virtual)["input_ids"].shape == (4, longest)


def test_batch_has_only_what_the_model_takes() -> None:
    without = tokenizer(model_input_names=["input_ids", "attention_mask"])
    assert synthetic_batch(models.tiny_bert(), without, 0).keys() == {"input_ids", "attention_mask"}
    one_type = synthetic_batch(models.tiny_bert(type_vocab_size=1), tokenizer(), 0)
    assert one_type["token_type_ids"].unique().tolist() == [0]


def test_logits_are_those_of_eval_mode_without_gradients() -> None:
    model = models.tiny_bert(hidden_dropout_prob=0.5).train()
    batch = synthetic_batch(model, tokenizer(), 0)
    first = logits_of(model, batch)
    assert first.shape == (4, models.LABELS)
    assert not first.requires_grad
    assert torch.equal(first, logits_of(model.train(), batch))


def test_compare_gives_the_largest_difference() -> None:
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = expected + torch.tensor([[0.0, 0.25], [-0.5, 0.0]])
    assert compare(expected, found, 0.5) == 0.5
    assert compare(expected, expected, 0.0) == 0.0


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (torch.tensor([[1.0, 2.1]]), "differ by 0.1, more than 0.01"),
        (torch.tensor([[1.0, float("nan")]]), "export gives logits that are not finite"),
        (torch.tensor([[float("inf"), 2.0]]), "export gives logits that are not finite"),
        (torch.tensor([[1.0, 2.0, 3.0]]), "shape"),
    ],
)
def test_compare_refuses(found: torch.Tensor, problem: str) -> None:
    with pytest.raises(ExportError, match=problem):
        compare(torch.tensor([[1.0, 2.0]]), found, 0.01)


def test_compare_refuses_a_run_that_is_not_finite_even_if_the_export_agrees() -> None:
    broken = torch.tensor([[float("inf"), 2.0]])
    with pytest.raises(ExportError, match="the run gives logits that are not finite"):
        compare(broken, broken, 1.0)
