"""A model of patches on a canvas: limits in which it is known, and what tiling costs on a known field."""

from __future__ import annotations

import pytest
import torch

from ornstein import Sampler, denoisers, guides, networks, processes, solvers
from ornstein.core import Condition, Denoiser, Posterior, align

VE = processes.VarianceExploding()
VP = processes.VariancePreserving()


def autoregressive(n, rho=0.9):
    place = torch.arange(n, dtype=torch.float64)
    return rho ** (place[:, None] - place[None]).abs()


def field(n, process=VE):
    """The exact denoiser of n neighbours of an AR(1) process."""
    return denoisers.GaussianDenoiser(torch.zeros(1, n, dtype=torch.float64), autoregressive(n), process)


@pytest.fixture(scope="module")
def mixture():
    means = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return denoisers.MixtureDenoiser([0.5, 0.3, 0.2], means, 0.1, VP)


def test_one_window_is_the_model_itself(mixture):
    x = torch.randn(3, 1, 4, 4)
    tiled = guides.Tiled((4, 4), 4)(mixture)
    assert torch.equal(tiled(x, 0.4).mean, mixture(x, 0.4).mean)
    sampler = Sampler(solvers.Ancestral(), 8)
    assert torch.allclose(sampler(tiled, 3, seed=1), sampler(mixture, 3, seed=1), atol=1e-12)


def test_stride_equal_to_window_gives_independent_tiles(mixture):
    x = torch.randn(2, 1, 8, 12)
    posterior = guides.Tiled((8, 12), 4)(mixture)(x, 0.4)
    for row in range(0, 8, 4):
        for column in range(0, 12, 4):
            window = (..., slice(row, row + 4), slice(column, column + 4))
            assert torch.allclose(
                posterior.mean[window], mixture(x[window].contiguous(), 0.4).mean, atol=1e-12
            )
    assert posterior.evaluations.tolist() == [6, 6]


@pytest.mark.parametrize("view", ["noise", "score", "velocity"])
def test_averaging_means_is_averaging_every_view(mixture, view):
    tiled = guides.Tiled((10, 7), 2, profile="gaussian")(mixture)
    x, tiling = torch.randn(2, 1, 10, 7), tiled.guide.tiling(mixture)
    windows = getattr(mixture(tiling.cut(x).flatten(0, 1), 0.3), view)
    averaged = tiling.paste(windows.unflatten(0, (2, len(tiling))))
    assert torch.allclose(getattr(tiled(x, 0.3), view), averaged, atol=1e-10)


def test_on_a_torus_the_sampler_commutes_with_shifts_by_the_stride(mixture):
    tiled = guides.Tiled((8, 8), 2, periodic=True)(mixture)
    sampler, x = Sampler(solvers.DPMSolverPP(), 6), torch.randn(2, 1, 8, 8)
    moved = sampler(tiled, x.roll((2, 4), (2, 3)))
    assert torch.allclose(moved, sampler(tiled, x).roll((2, 4), (2, 3)), atol=1e-10)
    assert not torch.allclose(sampler(tiled, x.roll(1, 2)), sampler(tiled, x).roll(1, 2), atol=1e-3)


@pytest.mark.parametrize("stride, measured", [(4, (0.0004, 0.0043, 0.016)), (16, (0.0011, 0.013, 0.039))])
def test_what_tiling_loses_on_a_stationary_field(stride, measured):
    """The mean squared gap to the exact denoiser of 64 places is known: windows of 16 do not see beyond themselves."""
    exact, tiled = field(64), guides.Tiled((64,), stride)(field(16))
    for sigma, expected in zip((0.3, 1.0, 3.0), measured, strict=True):
        t = VE.time_at(-torch.tensor(sigma, dtype=torch.float64).log()).item()
        unit = torch.eye(64)[:, None]
        gap = (tiled(unit, t).mean - exact(unit, t).mean)[:, 0].T  # both are linear
        loss = (gap @ (autoregressive(64) + sigma**2 * torch.eye(64)) @ gap.T).trace() / 64
        assert abs(float(loss) / expected - 1) < 0.15


