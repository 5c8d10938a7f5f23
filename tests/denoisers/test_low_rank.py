"""A trainable mixture of subspaces: equal to the exact mixture, and its training to principal components."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import build
from ornstein.denoisers import LowRankMixture, MixtureDenoiser
from ornstein.diagnostics import jacobian_svd
from ornstein.metrics import subspace_distance
from ornstein.processes import RectifiedFlow, VarianceExploding, VariancePreserving

D, RANK = 8, 2


def frames(count: int = 3, seed: int = 0, d: int = D, rank: int = RANK) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(count, d, rank, generator=torch.Generator().manual_seed(seed)))[0]


def points(u: torch.Tensor, n: int, seed: int = 0) -> torch.Tensor:
    """n rows of each subspace."""
    a = torch.randn(len(u), n, u.shape[2], generator=torch.Generator().manual_seed(seed))
    return (a @ u.mT).flatten(0, 1)


@pytest.mark.parametrize("process", [VariancePreserving(), VarianceExploding(0.01, 50.0), RectifiedFlow()])
def test_it_is_the_mixture_of_degenerate_gaussians(process):
    u, weights = frames(), [0.5, 0.3, 0.2]
    ours = LowRankMixture.of(u, process, weights)
    exact = MixtureDenoiser(weights, torch.zeros(3, D), u @ u.mT, process)
    x = points(u, 4) + 0.1 * torch.randn(12, D, generator=torch.Generator().manual_seed(1))
    for t in (0.05, 0.4, 1.0, torch.linspace(0.05, 1, 12)):
        got, want = ours(x, t), exact(x, t)
        assert torch.allclose(got.mean, want.mean, atol=1e-10)
        assert torch.allclose(got.heads["responsibilities"], want.heads["responsibilities"], atol=1e-10)
    assert torch.allclose(ours(points(u, 4), 0.0).mean, points(u, 4), atol=1e-9)  # clean data stay


def test_order_and_bases_do_not_matter():
    u, process = frames(), VariancePreserving()
    x = torch.randn(6, D, generator=torch.Generator().manual_seed(0))
    mean = LowRankMixture.of(u, process, [0.5, 0.3, 0.2])(x, 0.3).mean
    turned = u @ torch.linalg.qr(torch.randn(3, RANK, RANK))[0]
    assert torch.allclose(LowRankMixture.of(turned, process, [0.5, 0.3, 0.2])(x, 0.3).mean, mean, atol=1e-12)
    swapped = LowRankMixture.of(u[[2, 0, 1]], process, [0.2, 0.5, 0.3])
    assert torch.allclose(swapped(x, 0.3).mean, mean, atol=1e-12)


def losses(model, x_0, t, weights) -> torch.Tensor:
    """E_z |x_0 - D|^2 with given responsibilities, exactly: pairs z and -z of a full orthonormal set."""
    level = model.process.at(t)
    total = torch.zeros(len(x_0))
    size = x_0.shape[1]
    for sign in (1, -1):
        for e in torch.eye(size):
            x_t = level.alpha * x_0 + level.sigma * sign * size**0.5 * e
            total = total + ((x_0 - model.given(x_t, t, weights).mean) ** 2).sum(1)
    return total / (2 * size)


def test_hard_assignment_is_the_cost_of_k_subspaces():
    """|x_0|^2 - 2 c alpha m + c^2 (alpha^2 m + sigma^2 d) with m = max_k |U_k^T x_0|^2: affine in K-subspaces' cost."""
    process, t = VariancePreserving(), 0.4
    level = process.at(t)
    c = level.alpha / (level.alpha**2 + level.sigma**2)
    x_0 = torch.randn(20, D, generator=torch.Generator().manual_seed(0))
    for seed in (1, 2):
        model = LowRankMixture.of(frames(seed=seed), process)
        which = model.assigned(x_0)
        cost = ((x_0[:, None] - torch.einsum("kde,kfe,bf->bkd", model.bases, model.bases, x_0)) ** 2).sum(2)
        assert torch.equal(which, cost.argmin(1))
        found = losses(model, x_0, t, torch.nn.functional.one_hot(which).double())
        most = (x_0**2).sum(1) - cost.min(1).values
        share = 2 * c * level.alpha - c**2 * level.alpha**2
        want = (x_0**2).sum(1) - share * most + c**2 * level.sigma**2 * RANK
        assert torch.allclose(found, want, atol=1e-10)


def test_soft_and_hard_differ_between_subspaces_only():
    u, process = frames(), VariancePreserving()
    soft = LowRankMixture.of(u, process)
    hard = LowRankMixture.of(u, process, assignment="hard")
    x = process.at(0.05).alpha * 4.0 * points(u, 1)
    assert torch.allclose(soft(x, 0.05).mean, hard(x, 0.05).mean, atol=1e-6)
    assert not torch.allclose(soft(x, 0.9).mean, hard(x, 0.9).mean, atol=1e-2)


