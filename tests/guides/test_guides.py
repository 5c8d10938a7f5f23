from __future__ import annotations

import math

import pytest
import torch

from ornstein.core import Condition, Keyed, Sampler
from ornstein.denoisers import GaussianDenoiser, MixtureDenoiser
from ornstein.guides import Clamp, ClassifierFree, ClassifierGradient, RewardGradient, Superposition
from ornstein.processes import Absorbing, RectifiedFlow, VarianceExploding, VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP

from ..exact import AFFINE, covariance, gaussian, joint, mixture, table


def _x(n=5, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


# --- classifier-free


def test_scales_1_and_0_are_the_conditional_and_the_unconditional_model():
    truth, x = mixture(VariancePreserving()), _x()
    condition = Condition({"label": torch.tensor([0, 1, 1, 0, 1])})
    for scale, expected in ((1.0, condition), (0.0, condition.null())):
        guided = ClassifierFree(scale)(truth)(x, 0.5, condition)
        torch.testing.assert_close(guided.mean, truth(x, 0.5, expected).mean, rtol=1e-13, atol=1e-13)


def test_the_rule_is_the_same_in_every_view():
    truth, x, w = mixture(VariancePreserving()), _x(), 2.5
    condition = Condition({"label": torch.tensor([0, 1, 1, 0, 1])})
    guided = ClassifierFree(w)(truth)(x, 0.5, condition)
    with_, without = truth(x, 0.5, condition), truth(x, 0.5, condition.null())
    for view in ("mean", "noise", "score", "velocity"):
        expected = (1 - w) * getattr(without, view) + w * getattr(with_, view)
        torch.testing.assert_close(getattr(guided, view), expected, rtol=1e-10, atol=1e-10)
    assert guided.evaluations == 2


def test_rows_without_a_label_are_left_alone():
    truth, x = mixture(VariancePreserving()), _x(2)
    condition = Condition.make(2, {"label": [1, None]}, {"label"})
    guided = ClassifierFree(3.0)(truth)(x, 0.5, condition)
    torch.testing.assert_close(guided.mean[1], truth(x, 0.5).mean[1])
    assert not torch.allclose(guided.mean[0], truth(x, 0.5, condition).mean[0])


def test_outside_its_interval_one_call_is_made():
    process = VariancePreserving()
    truth = ClassifierFree(2.0, interval=(-1.0, 1.0))(mixture(process))
    *_, last = Sampler(DDIM(), 12).steps(truth, 2, label=0)
    inside = sum(-1 <= process.clock(row.t) <= 1 for row in process.grid(None, 12))
    assert last.evaluations == 12 + inside and 0 < inside < 12


@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 3.0])
def test_guided_flow_of_gaussians_ends_with_the_geometric_variance_not_the_tilted_one(w):
    """The flow ends at v0^(1-w) v^w, while the tilted density would have 1 / ((1-w)/v0 + w/v): CFG samples no tilt."""
    process, v0, v = VarianceExploding(0.01, 200.0), 1.0, 0.5
    truth = MixtureDenoiser([1.0, 1e-12], [[0.0], [0.0]], [v0, v], process, labels=[0, 1])

    class Branches(MixtureDenoiser):
        def many(self, x, t, conditions, step=None):  # unconditional: v0; conditional: v
            null = Condition({"label": torch.zeros(len(x), dtype=torch.long)})
            return [self(x, t, conditions[0], step), self(x, t, null, step)]

    truth.__class__ = Branches
    x = torch.full((1, 1), process.at(1.0).sigma)
    end = Sampler(DPMSolverPP(2), 800)(ClassifierFree(w)(truth), x, label=1)
    assert float(end) ** 2 == pytest.approx(v0 ** (1 - w) * v**w, rel=0.02)


def test_discrete_guidance_is_the_rule_of_the_logits():
    from ornstein.core import Posterior, mix

    process = Absorbing(3)
    p, q = torch.tensor([[[0.2, 0.5, 0.3]]]), torch.tensor([[[0.6, 0.3, 0.1]]])
    x = torch.full((1, 1), 3)
    mixed = mix([Posterior(process, x, 0.5, probs=v) for v in (p, q)], [2.0, -1.0])
    torch.testing.assert_close(mixed.probs, (p**2 / q) / (p**2 / q).sum())


# --- gradients