@pytest.mark.parametrize("stride, conservative", [(16, True), (4, False)])
def test_overlap_makes_an_exact_score_field_rotate(stride, conservative):
    """Weights differ within a window, so the Jacobian of the sum is not symmetric, though every window's is."""
    tiled = guides.Tiled((64,), stride)(field(16))
    jacobian = tiled(torch.eye(64)[:, None], VE.time_at(0.0)).score[:, 0]
    apart = float((jacobian - jacobian.T).norm() / jacobian.norm())
    assert apart < 1e-12 if conservative else 0.005 < apart < 0.5


class Levels(Denoiser):
    """Exact for patches (1, 4, 4) that are the number `embedding` (B, 1) plus noise of variance 0.01."""

    process, shape, fields = VP, (1, 4, 4), frozenset({"embedding"})

    def forward(self, x, t, condition=None, step=None):
        level, m = self.process.at(t), align(condition["embedding"][:, 0], x)
        gain = 0.01 * level.alpha / (0.01 * level.alpha**2 + level.sigma**2)
        return Posterior(self.process, x, t, m + gain * (x - level.alpha * m), condition=condition)

    def _example(self):
        return torch.zeros(1)


def far_correlation(maps):
    """Between the corners, three windows apart."""
    return float(torch.corrcoef(torch.stack([maps[:, 0, 0, 0], maps[:, 0, -1, -1]]))[0, 1])


