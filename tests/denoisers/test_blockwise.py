"""Blockwise runs: the cache changes no bit, guides share it, and exact conditionals give the exact law."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ornstein import Sampler, TimeGrid, guides, objectives, processes, solvers
from ornstein.core import Condition, Denoiser, Keyed, Posterior, align
from ornstein.denoisers import Blockwise
from ornstein.networks import BlockwiseTransformer
from ornstein.networks.patches import Blocks
from ornstein.solvers import block_by_block

PROCESS = processes.RectifiedFlow()


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = BlockwiseTransformer(1, (4, 4), grid=2, width=16, depth=2, heads=2, labels=5).double()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval()


def sampler(model, solver, steps=4):
    return Sampler(solver, grid=block_by_block(TimeGrid.log_snr(steps, PROCESS), model.blocks, solver))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("solver", [solvers.DPMSolverPP(), solvers.Ancestral()], ids=repr)
def test_a_run_without_the_cache_gives_the_same_bits(network, solver, dtype):
    network = network.to(dtype)
    samples = [
        sampler(model, solver)(model, 3, seed=1, label=[0, 3, None])
        for model in (Blockwise(network, PROCESS, cached=cached) for cached in (True, False))
    ]
    assert torch.equal(*samples)
    assert samples[0].dtype is dtype


def test_a_run_agrees_with_the_pass_that_it_was_trained_by(network):
    model = Blockwise(network, PROCESS)
    for step in sampler(model, solvers.DDIM()).steps(model, 2, seed=0, label=[1, 2]):
        if step.posterior is None:
            continue
        times, blocks = model.blocks.times(step.t)[0], model.blocks
        active = int((times > 0).nonzero()[0])
        whole = model(step.x, step.t, step.condition.replace(clean=step.x))
        for made, expected in ((step.posterior.mean, whole.mean), (step.next, None)):
            made = blocks.cut(made)
            if expected is not None:
                assert torch.allclose(made[:, active], blocks.cut(expected)[:, active], rtol=0, atol=1e-11)
        waiting = torch.arange(4) != active
        assert torch.equal(blocks.cut(step.next)[:, waiting], blocks.cut(step.x)[:, waiting])


def test_a_guide_shares_one_cache_between_its_branches(network):
    model, plain = Blockwise(network, PROCESS), Blockwise(network, PROCESS, cached=False)
    guided = guides.ClassifierFree(2.0)
    one, two = (sampler(m, solvers.DDIM())(guided(m), 2, seed=0, label=[1, 2]) for m in (model, plain))
    assert torch.equal(one, two)
    steps = list(sampler(model, solvers.DDIM()).steps(guided(model), 2, seed=0, label=[1, 2]))
    assert [owner for owner in steps[-1].memory if owner is model]
    assert steps[-1].evaluations == 2 * 16 + 3  # three clean blocks are read, once for both branches


def test_copies_of_a_trajectory_take_their_cache_along(network):
    model = Blockwise(network, PROCESS)
    run, plain = sampler(model, solvers.Ancestral()), Blockwise(network, PROCESS, cached=False)
    found = []
    for m in (model, plain):
        for i, step in enumerate(run.steps(m, 3, seed=0, label=[0, 1, 2])):
            if i == 6:
                step.select(torch.tensor([2, 2, 0]))
            step.next  # noqa: B018
        found.append(step.next)
    assert torch.equal(*found)


def test_it_learns_blocks_that_follow_from_the_one_before():
    """Signals of two equal halves: given the first, the second is known, however noisy it is."""
    torch.manual_seed(0)
    network = BlockwiseTransformer(1, (4,), grid=2, width=32, depth=2, heads=2)
    model = Blockwise(network, PROCESS, scale=1.0)
    loss = objectives.OwnCondition(
        objectives.Denoising(times=objectives.PerBlock(objectives.UniformTime(), (None, 2)), drop=0.1),
        "clean",
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(150):
        half = torch.randn(64, 1, 2, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss(model, {"x_0": half.repeat(1, 1, 2)}, Keyed(step, 64)).total.backward()
        optimizer.step()
    x = sampler(model.eval(), solvers.DDIM(), steps=8)(model, 500, seed=0)
    assert (x[..., 2:] - x[..., :2]).square().mean() < 0.1
    assert 0.7 < x[..., :2].std() < 1.2


def test_the_clean_state_is_never_dropped(network):
    condition = Condition(
        {"label": torch.zeros(50, dtype=torch.long), "clean": torch.zeros(50, 1, 4, 4).double()}
    )
    batch = {"x_0": torch.zeros(50, 1, 4, 4).double(), "condition": condition}
    seen = objectives.Denoising(drop=0.9).seen(Blockwise(network, PROCESS), batch, Keyed(0, 50))
    assert seen.condition.present["clean"].all()
    assert seen.condition.present["label"].sum() < 20


class ExactBlocks(Denoiser):
    """E[x_0 | blocks before at time 0, this one at t] of data N(m, C): the joint Gaussian at unequal levels."""

    def __init__(self, mean, covariance, process, blocks):
        super().__init__()
        self.process, self.blocks, self.shape = process, blocks, (1, len(mean))
        self.mean, self.covariance = mean, covariance

    def forward(self, x, t, condition=None, step=None):
        level = self.process.at(torch.as_tensor(t).double())
        a, s = (align(v, x).expand_as(x)[:1].flatten() for v in (level.alpha, level.sigma))
        joint = a[:, None] * self.covariance * a + (s**2).diag()
        gap = (x.flatten(1) - a * self.mean) @ torch.linalg.solve(joint, a[:, None] * self.covariance)
        return Posterior(self.process, x, t, (self.mean + gap).reshape(x.shape), condition=condition)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_exact_conditionals_give_the_exact_law_for_every_block_size(count):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=generator).double() / 8**0.5
    covariance, mean = root @ root.T + 0.05 * torch.eye(8), torch.linspace(-1, 1, 8).double()
    blocks = Blocks((8,), count)
    model = ExactBlocks(mean, covariance, PROCESS, blocks)
    errors = []
    for steps in (40, 80):
        grid = TimeGrid.log_snr(steps, PROCESS, largest=1e4, smallest=1e-4)
        run = Sampler(solvers.DDIM(), grid=block_by_block(grid, blocks, solvers.ExponentialAdams(3)))
        origin, *columns = run(model, torch.cat([torch.zeros(1, 8), torch.eye(8)]).double()[:, None], seed=0)[
            :, 0
        ]
        flow = torch.stack(columns) - origin  # the run is an affine map of its start
        errors.append(float((flow.T @ flow - covariance).abs().max() + (origin - mean).abs().max()))
    assert errors[1] < 5e-3
    assert errors[1] < 0.5 * errors[0]


def test_blocks_that_are_independent_are_runs_of_their_own():
    start = torch.tensor([[[1.0, -1.0]]]).double()
    grid = TimeGrid.log_snr(6, PROCESS)
    for solver in (solvers.Heun(), solvers.RungeKutta4(), solvers.UniPC(), solvers.DPMSolverPP()):
        apart = []
        for size, count, given in ((2, 2, start), (1, 1, start[..., :1]), (1, 1, start[..., 1:])):
            blocks = Blocks((size,), count)
            model = ExactBlocks(torch.zeros(size).double(), torch.eye(size).double() * 0.5, PROCESS, blocks)
            apart.append(Sampler(solver, grid=block_by_block(grid, blocks, solver))(model, given, seed=0))
        assert torch.allclose(apart[0], torch.cat(apart[1:], dim=-1), rtol=0, atol=1e-12), solver


def test_times_that_no_block_order_explains_are_refused(network):
    model = Blockwise(network, PROCESS)
    x = torch.randn(2, 1, 4, 4).double()
    with pytest.raises(ValueError, match="block_by_block, or pass the clean state"):
        model(x, 0.5)
    mean = model(x, 0.5, Condition({"clean": x})).mean
    assert mean.shape == x.shape
    assert torch.equal(model(x, 0.0).mean, x)
    with pytest.raises(ValueError, match=r"grid: expected times from 1 to 0, got 1\.0 to 0\.5"):
        block_by_block(TimeGrid.uniform(2)[:1], model.blocks, solvers.DDIM())


def test_its_files_rebuild_it(network, tmp_path):
    model = Blockwise(network, PROCESS)
    model.save_pretrained(tmp_path)
    twin = Blockwise.from_pretrained(tmp_path)
    x = torch.randn(2, 1, 4, 4)
    condition = Condition({"clean": x})
    assert torch.allclose(
        twin(x, 0.5, condition).mean.double(), model(x.double(), 0.5, condition).mean, atol=1e-5
    )


def test_an_earlier_block_does_not_read_the_blocks_that_came_after_it(network):
    """A run that goes back, such as one of a solver that tries a step again, must not read what is kept of later."""
    model, run = Blockwise(network, PROCESS), SimpleNamespace(memory={})
    x, times = torch.randn(2, 1, 4, 4).double(), torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 1.0, 1.0, 1.0]])
    for row in times.double():
        t = model.blocks.spread(row[None])
        kept, fresh = model(x, t, step=run), model(x, t)
        assert torch.equal(kept.mean, fresh.mean)
        assert kept.evaluations == fresh.evaluations


def test_processes_with_an_anchor_or_of_another_kind_are_refused(network):
    for process in (processes.Shifted(PROCESS), processes.Absorbing(3)):
        with pytest.raises(ValueError, match="process: expected an affine process without an anchor"):
            Blockwise(network, process)


def test_a_step_reads_its_times_from_the_device_once(network, monkeypatch):
    model, reads, cpu = Blockwise(network, PROCESS), [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda v: reads.append(v) or cpu(v))
    x = torch.randn(2, 1, 4, 4).double()
    for t in (model.blocks.spread(torch.tensor([[0.5, 1.0, 1.0, 1.0]]).double()), 0.0):
        reads.clear()
        model(x, t)
        assert len(reads) == 1