@pytest.mark.parametrize("name", AFFINE)
def test_the_exact_classifier_turns_the_unconditional_score_into_the_conditional_one(name):
    process = AFFINE[name]()
    truth, x = mixture(process), _x()
    condition = Condition({"label": torch.tensor([0, 1, 1, 0, 1])})

    def log_prob(x, t, condition):
        return truth.log_density(x, t, condition) - truth.log_density(x, t)

    class Unconditional(MixtureDenoiser):
        def forward(self, x, t, condition=None, step=None):
            return MixtureDenoiser.forward(self, x, t, None, step)

    blind = mixture(process)
    blind.__class__ = Unconditional
    guided = ClassifierGradient(log_prob)(blind)(x, 0.4, condition)
    torch.testing.assert_close(guided.mean, truth(x, 0.4, condition).mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", AFFINE)
def test_a_linear_reward_through_a_gaussian_samples_the_tilted_law(name):
    """exp(b . x_0) N(m, C) is N(m + C b, C): the guided posterior is exactly the tilted data's."""
    process, b = AFFINE[name](), torch.tensor([0.5, -1.0, 0.7])
    truth = gaussian(process)
    tilted = GaussianDenoiser(truth.means[0] + covariance(3) @ b, covariance(3), process)
    guided = RewardGradient(lambda x, _: x @ b)(truth)
    x = _x() * process.at(0.6).sigma
    torch.testing.assert_close(guided(x, 0.6).mean, tilted(x, 0.6).mean, rtol=1e-9, atol=1e-9)
    start = truth.process.prior(x).sample(Keyed(0, 5))
    ends = [Sampler(DPMSolverPP(2), 30)(d, start) for d in (guided, tilted)]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-3)


def test_the_gradient_at_the_estimate_lacks_the_posteriors_variance():
    process, b = VariancePreserving(), torch.tensor([0.5, -1.0, 0.7])
    truth, x, t = gaussian(process), _x(), 0.5
    near = RewardGradient(lambda x, _: x @ b, through_denoiser=False)(truth)(x, t)
    level = process.at(t)
    torch.testing.assert_close(near.mean - truth(x, t).mean, (level.sigma**2 * b).expand(5, 3))


def test_a_scale_of_zero_is_the_model_and_the_callers_graph_is_kept_only_if_asked():
    truth, x = gaussian(VariancePreserving()), _x()
    guided = RewardGradient(lambda x, _: x.sum(1), scale=0.0)(truth)
    assert torch.equal(guided(x, 0.5).mean, truth(x, 0.5).mean)
    with torch.no_grad():
        assert not RewardGradient(lambda x, _: x.sum(1))(truth)(x, 0.5).mean.requires_grad
    leaf = x.clone().requires_grad_()
    assert RewardGradient(lambda x, _: (x**2).sum(1))(truth)(leaf, 0.5).mean.requires_grad


# --- clamping


def test_known_entries_hold_after_every_draw_and_at_the_end():
    truth = mixture(VariancePreserving())
    mask, values = torch.tensor([True, False, False]), torch.tensor([0.7, 0.0, 0.0])
    for solver in (DDIM(), Ancestral(), DPMSolverPP(2)):
        for step in Sampler(solver, 5).steps(Clamp(mask, values)(truth), 4):
            assert (step.next[:, 0] == 0.7).all() and (step.next[:, 1] != 0).all()
        step.next = torch.zeros(4, 3)
        assert (step.next[:, 0] == 0.7).all()  # a state that was chosen passes the guides too


def test_noised_clamping_follows_the_forward_law_and_ends_clean():
    process = RectifiedFlow()
    mask, values = torch.tensor([True, False, False]), torch.tensor([2.0, 0.0, 0.0])
    guided = Clamp(mask, values, noised=True)(mixture(process))
    steps = list(Sampler(DDIM(), 4).steps(guided, 20_000, seed=0))
    for step in steps[:-1]:
        level = process.at(step.s)
        assert step.next[:, 0].mean() == pytest.approx(2.0 * level.alpha, abs=0.03)
        assert step.next[:, 0].std() == pytest.approx(level.sigma, abs=0.03)
    assert (steps[-1].next[:, 0] == 2.0).all()


def test_clamped_tokens_and_leaves():
    process = Absorbing(3)
    guided = Clamp(torch.tensor([False, True, False]), torch.tensor([0, 1, 0]))(table(process))
    drawn = Sampler(Ancestral(), 20)(guided, 4000)
    assert (drawn[:, 1] == 1).all()
    first = (
        torch.bincount(drawn[:, 0], minlength=3) / 4000
    )  # rows 0 and 1 of the table have a 1 in the middle
    torch.testing.assert_close(first, torch.tensor([0.25, 0.75, 0.0]), atol=0.03, rtol=0)
    tree = joint(RectifiedFlow(), Absorbing(2))
    held = Clamp({"label": torch.tensor(True)}, {"label": torch.tensor(1)})(tree)
    assert (Sampler(Ancestral(), 8)(held, 50)["label"] == 1).all()
    with pytest.raises(ValueError, match="leaves"):
        Clamp({"text": torch.tensor(True)}, {"text": torch.tensor(1)})(tree)


# --- superposition


def _pair(process):
    a = gaussian(process)
    return a, GaussianDenoiser(torch.tensor([1.0, 1.0, -1.0]), 0.7 * covariance(3, 4), process)


