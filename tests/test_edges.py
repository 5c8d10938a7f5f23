"""Edges: each of these once went wrong."""

import math

import pytest
import torch

from ornstein.core import Categorical, Denoiser, Gaussian, Guide, Keyed, Posterior, Sampler, TimeGrid
from ornstein.denoisers import GaussianDenoiser, JointDenoiser, MixtureDenoiser, TableDenoiser
from ornstein.guides import Clamp, ClassifierGradient, RewardGradient, Superposition
from ornstein.processes import SDE, Absorbing, RectifiedFlow, UniformNoise, VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP, Euler, Heun, Renoise, Stochastic

from .exact import Learned

VP = VariancePreserving()


def truth(process=VP):
    return GaussianDenoiser(torch.zeros(2), 0.5, process)


@pytest.mark.parametrize("solver", [Ancestral(), Heun(), DPMSolverPP()], ids=repr)
def test_a_chain_of_per_sample_steps_is_the_loop(solver):
    model, sampler, x = truth(), Sampler(solver, grid=TimeGrid.uniform(5, 0.9, 0.1)), torch.randn(3, 2)
    end, memory = sampler(model, x, seed=4), {}
    for i in range(len(sampler.program(VP))):
        step = sampler.step(model, x, torch.full((3,), i), None, memory, Keyed(4, 3))
        x, memory = step.next, step.memory
    torch.testing.assert_close(x, end)


def test_a_multistep_row_without_its_past_is_refused():
    with pytest.raises(ValueError, match="memory"):
        Sampler(DPMSolverPP(2), 10).step(truth(), torch.randn(2, 2), 5)


def test_a_learned_process_chains_by_single_steps_too():
    process = Learned()
    sampler, x, memory = Sampler(DPMSolverPP(2), grid=TimeGrid.uniform(4, 0.9, 0.1)), torch.randn(2, 2), {}
    model = truth(process)
    end = sampler(model, x)
    for i in range(4):
        step = sampler.step(model, x, i, None, memory, Keyed(0, 2))
        x, memory = step.next, step.memory
    torch.testing.assert_close(x, end)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_no_impossible_category(dtype):
    law = Categorical(torch.tensor([-math.inf, 0.0], dtype=dtype).expand(100_000, 1, 2))
    assert (law.sample(Keyed(0, 100_000)) == 1).all()
    uniform = Keyed(0, 100_000).uniform(torch.empty(100_000, 1, dtype=dtype))
    assert (uniform < 1).all() and (uniform > 0).all()


@pytest.mark.parametrize("solver", [Stochastic(0.5), Stochastic(1.5), DDIM(0.5)], ids=repr)
def test_responsibilities_converge_or_the_solver_is_refused(solver):
    a, b = (GaussianDenoiser(torch.tensor(m), v, VP) for m, v in (([-1.0, 0.0], 0.3), ([1.0, 0.5], 0.6)))
    guided = Superposition([b])(a)
    try:
        for step in Sampler(solver, grid=TimeGrid.log_snr(200, VP, smallest=0.1)).steps(guided, 300, seed=1):
            if step.posterior is not None and step.s:
                step.next  # noqa: B018  drawn when read
                exact = torch.stack([m.log_density(step.next, step.s) for m in (a, b)], 1).softmax(1)
                error = (step.memory[guided.guide].softmax(1) - exact).abs().mean()
    except ValueError:
        return
    assert error < 0.01


def test_guided_runs_reach_the_networks_parameters():
    class Linear(Denoiser):
        def __init__(self):
            super().__init__()
            self.net, self.process, self.shape = torch.nn.Linear(2, 2), VP, (2,)

        def forward(self, x, t, condition=None, step=None):
            return Posterior(VP, x, t, self.net(x))

    guided = RewardGradient(lambda x, c: x.sum(1), 0.1)(Linear())
    assert Sampler(DDIM(), 3)(guided, 4, grad=True).requires_grad


def test_grad_true_holds_for_the_draw_whatever_the_callers_mode():
    x = torch.randn(2, 2, requires_grad=True)
    with torch.no_grad():
        for step in Sampler(Ancestral(), 3).steps(truth(), x, grad=True):
            assert step.next.requires_grad


def test_the_prior_passes_before_draw():
    class Watch(Guide):
        def __init__(self):
            self.seen = []

        def before_draw(self, distribution, step):
            self.seen.append(step.index)
            return distribution

    guide = Watch()
    Sampler(DDIM(), 2)(guide(truth()), 2)
    assert guide.seen == [-1, 0, 1]


def test_leaves_are_clamped_with_noise_of_their_own():
    part = lambda: MixtureDenoiser([1.0], torch.zeros(1, 3), 1.0, VP)  # noqa: E731
    mask = torch.ones(3, dtype=torch.bool)
    clamp = Clamp({"a": mask, "b": mask}, {"a": torch.zeros(3), "b": torch.zeros(3)}, noised=True)
    step = next(iter(Sampler(DDIM(), 3).steps(clamp(JointDenoiser({"a": part(), "b": part()})), 2)))
    assert not torch.equal(step.next["a"], step.next["b"])


def test_divergences_with_point_masses():
    zero = torch.zeros(1, 2)
    assert Gaussian(zero, 1.0).kl(Gaussian(zero, 0.0)).item() == math.inf
    partly = torch.tensor([[0.0, 1.0]])
    assert Gaussian(zero, partly).kl(Gaussian(zero, partly)).item() == 0.0


