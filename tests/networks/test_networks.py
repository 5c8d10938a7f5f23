"""What every network keeps, whatever its state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ornstein.core import Condition, Tree, build, leaves, tree_map


def total(output: Tree) -> Tensor:
    return sum(v.square().sum() for v in leaves(output))


def same(a: Tree, b: Tree, tolerance: float = 1e-10) -> bool:
    return all(
        torch.allclose(*pair, rtol=0, atol=tolerance) for pair in zip(leaves(a), leaves(b), strict=True)
    )


def test_a_new_network_gives_zeros(fresh):
    assert all(not v.any() for v in leaves(fresh()))


def test_gradients_reach_every_parameter(case):
    total(case()).backward()
    silent = [n for n, p in case.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_a_new_network_learns_every_parameter_within_three_steps(fresh):
    optimizer = torch.optim.Adam(fresh.network.parameters(), lr=1e-2)
    start = {n: p.detach().clone() for n, p in fresh.network.named_parameters()}
    targets = tree_map(torch.randn_like, fresh())
    for _ in range(3):
        optimizer.zero_grad()
        total(tree_map(torch.sub, fresh(), targets)).backward()
        optimizer.step()
    assert not [n for n, p in fresh.network.named_parameters() if torch.equal(p, start[n])]


def test_it_is_differentiable_in_eval_mode(case):
    case.network.eval().requires_grad_(False)
    x = tree_map(lambda v: v.requires_grad_() if v.is_floating_point() else v, case.x)
    level = tree_map(lambda v: v.requires_grad_(), case.level)
    total(case(x=x, level=level)).backward()
    inputs = [v for v in leaves((x, level)) if v.requires_grad]
    assert all(v.grad.abs().sum() > 0 for v in inputs)


def test_a_batch_equals_its_rows(case):
    batch = case()
    rows = [case.rows(slice(i, i + 1))() for i in range(4)]
    assert same(batch, tree_map(lambda *v: torch.cat(v), *rows))


def test_every_level_matters(case):
    for i in range(len(leaves(case.level))):
        shifts = iter([float(i == j) for j in range(len(leaves(case.level)))])
        moved = case(level=tree_map(lambda v: v + next(shifts), case.level))  # noqa: B023
        assert not same(case(), moved, 1e-4)


def test_infinite_levels_are_legal(case):
    for end in (torch.inf, -torch.inf):
        output = case(level=tree_map(lambda v: torch.full_like(v, end), case.level))  # noqa: B023
        assert all(v.isfinite().all() for v in leaves(output))


def test_a_row_without_a_label_is_a_missing_label(case):
    given, missing = case(), case(condition=None)
    present = case.condition.present["label"]
    assert same(*(tree_map(lambda v: v[~present], out) for out in (given, missing)))
    assert not same(*(tree_map(lambda v: v[present], out) for out in (given, missing)), 1e-4)
    for nothing in (Condition(), case.condition.null(), case.condition.null("label")):
        assert same(case(condition=nothing), missing)


def test_the_value_of_an_absent_label_is_not_read(case):
    other = case.condition["label"].clone()
    other[~case.condition.present["label"]] = 3
    assert same(case(condition=Condition({"label": other}, case.condition.present)), case(), 0)


def test_soft_labels(case):
    soft = torch.nn.functional.one_hot(case.condition["label"], 5).double().requires_grad_()
    output = case(condition=Condition({"label": soft}, case.condition.present))
    assert same(output, case())
    total(output).backward()
    assert soft.grad.abs().sum(1).gt(0).tolist() == case.condition.present["label"].tolist()


def test_a_label_out_of_range_is_refused(case):
    for label in (-1, 5):
        with pytest.raises(IndexError):
            case(condition=Condition({"label": torch.full((4,), label)}))


def test_it_compiles_as_one_graph(case):
    torch.compiler.reset()  # what earlier cases compiled of the same code counts towards a limit
    compiled = torch.compile(case.network, fullgraph=True, backend="eager")
    assert same(case(network=compiled), case())
    assert same(case(network=compiled, condition=None), case(condition=None))


def test_its_spec_rebuilds_it(case):
    twin = build(case.network.spec()).double()
    twin.load_state_dict(case.network.state_dict())
    assert twin.spec() == case.network.spec()
    assert same(case(network=twin), case(), 0)


def test_it_names_the_fields_it_reads(case):
    assert case.network.fields == {"label"}
    assert case.network.labels == 5


def test_a_level_that_is_not_one_number_a_row_is_refused(case):
    for wrong in (lambda v: v[:1], lambda v: v[:, None], lambda v: v[0]):
        with pytest.raises(ValueError, match=r"level.*one a sample"):
            case(level=tree_map(wrong, case.level))


def test_it_runs_in_bfloat16(case):
    exact = case()
    case.network.bfloat16()
    x, level = tree_map(lambda v: v.bfloat16() if v.is_floating_point() else v, (case.x, case.level))
    output = case(x=x, level=level)
    assert all(v.dtype is torch.bfloat16 for v in leaves(output))
    assert same(tree_map(torch.Tensor.double, output), exact, 0.3)
