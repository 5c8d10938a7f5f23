from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ornstein.core import Condition, Keyed
from ornstein.denoisers import Matcher
from ornstein.objectives import TextImageMatching, symmetric_info_nce


def test_uninformative_features_cost_log_n_and_perfect_ones_nothing():
    assert symmetric_info_nce(torch.full((7, 7), 3.2).double()).item() == pytest.approx(
        math.log(7), abs=1e-12
    )
    assert symmetric_info_nce(100 * torch.eye(7).double()).item() == pytest.approx(0, abs=1e-12)
    wrong = 100 * torch.eye(7).double().roll(1, 0)
    assert symmetric_info_nce(wrong).item() == pytest.approx(100, abs=1e-9)


def test_it_is_the_mean_of_both_directions_and_knows_no_order():
    torch.manual_seed(0)
    s = torch.randn(6, 6, dtype=torch.float64)
    by_hand = sum(
        -math.log(s[i, i].exp() / row.exp().sum()) / 12 for i in range(6) for row in (s[i], s[:, i])
    )
    assert symmetric_info_nce(s).item() == pytest.approx(by_hand, abs=1e-12)
    order = torch.randperm(6)
    torch.testing.assert_close(symmetric_info_nce(s[order][:, order]), symmetric_info_nce(s))
    torch.testing.assert_close(symmetric_info_nce(s.T), symmetric_info_nce(s))


def test_its_gradient_is_that_of_differences():
    torch.manual_seed(0)
    same = torch.eye(5, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    s = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: symmetric_info_nce(v, same), s)


def test_pairs_that_are_as_true_are_left_out():
    torch.manual_seed(0)
    s = torch.randn(4, 4, dtype=torch.float64)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    one = symmetric_info_nce(s, same)
    s[0, 3], s[3, 0] = 50.0, -50.0
    torch.testing.assert_close(symmetric_info_nce(s, same), one)
    assert symmetric_info_nce(torch.ones(4, 4), torch.ones(4, 4) > 0).item() == 0.0


class Pair(nn.Module):
    """Similarity of numbers: an image is one, a text two ids."""

    def forward(self, x, ids):
        return -((x.flatten(1).sum(1)[:, None] - ids.double().sum(1)[None]) ** 2)


def batch(x, ids, **fields):
    return {"x_0": x, "condition": Condition({"text": ids, **fields})}


def test_the_loss_sees_the_batch_and_twins_join_it():
    x = torch.tensor([0.3, 1.2, 2.2], dtype=torch.float64).reshape(3, 1, 1, 1)
    ids = torch.tensor([[0, 0], [0, 1], [1, 1]])
    losses = TextImageMatching()(Matcher(Pair()), batch(x, ids), Keyed(0, 3))
    assert not losses.sample.any() and list(losses.batch) == ["matching"]
    torch.testing.assert_close(losses.total, symmetric_info_nce(Pair()(x, ids)))
    twins = {"twin_image": x + 3, "twin_text": ids + 2}
    both = TextImageMatching()(Matcher(Pair()), batch(x, ids, **twins), Keyed(0, 3))
    joined = symmetric_info_nce(Pair()(torch.cat([x, x + 3]), torch.cat([ids, ids + 2])))
    torch.testing.assert_close(both.total, joined)
    order = torch.tensor([2, 0, 1])
    again = TextImageMatching()(Matcher(Pair()), batch(x[order], ids[order]), Keyed(0, 3))
    torch.testing.assert_close(again.total, losses.total)


def test_the_same_text_twice_is_no_counterexample():
    x = torch.tensor([0.3, 1.2, 0.1], dtype=torch.float64).reshape(3, 1, 1, 1)
    ids = torch.tensor([[0, 0], [0, 1], [0, 0]])
    loss = TextImageMatching()(Matcher(Pair()), batch(x, ids), Keyed(0, 3)).total
    s = Pair()(x, ids).exp()
    rows = [s[0, 0] / s[0, :2].sum(), s[1, 1] / s[1].sum(), s[2, 2] / s[2, 1:].sum()]
    columns = [s[0, 0] / s[:2, 0].sum(), s[1, 1] / s[:, 1].sum(), s[2, 2] / s[1:, 2].sum()]
    torch.testing.assert_close(loss, -torch.stack(rows + columns).log().mean())


def test_models_and_data_of_another_kind_are_refused():
    x = torch.zeros(2, 1, 1, 1)
    with pytest.raises(TypeError, match=r"trains a denoisers\.Matcher\(pair\), got Identity"):
        TextImageMatching()(nn.Identity(), {"x_0": x}, Keyed(0, 2))
    with pytest.raises(ValueError, match="have no texts"):
        TextImageMatching()(Matcher(Pair()), {"x_0": x}, Keyed(0, 2))