def test_noise_of_far_and_impossible_categories_is_gumbel():
    law = Categorical(torch.tensor([0.0, -200.0, -math.inf], dtype=torch.float32).expand(4000, 1, 3))
    noise = law.noise_of(torch.zeros(4000, 1, dtype=torch.long), Keyed(0, 4000))
    assert torch.isfinite(noise).all()
    assert noise.mean((0, 1)).tolist() == pytest.approx([0.5772] * 3, abs=0.1)


def test_matrix_scales_on_images_with_one_channel():
    model = MixtureDenoiser([1.0], torch.zeros(1, 1, 2, 2), 1.0, VP, variance=True)
    assert Sampler(Ancestral("posterior"), 3)(model, 5).shape == (5, 1, 2, 2)


@pytest.mark.parametrize("n", [2, 3])
def test_a_diffusion_of_coordinates_is_not_one_of_samples(n):
    law = SDE(lambda t, x: 0 * x, lambda t, x: torch.tensor([0.0, 1.0])).kernel(torch.zeros(n, 2), 0.0, 1.0)
    drawn = law.sample(Keyed(0, n))
    assert (drawn[:, 0] == 0).all() and (drawn[:, 1] != 0).all()


def test_states_no_row_explains_fall_back_to_the_weights_and_long_rows_stay_exact():
    process = Absorbing(3)
    table = TableDenoiser([[0, 0], [1, 1]], [0.9, 0.1], process)
    torch.testing.assert_close(
        table(torch.tensor([[0, 1]]), 0.5).heads["responsibilities"], torch.tensor([[0.9, 0.1]])
    )
    long, x = TableDenoiser([[0] * 1500, [1] * 1500], [0.5, 0.5], process), torch.full((1, 1500), 3)
    x[0, 0] = 0
    torch.testing.assert_close(long(x, 1e-4).heads["responsibilities"], torch.tensor([[1.0, 0.0]]))
    joint = JointDenoiser({"a": table, "b": TableDenoiser([[0], [1]], [0.9, 0.1], process)})
    state = {"a": torch.tensor([[0, 1]]), "b": torch.tensor([[3]])}
    assert torch.isfinite(joint(state, 0.5).mean["a"]).all()


def test_discrete_kernels_go_forwards_only():
    with pytest.raises(ValueError, match="backwards"):
        UniformNoise(3).kernel(torch.tensor([[0]]), 0.5, 0.2)
    assert UniformNoise(3).kernel(torch.tensor([[0]]), 1.0, 1.0).logits.exp().tolist() == [[[1.0, 0.0, 0.0]]]


def test_whole_numbers_are_times():
    Sampler(DPMSolverPP(), grid=TimeGrid.through([1, 0.5, 0]))(truth(), 2)
    with pytest.raises(ValueError, match="up"):
        Sampler(Ancestral(), grid=TimeGrid([(0, 1)]))(truth(), torch.randn(2, 2))


def test_a_product_of_grids_keeps_or_refuses_their_solvers():
    with pytest.raises(ValueError, match="solver"):
        TimeGrid.product(a=TimeGrid([(1.0, 0.5), (0.5, 0.5, Renoise())]))


def test_heun_on_vector_time_is_heun_or_refused():
    times, x = [0.9, 0.5, 0.2], torch.randn(3, 2)
    grid = TimeGrid.through([torch.full((3,), t) for t in times])
    try:
        got = Sampler(Heun(), grid=grid)(truth(), x)
    except ValueError:
        return
    torch.testing.assert_close(got, Sampler(Heun(), grid=TimeGrid.through(times))(truth(), x))


def test_a_log_snr_grid_never_leaves_the_process():
    assert all(0 <= row.t <= 1 for row in TimeGrid.log_snr(5, VP, largest=1e6))


@pytest.mark.parametrize(
    "guide", [RewardGradient(lambda x, c: x.sum(1)), ClassifierGradient(lambda x, t, c: x.sum(1))]
)
def test_gradient_guides_refuse_velocities(guide):
    model = truth()
    model.estimates = "velocity"
    with pytest.raises(ValueError, match="velocity"):
        guide(model)


def test_gradient_guides_survive_time_1_without_signal_for_vector_times():
    model = truth(RectifiedFlow())
    guided, x = RewardGradient(lambda x, c: x.sum(1))(model), torch.randn(2, 2)
    one = Sampler(DDIM(), 4).step(guided, x, 0).next
    torch.testing.assert_close(Sampler(DDIM(), 4).step(guided, x, torch.tensor([0, 0])).next, one)


def test_where_counts_calls_of_tree_states():
    part = lambda: MixtureDenoiser([1.0], torch.zeros(1, 3), 1.0, VP)  # noqa: E731
    joint, x = JointDenoiser({"a": part(), "b": part()}), {"a": torch.randn(3, 3), "b": torch.randn(3, 3)}
    some = joint.where(torch.tensor([True, False, True]), x, 0.5, None, None, joint(x, 0.5))
    assert some.evaluations.tolist() == [2, 1, 2]


def test_selecting_twice_in_one_step_never_repeats_a_key():
    for step in Sampler(Ancestral(), 3).steps(truth(), 2):
        if step.index == 0:
            step.select(torch.tensor([0, 0]))
            step.select(torch.tensor([0, 0, 1]))
        if step.index == 1:
            noise = step.distribution.noise(step.noise)
            assert len(noise.unique(dim=0)) == 3


def test_steps_up_from_clean_data_are_refused():
    for solver in (DDIM(), Euler()):
        with pytest.raises(ValueError, match="no noise"):
            Sampler(solver, grid=TimeGrid.uniform(3, 0.0, 1.0))(truth(), torch.randn(1, 2))