def test_responsibilities_are_exact_where_the_kernels_are():
    """Gaussian components, exact reverse kernels, a prior all share: to 1e-10 along the whole trajectory."""
    process = RectifiedFlow()  # alpha = 0 at time 1, so the models' priors coincide
    a, b = _pair(process)
    guided = Superposition([b], weights=[0.3, 0.7])(a)
    for step in Sampler(Ancestral("posterior"), 9).steps(guided, 6, seed=1):
        if step.posterior is None:
            continue
        log_q = torch.stack([a.log_density(step.x, step.t), b.log_density(step.x, step.t)], 1)
        exact = (log_q + torch.tensor([0.3, 0.7]).log()).softmax(1)
        torch.testing.assert_close(step.posterior.heads["responsibilities"], exact, rtol=1e-10, atol=1e-10)


def test_bayes_rule_along_the_trajectory_gives_the_density():
    """log q_s(x_s) = log q_t(x_t) + log p(x_s | x_t) - log q(x_t | x_s), with exact Gaussian kernels."""
    for name in AFFINE:
        process = AFFINE[name]()
        truth = gaussian(process)
        for step in Sampler(Ancestral("posterior"), 6).steps(truth, 4, seed=0):
            if step.posterior is None or step.s == 0.0 or process.at(step.t).alpha == 0:
                continue
            forward = process.kernel(step.next, step.s, step.t).log_prob(step.x)
            gained = truth.log_density(step.x, step.t) + step.distribution.log_prob(step.next) - forward
            torch.testing.assert_close(gained, truth.log_density(step.next, step.s), rtol=1e-9, atol=1e-9)


def test_the_superposition_samples_the_mixture():
    process = RectifiedFlow()
    a = GaussianDenoiser(torch.tensor([4.0, 0.0]), 0.3, process)
    b = GaussianDenoiser(torch.tensor([-4.0, 0.0]), 0.3, process)
    guided = Superposition([b], weights=[0.25, 0.75])(a)
    x = Sampler(Ancestral("posterior"), 60)(guided, 8000, seed=0)
    assert (x[:, 0] > 0).double().mean() == pytest.approx(0.25, abs=0.02)
    assert x[x[:, 0] > 0].mean(0)[0] == pytest.approx(4.0, abs=0.05)
    assert x[x[:, 0] > 0].var(0).tolist() == pytest.approx([0.3, 0.3], rel=0.15)


def test_one_model_twice_is_that_model_and_a_point_mass_is_refused():
    truth = mixture(RectifiedFlow())
    twice = Superposition([truth])(truth)
    sampler = Sampler(Ancestral(), 6)
    torch.testing.assert_close(sampler(twice, 4, seed=0), sampler(truth, 4, seed=0))
    for solver in (DDIM(), DDIM(0.5)):
        with pytest.raises(ValueError, match="densities of ancestral steps"):
            Sampler(solver, 3)(twice, 2)


def test_discrete_models_superpose_by_their_probabilities():
    from ornstein.denoisers import TableDenoiser

    process = Absorbing(3)
    a = TableDenoiser([[0, 0]], [1.0], process)
    b = TableDenoiser([[1, 2]], [1.0], process)
    drawn = Sampler(Ancestral(), 40)(Superposition([b], [0.3, 0.7])(a), 4000, seed=0)
    rows, counts = drawn.unique(dim=0, return_counts=True)
    share = {tuple(r.tolist()): int(c) / 4000 for r, c in zip(rows, counts, strict=True)}
    assert share[(0, 0)] == pytest.approx(0.3, abs=0.03) and share[(1, 2)] == pytest.approx(0.7, abs=0.03)


def test_guides_nest():
    truth = mixture(VariancePreserving())
    mask, values = torch.tensor([True, False, False]), torch.tensor([0.7, 0.0, 0.0])
    nested = Clamp(mask, values)(RewardGradient(lambda x, _: x[:, 1], 2.0)(ClassifierFree(1.2)(truth)))
    x = Sampler(Ancestral(), 6)(nested, 50, label=1)
    plain = Sampler(Ancestral(), 6)(Clamp(mask, values)(ClassifierFree(1.2)(truth)), 50, label=1)
    assert (x[:, 0] == 0.7).all() and x[:, 1].mean() > plain[:, 1].mean()


def test_windows_and_scales_are_checked():
    with pytest.raises(ValueError, match="interval"):
        ClassifierFree(2.0, interval=(1.0, -1.0))
    with pytest.raises(ValueError, match="reads no condition"):
        ClassifierFree(2.0)(gaussian(VariancePreserving()))
    with pytest.raises(ValueError, match="scale"):
        ClassifierFree(math.nan)


def test_models_of_equal_processes_superpose_and_others_are_refused():
    a, b = gaussian(RectifiedFlow()), gaussian(RectifiedFlow())
    Sampler(Ancestral(), 2)(Superposition([b])(a), 2)
    with pytest.raises(ValueError, match="different processes"):
        Superposition([gaussian(VariancePreserving())])(a)
