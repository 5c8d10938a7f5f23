"""InfoNCE and its teacher; samples as their own condition."""

from __future__ import annotations

import math

import pytest
import torch

from ornstein import denoisers, networks, objectives, processes
from ornstein.core import Keyed
from ornstein.data import Dataset, TensorSplit
from ornstein.networks import tapped
from ornstein.training.check import check

VP = processes.VariancePreserving()


def model(seed=0):
    torch.manual_seed(seed)
    network = networks.UNet(1, width=8, multipliers=(1, 2))
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return denoisers.NetworkDenoiser(network, VP, "noise", shape=(1, 8, 8))


def batch(n=6):
    return {"x_0": torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(5))}


def test_info_nce_is_zero_for_identical_views_at_no_temperature():
    x = torch.randn(16, 8)
    values = [float(objectives.info_nce(x, 3 * x, tau)) for tau in (1.0, 0.1, 1e-3)]
    assert values == sorted(values, reverse=True) and values[-1] < 1e-12


def test_info_nce_is_log_b_at_infinite_temperature():
    x = torch.linalg.qr(torch.randn(16, 16)).Q
    assert float(objectives.info_nce(x, x.flip(0), 1e9)) == pytest.approx(math.log(16), abs=1e-8)
    one = float(objectives.info_nce(x, x, 1.0))  # orthogonal: log(e + B - 1) - 1
    assert one == pytest.approx(math.log(math.e + 15) - 1, abs=1e-10)


def with_term(term):
    return objectives.Regularised(objectives.Denoising(), {"contrastive": term})


def test_the_term_is_weighed_beside_an_unchanged_loss():
    denoiser, noise = model(), Keyed(0, 6)
    term = objectives.Contrastive(denoiser, "middle", 16, weight=0.3)
    plain = objectives.Denoising()(denoiser, batch(), noise)
    objective = with_term(term).eval()
    losses = objective(denoiser, batch(), noise)
    assert torch.equal(losses.sample, plain.sample) and set(losses.batch) == {"contrastive"}
    first = losses.batch["contrastive"].item()
    term.weight = 0.6
    assert objective(denoiser, batch(), noise).batch["contrastive"].item() == pytest.approx(2 * first)
    term.weight = 0.0
    assert objective(denoiser, batch(), noise).total.item() == pytest.approx(plain.total.item(), abs=1e-14)


def test_the_students_features_are_of_the_pass_of_the_loss():
    denoiser, calls = model(), []
    denoiser.network.stem.register_forward_hook(lambda *given: calls.append(1))
    with_term(objectives.Contrastive(model(1), "middle", 16))(denoiser, batch(), Keyed(0, 6))
    assert len(calls) == 1


def test_the_teacher_with_decay_zero_is_the_student():
    denoiser = model()
    objective = objectives.Contrastive(denoiser, "middle", 16, decay=0.0)
    for p in denoiser.parameters():
        p.data += 0.1
    objective(denoiser, batch(), Keyed(0, 6))
    teacher, head = objective.teacher
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), denoiser.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), objective.head.parameters(), strict=True))


def test_the_teacher_averages_and_learns_by_nothing_else():
    denoiser = model()
    objective = objectives.Contrastive(denoiser, "middle", 16, decay=0.9)
    first = [p.clone() for p in objective.teacher.parameters()]
    for p in (*denoiser.parameters(), *objective.head.parameters()):
        p.data += 1.0
    objective(denoiser, batch(), Keyed(0, 6)).total.backward()
    assert all(torch.allclose(a + 0.1, b) for a, b in zip(first, objective.teacher.parameters(), strict=True))
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    assert all(p.grad.abs().sum() > 0 for p in objective.head[0].parameters())
    with torch.no_grad():
        objective(denoiser, batch(), Keyed(0, 6))  # held-out losses do not move it
    assert all(torch.allclose(a + 0.1, b) for a, b in zip(first, objective.teacher.parameters(), strict=True))


