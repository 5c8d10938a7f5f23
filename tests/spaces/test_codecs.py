"""Codecs, and processes that run on what they encode."""

from __future__ import annotations

import pytest
import torch

from ornstein.core import Sampler, build
from ornstein.denoisers import GaussianDenoiser, MixtureDenoiser, NetworkDenoiser
from ornstein.guides import Clamp
from ornstein.networks import ResidualMLP
from ornstein.processes import Absorbing, BrownianBridge, MeanReverting, RectifiedFlow, VariancePreserving
from ornstein.solvers import DDIM, Ancestral, DPMSolverPP
from ornstein.spaces import Encoded, LinearCodec, LogCodec

from ..exact import covariance

N, SHAPE = 6, (1, 2, 2)


def data(n: int = 200) -> torch.Tensor:
    z = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (z @ torch.linalg.cholesky(covariance(4)).T + torch.arange(4.0, dtype=z.dtype)).reshape(n, *SHAPE)


CODECS = {
    "log": lambda: LogCodec(),
    "log-shifted": lambda: LogCodec(2.0),
    "axes": lambda: LinearCodec.fit(data()),
}


@pytest.fixture(params=CODECS)
def codec(request):
    return CODECS[request.param]()


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE) + 0.1


def test_decode_inverts_encode_and_the_volume_is_the_jacobians(codec, x):
    z = codec.encode(x)
    torch.testing.assert_close(codec.decode(z), x)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda v: codec.encode(v[None])[0].flatten(), x[i])
        _, known = torch.linalg.slogdet(jacobian.flatten(1))
        torch.testing.assert_close(codec.log_abs_det(x)[i], known)


def test_the_encoded_score_is_the_score_of_the_codes(codec, x):
    """For log-normal data in closed form, for any map by differentiating the codes' own log-density."""

    def log_p(v):
        return -(0.5 * (v - 1.0) ** 2 + 0.1 * v**4).flatten(1).sum(1)

    points = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_p(points).sum(), points)
    z = codec.encode(x).requires_grad_()
    decoded = codec.decode(z)
    (known,) = torch.autograd.grad((log_p(decoded) - codec.log_abs_det(decoded)).sum(), z)
    torch.testing.assert_close(codec.encoded_score(x, score), known)
    if isinstance(codec, LogCodec):
        torch.testing.assert_close(known, (x + codec.shift) * score + 1)


def test_the_logarithm_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"expected data above -1, got -1\.5"):
        LogCodec(1.0).encode(torch.tensor([[-1.5, 2.0]]))
    assert LogCodec().decode(torch.tensor([[-50.0, 3.0]])).min() > 0


def test_principal_axes_are_orthonormal_sorted_and_of_unit_mean_square():
    codec = LinearCodec.fit(data(), 3)
    torch.testing.assert_close(codec.axes @ codec.axes.T, torch.eye(3))
    z = codec.encode(data())
    assert z.shape == (200, 3) and z.square().mean() == pytest.approx(1.0)
    powers = z.square().mean(0)
    assert bool((powers.diff() < 0).all())
    lost = (codec.decode(z) - data()).square().sum(dim=(1, 2, 3)).mean()
    values = torch.linalg.eigvalsh(data().flatten(1).T.cov(correction=0))
    assert lost == pytest.approx(float(values[0]))
    with pytest.raises(ValueError, match="not a change of variables"):
        codec.log_abs_det(data())
    with pytest.raises(ValueError, match="components: expected 1 to 4"):
        LinearCodec(SHAPE, 5)


