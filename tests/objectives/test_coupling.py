"""Which noise goes with which data (Immiscible Diffusion, 2406.12303), and what a coupled model may not be asked."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import torch

import ornstein as orn
from ornstein.core import EUCLIDEAN, Condition, Denoiser, Keyed, Posterior, Sampler, TimeGrid, align
from ornstein.data import Dataset, TensorSplit
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import ResidualMLP
from ornstein.objectives import Denoising, Independent, NearestNoise, OptimalAssignment, Sinkhorn
from ornstein.processes import Absorbing, RectifiedFlow, VariancePreserving
from ornstein.solvers import DDIM, Ancestral

from ..exact import joint


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def plain(x, seed=1):
    return Independent()(x, Keyed(seed, len(x)))


def agreeing(d, n=256):
    """The share of rows to which distance and squared distance assign the same noise."""
    x, noise = normal(n, d), Keyed(1, n)
    one, other = (OptimalAssignment(cost)(x, noise) for cost in ("sqeuclidean", "euclidean"))
    return float((one == other).all(1).double().mean())


def test_an_assignment_is_a_permutation_that_costs_no_more():
    x = normal(64, 5)
    z, paired = plain(x), OptimalAssignment()(x, Keyed(1, 64))
    assert torch.equal(paired.sort(0).values, z.sort(0).values)
    assert float(((x - paired) ** 2).sum()) < float(((x - z) ** 2).sum())
    rows = [tuple(row) for row in paired.tolist()]
    assert set(rows) == {tuple(row) for row in z.tolist()}


def test_one_sample_keeps_its_noise_and_one_candidate_is_independent():
    x = normal(16, 3)
    assert torch.equal(OptimalAssignment()(x[:1], Keyed(1, 1)), plain(x[:1]))
    assert torch.equal(NearestNoise(1)(x, Keyed(1, 16)), plain(x))
    assert not NearestNoise(1).dependent and NearestNoise(2).dependent


def test_the_squared_cost_maximises_the_inner_product_and_the_distance_does_not():
    x, noise = normal(6, 2), Keyed(3, 6)
    z = plain(x, 3)
    best = max(itertools.permutations(range(6)), key=lambda p: float((x * z[list(p)]).sum()))
    assert torch.equal(OptimalAssignment()(x, noise), z[list(best)])
    assert agreeing(2) == pytest.approx(0.51, abs=0.1)
    assert agreeing(64) == pytest.approx(0.95, abs=0.05)


def test_the_quantised_assignment_of_the_released_code_is_nearly_the_exact_one():
    x, noise = normal(128, 64), Keyed(1, 128)
    rounded = OptimalAssignment("euclidean", precision="float16", scale=0.1)
    exact = OptimalAssignment("euclidean")
    assert rounded.costs(x, plain(x)).dtype == torch.float16
    lengths = [(x - pair(x, noise)).norm(dim=1).sum() for pair in (exact, rounded)]
    assert lengths[0] <= lengths[1] < 1.001 * lengths[0]
    assert torch.equal(rounded(x, noise).sort(0).values, exact(x, noise).sort(0).values)


@pytest.mark.parametrize(("d", "share"), [(2, 0.67), (64, 0.88), (3072, 0.98)])
def test_the_nearest_of_several_noises_is_not_gaussian(d, share):
    n = 20_000 if d == 2 else 1000 if d == 64 else 100
    x = normal(n, d)
    z = NearestNoise(8)(x, Keyed(1, n))
    assert float((z**2).sum(1).mean()) / d == pytest.approx(share, abs=0.012)
    moved = NearestNoise(8)(x + 1, Keyed(1, n)).mean()
    assert float(moved) > 5 * float(z.mean().abs())


def test_the_nearest_noise_of_a_row_does_not_see_the_batch():
    x, noise = normal(8, 4), Keyed(1, 8)
    torch.testing.assert_close(NearestNoise(3)(x, noise)[2:5], NearestNoise(3)(x[2:5], noise[2:5]))


def test_the_entropic_plan_lies_between_assignment_and_independence():
    pytest.importorskip("ot", reason="Python Optimal Transport is an extra")
    x, noise = normal(48, 2), Keyed(1, 48)
    costs = [
        float(((x - pair(x, noise)) ** 2).sum())
        for pair in (OptimalAssignment(), Sinkhorn(0.1), Sinkhorn(1.0), Independent())
    ]
    assert costs[0] < costs[1] < costs[2] < costs[3]
    torch.testing.assert_close(
        Sinkhorn(1e3).plan(x, plain(x)), torch.full((48, 48), 48.0**-2), rtol=0.05, atol=0
    )
    sharp = Sinkhorn(2e-3, iterations=4000).plan(x, plain(x)).argmax(1)
    same = (plain(x)[sharp] == OptimalAssignment()(x, noise)).all(1).double().mean()
    assert same > 0.9
    plan = Sinkhorn(0.1, iterations=2000).plan(x, plain(x))
    torch.testing.assert_close(plan.sum(0), torch.full((48,), 1 / 48), rtol=1e-3, atol=0)


def test_a_row_draws_its_noise_from_all_of_its_plan():
    """Of a uniform plan between n rows and n noises about n (1 - 1 / e) noises are chosen, each in the mean once."""
    pytest.importorskip("ot", reason="Python Optimal Transport is an extra")
    x, n = normal(48, 2), 48
    chosen = []
    for seed in range(20):
        z, paired = plain(x, seed), Sinkhorn(1e4)(x, Keyed(seed, n))
        chosen.append(torch.cdist(paired, z).argmin(1))
        assert n / 2 < len(chosen[-1].unique()) < 0.8 * n
    assert float(torch.cat(chosen).double().mean()) == pytest.approx((n - 1) / 2, abs=2)


class Asked(Independent):
    """Remembers whether it was asked for the batch of all processes."""

    def __init__(self):
        super().__init__()
        self.dependent, self.together = True, []

    def forward(self, x_0, noise, space=EUCLIDEAN, condition=None, together=False):
        self.together.append(together)
        return super().forward(x_0, noise, space, condition)


def test_only_training_pairs_over_all_processes():
    """One process alone evaluates what all have trained: there it must not wait for the others."""
    model = NetworkDenoiser(ResidualMLP(2, 16, 1).double(), RectifiedFlow(), shape=(2,))
    coupling = Asked()
    for mode in (True, False):
        Denoising(coupling=coupling)(model.train(mode), {"x_0": normal(4, 2)}, Keyed(0, 4))
    assert coupling.together == [True, False]


class Perfect(Denoiser):
    """Standard normal data with the coupling z = x: x_t = (alpha + sigma) x, so D = x_t / (alpha + sigma)."""

    def __init__(self, process):
        super().__init__()
        self.process, self.shape = process, (1,)

    def forward(self, x, t, condition=None, step=None):
        level = self.process.at(t)
        return Posterior(self.process, x, t, x / align(level.alpha + level.sigma, x))


def test_a_perfect_coupling_is_exact_for_the_flow_and_far_off_for_the_sde():
    model, x = Perfect(VariancePreserving()), normal(20_000, 1)
    level = model.process.at(1.0)
    for steps in (1, 7):
        found = Sampler(DDIM(), steps)(model, (level.alpha + level.sigma) * x, seed=0)
        torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-12)
    wrong = Sampler(Ancestral(), grid=TimeGrid.uniform(1000))(model, level.sigma * x, seed=0)
    assert float(wrong.var()) == pytest.approx(0.362, abs=0.02)


def test_pairing_across_classes_moves_the_noise_of_a_class_and_pairing_within_them_does_not():
    n = 256
    label = torch.arange(n) % 2
    x = normal(n, 2) + torch.stack([6.0 * label - 3, torch.zeros(n)], 1)
    condition, noise = Condition({"label": label}), Keyed(1, n)
    across = OptimalAssignment()(x, noise, EUCLIDEAN, condition)
    within = OptimalAssignment(group="label")(x, noise, EUCLIDEAN, condition)
    assert float(across[label == 1, 0].mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.12)
    assert float(within[label == 1, 0].mean()) == pytest.approx(
        float(plain(x)[label == 1, 0].mean()), abs=1e-12
    )
    assert torch.equal(within[label == 0].sort(0).values, plain(x)[label == 0].sort(0).values)
    absent = Condition({"label": label}, {"label": torch.zeros(n, dtype=torch.bool)})
    assert torch.equal(OptimalAssignment(group="label")(x, noise, EUCLIDEAN, absent), across)


def test_a_group_must_be_in_the_batch():
    with pytest.raises(ValueError, match="no condition field 'label'"):
        OptimalAssignment(group="label")(normal(4, 2), Keyed(0, 4))


def test_at_time_one_the_prediction_follows_the_noise_by_the_couplings_correlation():
    """Slope of E[x_0 | z] on z: 0.32 in 64 dimensions at batch 256."""
    x = torch.cat([normal(256, 64, s) for s in range(4)])
    z = torch.cat([OptimalAssignment()(normal(256, 64, s), Keyed(s, 256)) for s in range(4)])
    assert float((x * z).mean() / (z**2).mean()) == pytest.approx(0.32, abs=0.01)


def test_the_loss_is_of_the_coupled_noise_and_times_do_not_depend_on_it():
    process, x_0, noise = RectifiedFlow(), normal(32, 3), Keyed(5, 32)
    model = NetworkDenoiser(ResidualMLP(3, 16, 1).double(), process, "velocity", shape=(3,))
    loss, z = Denoising(coupling=OptimalAssignment()), OptimalAssignment()(x_0, noise.fold("state"))
    t = loss.times(process, x_0, noise)
    assert torch.equal(t, Denoising().times(process, x_0, noise))
    x_t = (1 - t)[:, None] * x_0 + t[:, None] * z
    wanted = ((model(x_t, t).velocity - (z - x_0)) ** 2).mean(1)
    torch.testing.assert_close(loss(model, {"x_0": x_0}, noise).sample, wanted, rtol=1e-9, atol=1e-12)


def test_a_coupling_needs_gaussian_noise_of_one_tensor():
    for truth, x_0 in (
        (joint(RectifiedFlow(), Absorbing(2)), {"image": normal(4, 2), "label": torch.zeros(4).long()}),
    ):
        with pytest.raises(ValueError, match="coupling: OptimalAssignment pairs tensors"):
            Denoising(coupling=OptimalAssignment())(truth, {"x_0": x_0}, Keyed(0, 4))


def data(n=64):
    return Dataset("points", TensorSplit(normal(n, 2)), TensorSplit(normal(8, 2)), (2,))


def test_fit_marks_the_model_and_the_mark_is_saved(tmp_path):
    torch.set_default_dtype(torch.float32)
    model = NetworkDenoiser(ResidualMLP(2, 16, 1), VariancePreserving(), "velocity", shape=(2,))
    objective = Denoising(coupling=OptimalAssignment("euclidean", "float16", 0.1))
    run = orn.fit(model, data(), objective, steps=3, batch=16, out=tmp_path / "run", progress=False)
    assert run.denoiser.estimates == model.estimates == "velocity"
    loaded = NetworkDenoiser.from_pretrained(tmp_path / "run")
    assert loaded.estimates == "velocity"
    with pytest.raises(ValueError, match="dependent coupling"):
        orn.sample(loaded, 4, steps=2, solver=Ancestral())
    assert orn.sample(loaded, 4, steps=2, solver=DDIM()).shape == (4, 2)
    spec = orn.core.build(objective.spec())
    assert spec.coupling.precision == "float16"


def test_an_independent_coupling_and_an_evaluation_mark_nothing():
    model = NetworkDenoiser(ResidualMLP(2, 16, 1).double(), VariancePreserving(), shape=(2,))
    Denoising(coupling=NearestNoise(1))(model, {"x_0": normal(4, 2)}, Keyed(0, 4))
    Denoising(coupling=NearestNoise(2))(model.eval(), {"x_0": normal(4, 2)}, Keyed(0, 4))
    assert model.estimates == "posterior"


RANK = """
import sys, torch
from ornstein.core import Keyed
from ornstein.objectives import OptimalAssignment
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
torch.set_default_dtype(torch.float64)
x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
own, every = slice(8 * rank, 8 * rank + 8), OptimalAssignment()(x, Keyed(1, 16))
mine = OptimalAssignment()(x[own], Keyed(1, torch.arange(16)[own]), together=True)
assert torch.equal(mine, every[own]) and not torch.equal(mine, OptimalAssignment()(x[own], Keyed(1, 16)[own]))
torch.distributed.destroy_process_group()
"""


def test_two_processes_pair_over_their_common_batch(tmp_path):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors.decode()


def test_options_are_checked():
    with pytest.raises(ValueError, match="Did you mean 'euclidean'"):
        OptimalAssignment("euclidian")
    with pytest.raises(ValueError, match="precision"):
        OptimalAssignment(precision="half")
    with pytest.raises(ValueError, match="k: expected"):
        NearestNoise(0)
    with pytest.raises(ValueError, match="epsilon"):
        Sinkhorn(0.0)