def test_the_teacher_sees_another_view_under_other_noise():
    denoiser = model()
    seen, views = [], []

    def view(x, noise):
        views.append(noise.normal(x).mean())
        return x.flip(3)

    objective = objectives.Contrastive(denoiser, "middle", 16, view=view).eval()
    objective.teacher[0].network.stem.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    with tapped(denoiser, ["stem"]):
        denoiser.network.stem.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
        objective(denoiser, batch(), Keyed(0, 6))
    assert len(views) == 1 and len(seen) == 2
    correlation = torch.corrcoef(torch.stack([v.flatten() for v in seen]))[0, 1]
    assert abs(float(correlation)) < 0.25


def test_the_contrastive_term_changes_the_networks_gradient_up_to_the_tap_only():
    denoiser, noise = model(), Keyed(0, 6)
    objective = objectives.Contrastive(denoiser, "encoder.1", 16).eval()
    term = objective(denoiser, batch(), noise).batch["contrastive"]
    term.backward()
    network = denoiser.network
    assert network.stem.weight.grad.abs().sum() > 0
    assert network.out.weight.grad is None and network.middle.blocks[0].conv_in.weight.grad is None
    with pytest.raises(ValueError, match="expected weight"):
        objectives.Contrastive(denoiser, "middle", 16, temperature=0.0)


def test_a_wrong_block_or_width_is_named():
    denoiser = model()
    with pytest.raises(ValueError, match=r"at: unknown module 'midle'\. Did you mean 'middle'"):
        objectives.Contrastive(denoiser, "midle", 16)
    wrong = objectives.Contrastive(denoiser, "middle", 8)
    with pytest.raises(ValueError, match="features: expected 8 channels of at='middle', which gives 16"):
        wrong(denoiser, batch(), Keyed(0, 6))


def test_a_transformers_tokens_are_pooled_over_positions():
    torch.manual_seed(0)
    network = networks.Transformer(1, patch=4, width=16, depth=1, heads=2).double()
    denoiser = denoisers.NetworkDenoiser(network, VP, "noise", shape=(1, 8, 8))
    term = objectives.Contrastive(denoiser, "blocks.0", 16)
    h = torch.randn(6, 4, 16)
    torch.testing.assert_close(term._pooled(h), h.mean(1))
    assert term.double()(denoiser, batch(), Keyed(0, 6)).batch["contrastive"] > 0


def test_a_sample_is_its_own_condition():
    class Seen(denoisers.NetworkDenoiser):
        def forward(self, x, t, condition=None, step=None):
            self.image = condition["image"]
            assert bool(condition.present["image"].all())
            return super().forward(x, t, None, step)

    inner = model()
    seen = Seen(inner.network, VP, "noise", shape=(1, 8, 8))
    objective = objectives.OwnCondition(objectives.Denoising(drop=0.0))
    losses = objective(seen, batch(), Keyed(0, 6))
    assert torch.equal(seen.image, batch()["x_0"])
    assert torch.equal(losses.sample, objectives.Denoising(drop=0.0)(inner, batch(), Keyed(0, 6)).sample)


def test_the_sample_may_be_the_other_end_of_the_process():
    """The field is made in every batch, so data need not have it."""
    network = networks.Concatenated(
        networks.UNet(3, width=8, multipliers=(1, 2), out_channels=1), 1, "anchor"
    )
    process = processes.Shifted(processes.RectifiedFlow())
    denoiser = denoisers.NetworkDenoiser(network.double(), process, "edm", (1, 8, 8))
    split = TensorSplit(batch()["x_0"])
    data = Dataset("squares", split, split, (1, 8, 8))
    check(denoiser, data, objectives.OwnCondition(objectives.Denoising(), "anchor"))
    with pytest.raises(ValueError, match="lacks what the process needs: anchor"):
        check(denoiser, data, objectives.OwnCondition(objectives.Denoising(), "image"))
