"""The learned codec: its laws, its scale, its quantiser, and the same codec in diffusers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ornstein.core import Denoiser as Base
from ornstein.core import Keyed, Posterior, Sampler, TimeGrid, build
from ornstein.denoisers import NetworkDenoiser, Reconstructor
from ornstein.networks import Autoencoder, UNet
from ornstein.processes import RectifiedFlow, Tabulated
from ornstein.solvers import DDIM
from ornstein.spaces import AutoencoderCodec, Encoded

N = 5


@pytest.fixture
def x():
    return torch.randn(N, 2, 8, 12)


def codec(kind="kl", factor=4, **options):
    torch.manual_seed(0)
    network = Autoencoder(2, latent=3, factor=factor, width=4, moments=kind == "kl")
    return AutoencoderCodec(network, kind, **options)


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_latents_are_smaller_by_the_factor(kind, factor, x):
    own = codec(kind, factor)
    z = own.encode(x)
    assert z.shape == (N, 3, 8 // factor, 12 // factor)
    assert own.decode(z).shape == x.shape
    assert torch.equal(own.encode(x[:1]), z[:1]) or torch.allclose(own.encode(x[:1]), z[:1])


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_weights_of_less_precision_give_codes_and_data_of_the_precision_given(kind, x):
    own = codec(kind).float()
    z, narrow = own.encode(x), own.encode(x.float())
    assert z.dtype == torch.float64 and narrow.dtype == torch.float32
    assert torch.allclose(z, narrow.double(), atol=1e-6)
    found = own.decode(z)
    assert found.dtype == torch.float64
    assert torch.allclose(found, own.decode(narrow).double(), atol=1e-5)
    own.calibrate(x)
    assert own.scale.dtype == torch.float32 and torch.isfinite(own.scale)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_latents_have_unit_deviation_on_the_calibration_batch(kind, x):
    """(b)"""
    own = codec(kind)
    before = own.decode(own.encode(x))
    own.calibrate(x)
    law = own.law(x)
    drawn = (law.sample(Keyed(0, N), (4000,)) if kind == "kl" else law.mean).detach()
    assert float((drawn / own.scale).std()) == pytest.approx(1, abs=0.01)
    assert torch.allclose(own.decode(own.encode(x)), before)  # the scale cancels


def test_the_divergence_is_that_of_the_formula(x):
    """(e): KL = 1/2 sum mean^2 + var - 1 - log var."""
    own = codec()
    law = own.law(x)
    mean, variance = law.mean, law.scale**2
    known = 0.5 * (mean**2 + variance - 1 - variance.log()).flatten(1).sum(1)
    assert torch.allclose(own.divergence(law), known)
    normal = torch.distributions.Normal
    other = torch.distributions.kl_divergence(normal(mean, law.scale), normal(0.0, 1.0))
    assert torch.allclose(own.divergence(law), other.flatten(1).sum(1))


def test_the_log_variance_is_held(x):
    own = codec()
    with torch.no_grad():
        own.network.encoder[-1].bias[3:] = 1e6
    assert float(own.law(x).scale.detach().max()) == pytest.approx(torch.tensor(10.0).exp().item())
    with torch.no_grad():
        own.network.encoder[-1].bias[3:] = -1e6
    assert float(own.law(x).scale.detach().min()) == pytest.approx(torch.tensor(-15.0).exp().item())


def test_the_quantiser_belongs_to_the_decoder(x):
    own = codec("vq", codes=7)
    own.scale.fill_(0.3)
    z = own.encode(x)
    points = z * own.scale
    chosen = own.nearest(points)
    rows = {tuple(row) for row in chosen.movedim(1, -1).reshape(-1, 3).tolist()}
    assert rows <= {tuple(row) for row in own.book.tolist()}
    gaps = (points.unsqueeze(-1) - own.book.T[None, :, None, None]).square().sum(1)  # (N, H, W, codes)
    assert torch.allclose((points - chosen).square().sum(1), gaps.amin(-1))
    assert torch.equal(own.decode(z), own.reconstructed(chosen))
    moved = own.book[0].reshape(1, 3, 1, 1) / own.scale + torch.zeros(1, 3, 2, 3)
    assert torch.equal(own.decode(moved), own.decode(moved + 1e-9))


def test_a_model_in_latents_samples_data_and_is_saved_whole(tmp_path):
    own = codec("vq", codes=5).calibrate(torch.randn(20, 2, 8, 8))
    process = Encoded(RectifiedFlow(), own)
    model = NetworkDenoiser(UNet(3, width=4, multipliers=(1,)), process, shape=(3, 2, 2), scale=1.0).eval()
    found = Sampler(DDIM(), 3)(model, N)
    assert found.shape == (N, 2, 8, 8)
    again = NetworkDenoiser.from_pretrained(model.save_pretrained(tmp_path / "model")).double()
    assert torch.allclose(Sampler(DDIM(), 3)(again, N), found)
    assert build(process.spec()).codec.kind == "vq"


def test_densities_are_refused(x):
    with pytest.raises(ValueError, match="AutoencoderCodec is not a change of variables"):
        codec().log_abs_det(x)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AutoencoderCodec(Autoencoder(1), "kll"), "Did you mean 'kl'"),
        (lambda: AutoencoderCodec(Autoencoder(1), "vq"), "'vq' needs moments=False"),
        (lambda: AutoencoderCodec(Autoencoder(1, moments=False)), "'kl' needs moments=True"),
        (lambda: codec("vq", codes=1), "codes: expected an integer of at least 2"),
        (lambda: Autoencoder(1, factor=3), r"factor: expected one of \(1, 2, 4, 8\), got 3"),
        (lambda: Autoencoder(1, latent=0), "latent: expected a positive integer"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_reconstructor_is_its_codec(x):
    own = codec()
    model = Reconstructor(own, (2, 8, 12))
    assert torch.equal(model(x, 0.0).mean, own.decode(own.encode(x)))
    assert model.like(3).shape == (3, 2, 8, 12)


# --- diffusers


class Halves(nn.Module):
    """The two halves of a diffusers autoencoder, as this codec asks for them."""

    def __init__(self, vae) -> None:
        super().__init__()
        self.encoder = nn.Sequential(vae.encoder, vae.quant_conv)
        self.decoder = nn.Sequential(vae.post_quant_conv, vae.decoder)
        self.moments, self.latent = True, vae.config.latent_channels


@pytest.fixture
def vae():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    made = diffusers.AutoencoderKL(
        in_channels=2, out_channels=2, latent_channels=3, block_out_channels=(4, 8), norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=8,
        scaling_factor=0.25,
    )  # fmt: skip
    return made.double().eval().requires_grad_(False)


def test_the_round_trip_is_that_of_diffusers(vae, x):
    """(d): same latents, moments, scale and images."""
    own = AutoencoderCodec(Halves(vae))
    own.scale.fill_(1 / vae.config.scaling_factor)
    theirs = vae.encode(x).latent_dist
    latents = theirs.mean * vae.config.scaling_factor
    assert torch.allclose(own.encode(x), latents)
    assert torch.allclose(own.law(x).scale, theirs.std)
    assert torch.allclose(own.divergence(own.law(x)), theirs.kl())
    assert torch.allclose(own.decode(latents), vae.decode(latents / vae.config.scaling_factor).sample)


class Guess(Base):
    """Noise as a fixed function of the state."""

    def __init__(self, process) -> None:
        super().__init__()
        self.process = process

    @staticmethod
    def noise(x):
        return 0.9 * torch.tanh(x) + 0.05 * x.roll(1, -1)

    def forward(self, x, t, condition=None, step=None):
        return Posterior(self.process, x, t, self.process.mean_from("noise", x, self.noise(x), t))


def test_their_loop_in_latents_gives_the_same_latents_and_images(vae):
    """(f): the scaled-linear schedule, DDIM, and the decoder at the end."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False
    )
    scheduler.set_timesteps(10)
    own = AutoencoderCodec(Halves(vae))
    own.scale.fill_(1 / vae.config.scaling_factor)
    start = torch.randn(N, 3, 4, 4)
    latents = start
    for k in scheduler.timesteps:
        latents = scheduler.step(Guess.noise(latents), k, latents, return_dict=False)[0]
    theirs = vae.decode(latents / vae.config.scaling_factor).sample
    process = Encoded(Tabulated.from_alpha_bar(scheduler.alphas_cumprod.tolist()), own)
    grid = TimeGrid.through([(int(k) + 1) / 1000 for k in scheduler.timesteps] + [0.0])
    steps = list(Sampler(DDIM(), grid=grid).steps(Guess(process), start))
    assert torch.allclose(steps[-1].next, latents, rtol=1e-5, atol=1e-5)
    assert torch.allclose(steps[-1].readout(), theirs, rtol=1e-5, atol=1e-5)


def test_the_nearest_code_is_that_also_of_large_values():
    """Squares by a matrix product cancel: in float32 the gaps here are below what is left of them."""
    own = codec("vq", codes=64).float()
    own.book.data.copy_(1e3 + torch.arange(64)[:, None] * torch.tensor([0.03, 0.02, 0.01]))
    codes = own.book.detach()[torch.randperm(64)].T.reshape(1, 3, 8, 8)
    points = codes + 1e-3
    assert torch.equal(own.nearest(points), codes)
    assert torch.equal(own.nearest(points[..., :1, :1]), own.nearest(points)[..., :1, :1])