def test_long_range_structure_comes_from_the_grid_alone():
    sampler = Sampler(solvers.Ancestral(), 12)
    ends = torch.ones(2, 1, 4, 4) * torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    patches = denoisers.MixtureDenoiser([0.5, 0.5], ends, 0.01, VP)
    alone = sampler(guides.Tiled((12, 12), 4)(patches), 400, seed=0)
    assert abs(far_correlation(alone)) < 0.15
    signs = torch.randint(2, (400, 1, 1, 1), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    steered = guides.Tiled((12, 12), 4, grids=("embedding",))(Levels())
    assert far_correlation(sampler(steered, 400, seed=0, embedding=signs.expand(400, 3, 3, 1))) > 0.95


def test_each_window_gets_the_grid_at_its_centre():
    grid = torch.arange(12.0).reshape(1, 3, 4, 1) - 5.5  # one direction: slerp is linear within a sign
    guide = guides.Tiled((12, 16), 4, grids=("embedding",))
    tiling = guide.tiling(Levels())
    rows = torch.zeros(len(tiling), dtype=torch.long)
    given = guide.spread(Condition({"embedding": grid}), rows, tiling)["embedding"]
    assert torch.allclose(given, grid.reshape(-1, 1))  # centres of cells: exactly the nodes
    half = guides.Tiled((12, 16), 2, grids=("embedding",))
    places = half.tiling(Levels())
    between = half.spread(Condition({"embedding": grid}), torch.zeros(len(places), dtype=torch.long), places)
    assert torch.allclose(between["embedding"][:2, 0], torch.tensor([-5.5, -5.0]))


def test_fields_of_the_canvas_are_cut_and_others_go_to_every_window():
    guide = guides.Tiled((8, 8), 4)
    tiling, rows = guide.tiling(Levels()), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    image = torch.randn(2, 3, 8, 8)
    condition = Condition({"measurement": image, "label": torch.tensor([4, 7])}).dropped(
        torch.tensor([False, True])
    )
    given = guide.spread(condition, rows, tiling)
    assert torch.equal(given["measurement"], tiling.cut(image).flatten(0, 1))
    assert given["label"].tolist() == [4] * 4 + [7] * 4
    assert given.present["label"].tolist() == [True] * 4 + [False] * 4


def test_any_sampler_row_times_and_chunks(mixture):
    tiled = guides.Tiled((8, 6), 2, chunk=7)(mixture)
    assert tiled.shape == (1, 8, 6) and tiled.like(3).shape == (3, 1, 8, 6)
    x, t = torch.randn(3, 1, 8, 6), torch.tensor([0.2, 0.5, 0.9])
    rows = [tiled(x[i : i + 1], float(t[i])).mean for i in range(3)]
    assert torch.allclose(tiled(x, t).mean, torch.cat(rows), atol=1e-12)
    for solver in (solvers.DDIM(), solvers.Heun(), solvers.DPMSolverPP(2)):
        assert bool(Sampler(solver, 4)(tiled, 2, seed=0).isfinite().all())


def test_the_canvas_is_differentiable(mixture):
    tiled = guides.Tiled((6, 6), 2)(mixture)
    x = torch.randn(1, 1, 6, 6, requires_grad=True)
    torch.autograd.gradcheck(lambda x: tiled(x, 0.5).mean, x)


def test_guidance_may_lie_inside_or_outside():
    means = torch.randn(2, 1, 4, 4)
    model = denoisers.MixtureDenoiser([0.5, 0.5], means, 0.2, VP, labels=[0, 1])
    x, given = torch.randn(2, 1, 6, 6), Condition({"label": torch.tensor([0, 1])})
    tiled, free = guides.Tiled((6, 6), 2), guides.ClassifierFree(3.0)
    assert torch.allclose(
        tiled(free(model))(x, 0.4, given).mean, free(tiled(model))(x, 0.4, given).mean, atol=1e-12
    )


def test_what_cannot_be_tiled_is_refused(mixture):
    with pytest.raises(ValueError, match=r"reads .*not"):
        guides.Tiled((8, 8), 2, grids=("embedding",))(mixture)
    with pytest.raises(ValueError, match="window <= canvas"):
        guides.Tiled((3, 8), 2)(mixture)
    clamp = guides.Clamp(torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="put it outside"):
        guides.Tiled((8, 8), 2)(clamp(mixture))
    shapeless = denoisers.NetworkDenoiser(networks.UNet(1), VP)
    with pytest.raises(ValueError, match="known shape"):
        guides.Tiled((8, 8), 2)(shapeless)


def test_a_text_is_told_to_every_window_whatever_its_size():
    guide = guides.Tiled((8,), 4)
    tiling, rows = guide.tiling(field(4)), torch.arange(2).repeat_interleave(2)
    for tokens in (1, 3):  # of 8 features, as many as places
        text, signal = torch.randn(2, tokens, 8), torch.randn(2, 2, 8)
        given = guide.spread(Condition({"text": text, "measurement": signal}), rows, tiling)
        assert torch.equal(given["text"], text[rows])
        assert torch.equal(given["measurement"], tiling.cut(signal).flatten(0, 1))


def test_the_fit_of_patches_is_none_of_the_canvas(mixture, monkeypatch):
    monkeypatch.setattr(mixture, "fit", "of patches", raising=False)
    assert guides.Tiled((8, 8), 4)(mixture).fit is None


@pytest.mark.parametrize("count", [2, torch.tensor([2]), torch.full((4,), 2)], ids=str)
def test_the_calls_of_all_windows_are_counted(mixture, count):
    class Counted(Denoiser):
        process, shape = VP, (1, 4, 4)

        def forward(self, x, t, condition=None, step=None):
            calls = count if isinstance(count, int) or len(count) == 1 else count[:1].expand(len(x))
            return Posterior(self.process, x, t, x, evaluations=calls)

        def _example(self):
            return torch.zeros(1)

    tiled = guides.Tiled((8, 4), 4, chunk=3)(Counted())
    assert tiled(torch.randn(3, 1, 8, 4), 0.5).evaluations.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    "canvas, stride, message",
    [
        (16, 4, "canvas: expected whole numbers, one an axis; got 16"),
        ((16.0, 16), 4, "canvas: expected whole numbers"),
        ((16, 16), 4.0, "stride: expected whole numbers, one an axis, or one for all; got 4"),
        ((16, 16), (4, 2.5), "stride: expected whole numbers"),
    ],
)
def test_sizes_that_are_no_whole_numbers_are_refused_by_name(canvas, stride, message):
    with pytest.raises(ValueError, match=message):
        guides.Tiled(canvas, stride)
