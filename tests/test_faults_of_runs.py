"""More survivors: hooks and selection of the loop, weights, metrics. Pass now; each kills the mutation named."""

import pytest
import torch

from ornstein import metrics
from ornstein.core import Denoiser, Guide, Keyed, Posterior, Sampler, TimeGrid
from ornstein.denoisers import GaussianDenoiser
from ornstein.objectives.denoising import WEIGHTINGS
from ornstein.processes import VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP

from .exact import Learned

VP = VariancePreserving()


def truth():
    return GaussianDenoiser(torch.zeros(2), 0.5, VP)


def test_hooks_run_innermost_first_through_a_nest():  # 33, 34, 35, 36
    seen = []

    class Watch(Guide):
        def __init__(self, name):
            self.name = name

        def before_draw(self, distribution, step):
            seen.append(("before", self.name))
            return distribution

        def after_draw(self, x, step):
            seen.append(("after", self.name))
            return x

    nested = Watch("outer")(Watch("inner")(truth()))
    Sampler(DDIM(), 1)(nested, torch.zeros(2, 2))
    assert seen == [("before", "inner"), ("before", "outer"), ("after", "inner"), ("after", "outer")]


def test_a_changed_law_is_the_one_drawn():  # 33
    class Shift(Guide):
        def before_draw(self, distribution, step):
            distribution.mean = distribution.mean + 5.0
            return distribution

    x = torch.zeros(2, 2)
    plain = Sampler(DDIM(), 1)(truth(), x)
    torch.testing.assert_close(Sampler(DDIM(), 1)(Shift()(truth()), x), plain + 5.0)


def test_selection_carries_posterior_and_evaluations():  # 28, 29
    class Uneven(GaussianDenoiser):
        def forward(self, x, t, condition=None, step=None):
            made = super().forward(x, t, condition, step)
            made.evaluations = torch.arange(len(x))
            return made

    model = Uneven(torch.zeros(2), 0.5, VP)
    for step in Sampler(Ancestral(), 2).steps(model, 3):
        if step.index == 0:
            mean = step.posterior.mean
            step.select(torch.tensor([2, 0, 0]))
            assert step.evaluations.tolist() == [2, 0, 0]
            assert torch.equal(step.posterior.mean, mean[[2, 0, 0]])
            break


def test_law_of_a_multistep_row_reads_the_past():  # 31
    for step in Sampler(DPMSolverPP(2), 5).steps(truth(), 2):
        if step.index == 3:
            shift = torch.ones(2, 2)
            assert step.row.past and step.memory
            moved = step.law(step.posterior.with_mean(step.posterior.mean + shift))
            torch.testing.assert_close(moved.mean, step.distribution.mean + step.gain * shift)
            past = step.row.past[0] * next(iter(step._before))
            torch.testing.assert_close(
                step.distribution.mean, step.row.a * step.x + step.row.b * step.posterior.mean + past
            )


def test_a_learned_processs_numbers_follow_its_parameters():  # 32
    process = Learned()
    sampler, x = Sampler(DDIM(), grid=TimeGrid.through([0.9, 0.5])), torch.ones(1, 2)
    model = GaussianDenoiser(torch.zeros(2), 0.5, process)
    before = sampler(model, x)
    with torch.no_grad():
        process.pace.fill_(2.0)
    assert not torch.allclose(before, sampler(model, x))


def test_uneven_steps_of_2m_extrapolate_by_their_lengths():  # 51
    process, times = VP, [VP.time_at(v) for v in (-1.0, 0.0, 3.0)]
    row = Sampler(DPMSolverPP(2), grid=TimeGrid.through(times)).program(process)[1][1]
    plain = process.step(times[1], times[2], 0.0)
    assert row.b == pytest.approx(plain.b * 2.5) and row.past[0] == pytest.approx(-plain.b * 1.5)


def test_the_widened_variance_of_entries_is_gain_squared():  # 52
    class PerEntry(Denoiser):
        def __init__(self):
            super().__init__()
            self.process, self.shape = VP, (2,)

        def forward(self, x, t, condition=None, step=None):
            return Posterior(VP, x, t, x, variance=torch.full_like(x, 0.3))

    step = Sampler(Ancestral("posterior"), 4).step(PerEntry(), torch.zeros(1, 2), 1)
    expected = (step.row.scale**2 + 0.3 * step.row.b**2) ** 0.5
    assert step.distribution.scale[0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_min_snr_is_cut_at_five():  # 65
    t = torch.tensor([1e-3, 0.9], dtype=torch.float64)
    weights = WEIGHTINGS["min-snr"](None, VP, t)
    level = VP.at(t)
    assert weights[0] == 5.0 and weights[1] == pytest.approx(float((level.alpha[1] / level.sigma[1]) ** 2))


def test_predictions_are_made_in_eval_mode():  # 78
    class Moody(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.eye(2)[[int(self.training)]].expand(len(x), 2)

    model = Moody().train()
    assert metrics.predicted_classes(model, torch.zeros(3, 1)).tolist() == [0, 0, 0] and model.training


def test_gumbel_tails_reach_beyond_what_one_minus_u_can_hold():  # 25
    noise = Keyed(0, 1).gumbel(torch.empty(1, 4_000_000))
    assert len(noise[noise > 12].unique()) > 0.9 * (noise > 12).sum()