@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP(), Ancestral()], ids=repr)
def test_with_all_axes_samples_are_those_of_pixel_space_with_turned_noise(solver):
    """latent-diffusion (a): a rotation commutes with everything that an isotropic process does."""
    codec = LinearCodec(SHAPE)
    codec.axes = torch.linalg.qr(torch.randn(4, 4))[0]
    process = VariancePreserving()
    means, covariances = torch.randn(2, *SHAPE), torch.stack([covariance(4, k) for k in range(2)])
    pixels = MixtureDenoiser([0.4, 0.6], means, covariances, process)
    turned = codec.axes @ covariances @ codec.axes.T
    codes = MixtureDenoiser([0.4, 0.6], codec.encode(means), turned, Encoded(process, codec))
    start = torch.randn(N, *SHAPE)
    noises = [torch.randn(N, *SHAPE) for _ in range(8)]
    one, other = (
        _run(solver, model, begin, drawn)
        for model, begin, drawn in (
            (pixels, start, noises),
            (codes, codec.encode(start), [codec.encode(z) for z in noises]),
        )
    )
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def _run(solver, model, start, noises):
    """Sampled with the noises given, one a step."""
    for step in Sampler(solver, 8).steps(model, start):
        if step.distribution.deterministic:
            continue
        step.next = step.distribution.transform(noises[step.index])
    return step.readout()


def test_every_piece_works_in_the_codes_and_samples_are_data():
    codec = LogCodec()
    process = Encoded(VariancePreserving(), codec)
    truth = GaussianDenoiser(torch.tensor([0.5, -0.5]), torch.eye(2) * 0.1, process)
    found = Sampler(DPMSolverPP(), 20)(truth, 4000)
    assert bool((found > 0).all())
    torch.testing.assert_close(found.log().mean(0), torch.tensor([0.5, -0.5]), rtol=0.05, atol=0.02)
    clamped = Clamp(torch.tensor([True, False]), torch.tensor([1.0, 0.0]))(truth)
    assert bool((Sampler(DDIM(), 4)(clamped, 3)[:, 0] == torch.tensor(1.0).exp()).all())


@pytest.mark.parametrize("inner", [MeanReverting(), BrownianBridge(0.5, "start"), RectifiedFlow()], ids=repr)
def test_the_process_inside_is_the_one_that_runs(inner):
    process = Encoded(inner, LogCodec())
    assert process.step(0.8, 0.3, 1.0) == inner.step(0.8, 0.3, 1.0)
    assert process.fields == inner.fields and process.anchored == inner.anchored
    assert process.time_at(0.3) == inner.time_at(0.3) and not process.learned
    assert [r[:2] for r in process.grid(None, 5)] == [r[:2] for r in inner.grid(None, 5)]
    with pytest.raises(ValueError, match="expected an affine process, got Absorbing"):
        Encoded(Absorbing(3), LogCodec())


def test_likelihoods_change_variables():
    """(f) of multiplicative-diffusion: log p(x) = log p(log x) - sum log x, here against the log-normal density."""
    codec = LogCodec()
    truth = GaussianDenoiser(torch.tensor([0.5, -0.5]), 0.3, Encoded(VariancePreserving(), codec))
    x = torch.rand(N, 2) + 0.2
    known = torch.distributions.LogNormal(torch.tensor([0.5, -0.5]), 0.3**0.5).log_prob(x).sum(1)
    torch.testing.assert_close(truth.log_density(codec.encode(x), 0.0) + codec.log_abs_det(x), known)


def test_a_codec_is_saved_with_the_model(tmp_path):
    codec = LinearCodec.fit(data(), 3)
    network = ResidualMLP(3, width=8, depth=1)
    model = NetworkDenoiser(network, Encoded(RectifiedFlow(), codec), shape=(3,))
    model.save_pretrained(tmp_path / "model")
    again = NetworkDenoiser.from_pretrained(tmp_path / "model")
    z = torch.randn(2, 3)
    torch.testing.assert_close(
        again.process.readout(z).double(), model.process.readout(z), rtol=1e-6, atol=1e-6
    )
    assert isinstance(build(Encoded(MeanReverting(), LogCodec(1.0)).spec()), Encoded)
    assert all(not p.requires_grad for p in model.process.parameters())
