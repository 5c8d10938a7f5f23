"""Two stages: a code, its image, and what a denoiser makes of it (DiffuseVAE)."""

from __future__ import annotations

import pytest
import torch

import ornstein as orn
from ornstein.core import Condition, Denoiser, Keyed, Posterior, Sampler, Shared, align
from ornstein.data import Dataset, TensorSplit
from ornstein.denoisers import Cascade, GaussianDenoiser, NetworkDenoiser, code_mixture
from ornstein.networks import CodeAutoencoder, Concatenated, UNet
from ornstein.objectives import Denoising, Refinement
from ornstein.processes import RectifiedFlow, Shifted, VariancePreserving
from ornstein.solvers import Ancestral
from ornstein.spaces import AutoencoderCodec

from ..exact import covariance

N = 5


def codec(shape=(3,), hidden=(8,)) -> AutoencoderCodec:
    torch.manual_seed(0)
    return AutoencoderCodec(CodeAutoencoder(shape, 2, hidden)).requires_grad_(False)


class Near(Denoiser):
    """Exact where x_0 = y + r with r ~ N(0, 0.04), y being the condition's field `shown`."""

    fields = frozenset({"shown"})

    def __init__(self) -> None:
        super().__init__()
        self.process, self.shape = VariancePreserving(), (3,)

    def forward(self, x, t, condition=None, step=None):
        level, y = self.process.at(t), condition["shown"]
        alpha, sigma = (align(v, x) for v in (level.alpha, level.sigma))
        gain = alpha * 0.04 / (alpha**2 * 0.04 + sigma**2)
        return Posterior(self.process, x, t, y + gain * (x - alpha * y), condition=condition)


@pytest.mark.parametrize("form", [1, 2])
def test_a_code_is_decoded_once_and_refined(form):
    own = codec()
    process = Shifted(VariancePreserving())
    refiner = Near() if form == 1 else GaussianDenoiser(torch.zeros(3), covariance(3), process)
    field = "shown" if form == 1 else "anchor"
    calls = []
    own.network.decoder.register_forward_hook(lambda *_: calls.append(1))
    code = torch.randn(N, 2)
    out = orn.sample(Cascade(refiner, own, field), N, steps=6, seed=1, code=code)
    assert len(calls) == 1
    known = orn.sample(refiner, N, steps=6, seed=1, **{field: own.decode(code)})
    assert torch.equal(out, known)
    if form == 1:
        assert (out - own.decode(code)).square().mean() == pytest.approx(0.04, rel=0.8)


class Shifting(Denoiser):
    """Form 2 with a network f that is told x_t - x_hat; with `process` the plain one, Form 1 with f."""

    def __init__(self, process, network) -> None:
        super().__init__()
        self.process, self.network, self.shape = process, network, (3,)

    def forward(self, x, t, condition=None, step=None):
        u = self.process.add_anchor(x, -1.0, condition)
        return Posterior(self.process, x, t, self.network(u), condition=condition)


def test_the_forms_differ_only_in_what_the_network_sees():
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    plain = VariancePreserving()
    x_hat = 4 * torch.randn(N, 3)
    sampler = Sampler(Ancestral(), 50)
    one = sampler(Shifting(plain, network), N, seed=3)
    two = sampler(Shifting(Shifted(plain), network), N, seed=3, anchor=x_hat)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_with_shared_noise_only_the_code_varies():
    model = Cascade(Near(), codec(), "shown")
    code = torch.randn(3, 2)[[0, 1, 0]]
    shared = Sampler(Ancestral(), 8)(model, 3, seed=Shared(4), code=code)
    assert torch.equal(shared[0], shared[2])
    assert not torch.equal(shared[0], shared[1])
    own = Sampler(Ancestral(), 8)(model, 3, seed=4, code=code)
    assert not torch.equal(own[0], own[2])


def test_one_component_is_the_codes_mean_and_covariance():
    codes = torch.randn(500, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.7]]) + 2
    prior = code_mixture(codes, VariancePreserving(), components=1)
    draws = prior.sample_data(40_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.means[0], codes.mean(0))
    torch.testing.assert_close(draws.mean(0), codes.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(draws.T.cov(), codes.T.cov(), atol=0.03, rtol=0.02)
    again = orn.sample(prior, 2000, steps=40, seed=0)  # and by any sampler
    torch.testing.assert_close(again.T.cov(), codes.T.cov(), atol=0.12, rtol=0)
    two = torch.cat([codes, codes + 20])
    shares = code_mixture(two, VariancePreserving(), components=2).log_weights.exp()
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.5]), atol=1e-6, rtol=0)


def test_refinement_is_denoising_given_the_samples_own_reconstruction():
    own, x = codec(), torch.randn(N, 3)
    noise = Keyed(0, N)
    losses = Refinement(own, Denoising(drop=0.0), "shown")(_Judged(), {"x_0": x}, noise)
    shown = own.reconstructed(own.law(x).sample(noise.fold("code")))
    known = Denoising(drop=0.0)(_Judged(), {"x_0": x, "condition": Condition({"shown": shown})}, noise)
    assert torch.equal(losses.sample, known.sample)
    assert not torch.equal(shown, own.decode(own.encode(x)))  # a draw of the posterior, not its mean


class _Judged(Near):
    prediction, scale = "mean", 1.0


@pytest.mark.parametrize("form", [1, 2])
def test_both_forms_train_without_the_field_in_the_data_and_leave_the_codec_as_it_was(form, tmp_path):
    torch.set_default_dtype(torch.float32)
    own = codec((1, 8, 8))
    before = [p.clone() for p in own.parameters()]
    x = torch.rand(40, 1, 8, 8) * 2 - 1
    data = Dataset("squares", TensorSplit(x[:32]), TensorSplit(x[32:]), (1, 8, 8))
    process = Shifted(RectifiedFlow()) if form == 2 else RectifiedFlow()
    unet = UNet(3, width=8, multipliers=(1, 2), out_channels=1)
    refiner = NetworkDenoiser(Concatenated(unet, 1, "anchor"), process, "edm", (1, 8, 8))
    options = {"steps": 3, "batch": 8, "out": tmp_path, "progress": False, "sample_every": 0}
    run = orn.fit(refiner, data, Refinement(own, field="anchor"), **options)
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))
    again = orn.load(tmp_path)
    code = torch.randn(2, 2)
    pair = [orn.sample(Cascade(m, own), 2, steps=3, seed=0, code=code) for m in (again, run.denoiser)]
    assert torch.equal(*pair)
    assert "held_out_loss" in run.metrics[-1]


def test_a_refiner_that_reads_no_image_is_refused():
    with pytest.raises(ValueError, match="does not read 'anchor'"):
        Cascade(Near(), codec())


def test_rows_without_a_code_have_no_image():
    some = Condition({"code": torch.randn(4, 2)}).dropped(torch.tensor([True, False, True, False]))
    prepared = Cascade(Near(), codec(), "shown").prepare(some)
    assert prepared.present["shown"].tolist() == [False, True, False, True]
    assert set(prepared) == {"shown"}


def test_the_refiner_prepares_the_rest_of_the_condition():
    unet = UNet(3, width=8, multipliers=(1, 2), out_channels=1, labels=3)
    refiner = NetworkDenoiser(Concatenated(unet, 1, "anchor"), RectifiedFlow(), "edm", (1, 8, 8))
    model = Cascade(refiner, codec((1, 8, 8)))
    for given in ({}, {"code": torch.randn(2, 2)}):
        with pytest.raises(ValueError, match="label: expected 0 to 2"):
            model.prepare(Condition({**given, "label": torch.tensor([0, 3])}))