def fitted(x: torch.Tensor, rank: int, power: float = 0.0) -> torch.Tensor:
    """The subspace after gradient training on the points x, the loss weighted by sigma^-power of the times."""
    model = LowRankMixture(VariancePreserving(), (x.shape[1],), rank, seed=3)
    one = torch.ones(len(x), 1)
    options = {"max_iter": 300, "tolerance_grad": 1e-11, "tolerance_change": 0}
    optimiser = torch.optim.LBFGS([model.frames], line_search_fn="strong_wolfe", **options)

    def closure():
        optimiser.zero_grad()
        parts = [losses(model, x, t, one).mean() / model.process.at(t).sigma ** power for t in (0.2, 0.7)]
        value = torch.stack(parts).sum()
        value.backward()
        return value

    optimiser.step(closure)
    return model.bases[0].detach()


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_training_one_component_is_principal_component_analysis(power):
    """Under every weighting of the times the minimiser spans the leading eigenvectors of X X^T."""
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.linspace(1.5, 0.2, D)
    )
    leading = torch.linalg.eigh(x.T @ x)[1][:, -RANK:]
    assert float(subspace_distance(fitted(x, RANK, power), leading)) < 1e-5


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_as_many_samples_as_dimensions_recover_the_subspace(n):
    """N < d = 3 leaves about 2 (d - N) of the squared error, since the loss is flat there; N >= d leaves none."""
    u = frames(1, 1, 24, 3)
    error = float(subspace_distance(fitted(points(u, n, 2), 3), u[0])) ** 2
    if n < 3:
        assert error == pytest.approx(2 * (3 - n), rel=0.25)
    else:
        assert error < 1e-12


def test_the_jacobian_near_a_component_has_its_rank_and_its_span():
    u, process, t = frames(), VariancePreserving(), 0.1
    model = LowRankMixture.of(u, process)
    x = process.at(t).alpha * 4.0 * points(u, 1, 4)
    found = jacobian_svd(model, x, t, RANK + 1)
    level = process.at(t)
    gain = level.alpha / (level.alpha**2 + level.sigma**2)
    sharp = model(x, t).heads["responsibilities"].diagonal() > 0.999999
    assert bool(sharp.any())
    for k in sharp.nonzero()[:, 0].tolist():
        assert torch.allclose(found.values[k, :RANK], torch.full((RANK,), gain), rtol=1e-3)
        assert float(found.values[k, RANK]) < 1e-3
        assert float(subspace_distance(found.right[k, :RANK].T, u[k])) < 1e-3


def test_a_step_along_a_singular_direction_edits_along_the_subspace():
    u, process, t = frames(1), VariancePreserving(), 0.5
    model = LowRankMixture.of(u, process)
    x = torch.randn(1, D, generator=torch.Generator().manual_seed(0))
    found = jacobian_svd(model, x, t, RANK)
    moved = model(x + 2.0 * found.right[:, 0], t).mean - model(x, t).mean
    assert torch.allclose(moved, 2.0 * found.values[:, :1] * found.left[:, 0], atol=1e-10)
    across = torch.linalg.svd(u[0].T)[2][-1]
    assert torch.allclose(model(x + across, t).mean, model(x, t).mean, atol=1e-10)


def test_it_is_rebuilt_from_its_spec():
    model = LowRankMixture(VariancePreserving(), (2, 4), 3, components=2, assignment="hard", seed=1)
    again = build(model.spec())
    x = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x, 0.3).mean, model(x, 0.3).mean)
    gram = model.bases.mT @ model.bases
    assert torch.allclose(gram, torch.eye(3).expand(2, 3, 3), atol=1e-12)


def test_impossible_ones_are_refused():
    with pytest.raises(ValueError, match="rank, components"):
        LowRankMixture(VariancePreserving(), (4,), 5)
    with pytest.raises(ValueError, match="Did you mean 'soft'"):
        LowRankMixture(VariancePreserving(), (4,), 2, assignment="sof")


@pytest.mark.parametrize("assignment", ["soft", "hard"])
def test_the_frames_are_made_orthonormal_once_a_call(assignment, monkeypatch):
    model, calls, qr = LowRankMixture(VariancePreserving(), (4,), 2, 3, assignment), [], torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda v: calls.append(v) or qr(v))
    x = torch.randn(5, 4)
    model(x, 0.3)
    model.given(x, 0.3, torch.ones(5, 3) / 3)
    assert len(calls) == 2
