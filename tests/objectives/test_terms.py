"""Terms that share the data's network call: symmetry, representations, relations between samples."""

from __future__ import annotations

import copy

import pytest
import torch

from ornstein.core import Denoiser, Keyed, Losses, Objective, Posterior
from ornstein.denoisers import NetworkDenoiser
from ornstein.networks import CodeAutoencoder, ResidualMLP, Transformer, UNet
from ornstein.objectives import (
    Denoising,
    HighFrequency,
    OwnCondition,
    PairwiseSimilarity,
    Refinement,
    Regularised,
    RepresentationAlignment,
    Symmetry,
    Term,
)
from ornstein.objectives.relative import haar, similarities
from ornstein.processes import RectifiedFlow, VariancePreserving
from ornstein.spaces import AutoencoderCodec
from ornstein.training.lesson import Lesson

from ..exact import gaussian


class Linear(Denoiser):
    """D = W x, row by row."""

    prediction, scale = "mean", 0.5

    def __init__(self, weight):
        super().__init__()
        self.process, self.weight = RectifiedFlow(), torch.nn.Parameter(weight)

    def forward(self, x, t, condition=None, step=None):
        return Posterior(self.process, x, t, x @ self.weight.T)


def images(n=6, seed=0):
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def unet():
    torch.manual_seed(0)
    model = NetworkDenoiser(
        UNet(channels=2, width=8, multipliers=(1, 2)).double(), RectifiedFlow(), shape=(2, 8, 8)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


# --- symmetry


def test_the_symmetry_term_is_the_squared_norm_of_the_curl():
    weight = torch.randn(4, 4)
    noise, batch = Keyed(0, 20_000), {"x_0": torch.randn(20_000, 4)}
    found = Symmetry(2.0)(Linear(weight), batch, noise).sample.detach()
    wanted = 2 * float(((weight - weight.T) ** 2).sum()) / 4
    assert float(found.mean()) == pytest.approx(wanted, rel=0.03)
    few = {"x_0": batch["x_0"][:2000]}
    spread = Symmetry(2.0, probes=8)(Linear(weight), few, noise[:2000]).sample.detach().std()
    assert float(spread) == pytest.approx(float(found.std()) / 8**0.5, rel=0.1)


def test_a_gradient_field_has_no_curl():
    truth = gaussian(VariancePreserving())
    found = Symmetry()(truth, {"x_0": torch.randn(16, 3)}, Keyed(0, 16)).sample.detach()
    assert float(found.abs().max()) < 1e-20


def test_its_gradient_makes_a_matrix_symmetric():
    model, batch = Linear(torch.randn(3, 3)), {"x_0": torch.randn(64, 3)}
    gap = (model.weight - model.weight.T).norm()
    (slope,) = torch.autograd.grad(Symmetry()(model, batch, Keyed(0, 64)).total, model.weight)
    torch.testing.assert_close(slope, -slope.T)
    model.weight.data -= 0.05 * slope
    assert (model.weight - model.weight.T).norm() < gap


def test_its_gradient_reaches_the_weights_of_a_network_in_training_and_evaluation():
    torch.manual_seed(0)
    model = NetworkDenoiser(ResidualMLP(3, 16, 1).double(), RectifiedFlow(), shape=(3,))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for mode in (True, False):
        model.train(mode)
        total = Symmetry()(model, {"x_0": torch.randn(4, 3)}, Keyed(0, 4)).total
        assert (
            total.grad_fn is not None and torch.autograd.grad(total, model.network.inner.weight)[0].norm() > 0
        )
    with torch.no_grad():
        assert Symmetry()(model, {"x_0": torch.randn(4, 3)}, Keyed(0, 4)).total > 0


def test_it_is_asked_of_transformers_whose_attention_is_fused():
    """Fused attention, of more than 128 tokens, has no second derivative."""
    torch.manual_seed(0)
    network = Transformer(1, dims=1, patch=1, width=8, depth=1, heads=2).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = NetworkDenoiser(network, RectifiedFlow(), shape=(1, 130))
    objective = Regularised(Denoising(), {"curl": Symmetry()})
    losses = objective(model, {"x_0": torch.randn(2, 1, 130)}, Keyed(0, 2))
    slopes = torch.autograd.grad(losses.total, list(model.parameters()), allow_unused=True)
    assert losses.batch["curl"] > 0 and all(s.isfinite().all() for s in slopes if s is not None)


# --- one network call for all terms


def test_terms_share_the_states_and_the_network_call_of_the_loss():
    model, batch = unet(), {"x_0": images()}
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    terms = {"fine": HighFrequency(), "alike": PairwiseSimilarity(unet())}
    losses = Regularised(Denoising(), terms)(model, batch, Keyed(0, 6))
    assert len(calls) == 1
    plain = Denoising()(model, batch, Keyed(0, 6))
    assert torch.equal(losses.sample, plain.sample)
    seen = Denoising().seen(model, batch, Keyed(0, 6))
    torch.testing.assert_close(losses.batch["fine"], HighFrequency().of(model, seen, Keyed(0, 6)).total)
    torch.testing.assert_close(losses.total, plain.total + losses.batch["fine"] + losses.batch["alike"])


def test_references_of_terms_are_neither_trained_nor_saved_and_their_own_parameters_are():
    source, encoder = unet(), torch.nn.Conv2d(2, 5, 1).double()
    aligned = RepresentationAlignment(encoder, "encoder.0", (8, 5))
    objective = Regularised(Denoising(), {"alike": PairwiseSimilarity(source), "aligned": aligned})
    assert set(objective.references) == {source, encoder}
    lesson = Lesson(unet(), objective)
    learned = {id(p) for p in lesson.learned()}
    assert not learned & {id(p) for m in (source, encoder) for p in m.parameters()}
    assert {id(p) for p in aligned.projection.parameters()} <= learned
    assert not any("reference" in name or "encoder.weight" in name for name in lesson.saved())


@pytest.mark.parametrize("around", [lambda o, codec: Refinement(codec, o), lambda o, codec: OwnCondition(o)])
def test_references_are_those_of_all_that_is_inside(around):
    """Also of a term that was put into the inner objective afterwards."""
    codec, encoder = AutoencoderCodec(CodeAutoencoder((2, 8, 8), 2, (8,))), torch.nn.Conv2d(2, 5, 1).double()
    inner = Regularised(Denoising(), {"fine": HighFrequency()})
    outer = around(inner, codec)
    inner.terms["aligned"] = RepresentationAlignment(encoder, "encoder.0", (8, 5))
    references = {encoder, codec} if isinstance(outer, Refinement) else {encoder}
    assert set(outer.references) == references
    lesson = Lesson(unet(), outer)
    learned, kept = {id(p) for p in lesson.learned()}, lesson.saved()
    assert all(not p.requires_grad for r in references for p in r.parameters())
    assert not learned & {id(p) for r in references for p in r.parameters()}
    assert not any("encoder.weight" in name or "codec" in name for name in kept)
    assert any("projection" in name for name in kept)


class Spy(Objective):
    """Remembers its noise."""

    def forward(self, model, batch, noise):
        self.drawn = noise.normal(batch["x_0"])
        return Losses(self.drawn.flatten(1).mean(1), {}, {})


class SpyTerm(Term):
    """Remembers its noise."""

    def of(self, model, seen, noise):
        self.drawn = noise.normal(seen.x_0)
        return Losses(self.drawn.flatten(1).mean(1), {}, {})


@pytest.mark.parametrize("kind", [Spy, SpyTerm])
def test_every_term_has_noise_of_its_own(kind):
    terms, noise = {"one": kind(), "two": kind()}, Keyed(0, 6)
    Regularised(Denoising(), terms)(unet(), {"x_0": images()}, noise)
    for name, term in terms.items():
        assert torch.equal(term.drawn, noise.fold(name).normal(images()))


@pytest.mark.parametrize("inner", [Denoising(), OwnCondition(Denoising())])
def test_the_batchs_weight_is_the_data_losses(inner):
    weight, batch = torch.linspace(0, 2, 6), {"x_0": images()}
    objective = Regularised(inner, {"fine": HighFrequency()})
    found, plain = (objective(unet(), b, Keyed(0, 6)) for b in ({**batch, "weight": weight}, batch))
    torch.testing.assert_close(found.sample, plain.sample * weight)
    assert torch.equal(found.batch["fine"], plain.batch["fine"])


def test_references_of_the_regularised_objective_are_kept():
    source = unet()
    inner = Regularised(Denoising(), {"alike": PairwiseSimilarity(source)})
    assert set(Regularised(inner, {"fine": HighFrequency()}).references) == {source}


# --- representations


def test_features_that_are_the_encoders_have_cosine_one():
    """The projection is made the identity up to silu's inverse range: the encoder gives P of the very features."""
    model, term = unet(), None

    class Reads(torch.nn.Module):
        def forward(self, x):
            seen = term.projection(features["encoder.0"].flatten(2).transpose(1, 2))
            return seen.transpose(1, 2).reshape(len(x), 8, 8, 8)

    features = {}
    model.network.encoder[0].register_forward_hook(lambda m, i, o: features.update({"encoder.0": o.detach()}))
    term = RepresentationAlignment(Reads(), "encoder.0", (8, 8), weight=0.5)
    found = Regularised(Denoising(), {"aligned": term})(model, {"x_0": images()}, Keyed(0, 6))
    assert float(found.batch["aligned"].detach()) == pytest.approx(-0.5, abs=1e-9)


def test_alignment_is_by_position_and_invariant_to_the_encoders_scale():
    model, encoder = unet(), torch.nn.Conv2d(2, 5, 1, bias=False).double()
    term, batch = RepresentationAlignment(encoder, "encoder.0", (8, 5)), {"x_0": images()}
    found = term(model, batch, Keyed(0, 6)).sample
    encoder.weight.data *= 7
    torch.testing.assert_close(term(model, batch, Keyed(0, 6)).sample, found)
    total = term(model, batch, Keyed(0, 6)).total
    assert torch.autograd.grad(total, next(model.network.encoder[0].parameters()))[0].norm() > 0
    pooled = RepresentationAlignment(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 5)), "middle", (16, 5)
    )
    assert pooled(model, batch, Keyed(0, 6)).sample.shape == (6,)
    with pytest.raises(ValueError, match="has 16 positions, the encoder 64"):
        RepresentationAlignment(encoder, "middle", (16, 5))(model, batch, Keyed(0, 6))
    with pytest.raises(ValueError, match=r"layer: unknown module 'midle'\. Did you mean 'middle'"):
        RepresentationAlignment(encoder, "midle", (16, 5))(model, batch, Keyed(0, 6))
    with pytest.raises(
        ValueError, match=r"features: expected 9 channels of layer 'encoder\.0', which gives 8"
    ):
        RepresentationAlignment(encoder, "encoder.0", (9, 5))(model, batch, Keyed(0, 6))
    with pytest.raises(ValueError, match="features: expected 6 channels of the encoder, which gives 5"):
        RepresentationAlignment(encoder, "encoder.0", (8, 6))(model, batch, Keyed(0, 6))


# --- DomainStudio (2306.14153)


@pytest.mark.parametrize(("space", "bands"), [("image", "each"), ("haar", "each"), ("haar", "sum")])
def test_a_copy_of_the_source_costs_nothing_and_is_not_pulled(space, bands):
    model = unet()
    term = PairwiseSimilarity(copy.deepcopy(model), space, 4.0, bands)
    total = term(model, {"x_0": images()}, Keyed(0, 6)).total
    assert float(total.detach().abs()) < 1e-15
    slopes = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    assert all(float(s.abs().max()) < 1e-13 for s in slopes if s is not None)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    assert float(term(model, {"x_0": images()}, Keyed(0, 6)).total.detach()) > 1e-6


def test_similarities_do_not_see_a_common_scale_or_rotation():
    x = torch.randn(5, 12)
    turn = torch.linalg.qr(torch.randn(12, 12))[0]
    torch.testing.assert_close(similarities(3.7 * x), similarities(x))
    torch.testing.assert_close(similarities(x @ turn), similarities(x))
    torch.testing.assert_close(similarities(x).exp().sum(1), torch.ones(5))
    by_hand = torch.nn.functional.cosine_similarity(x[:1], x[1:]).log_softmax(0)
    torch.testing.assert_close(similarities(x)[0], by_hand)


def test_the_term_is_the_divergence_of_source_from_adapted_by_hand():
    model, source, batch = (
        Linear(torch.randn(12, 12)),
        Linear(torch.randn(12, 12)),
        {"x_0": torch.randn(5, 12)},
    )
    seen = Denoising(drop=0.0).seen(model, batch, Keyed(0, 5))
    p, q = similarities(seen.posterior.mean), similarities(source(seen.x_t, seen.t).mean)
    wanted = torch.nn.functional.kl_div(p, q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(
        PairwiseSimilarity(source, weight=3.0)(model, batch, Keyed(0, 5)).total, 3 * wanted
    )


def test_two_samples_have_nothing_to_compare():
    model, source = (
        unet(),
        NetworkDenoiser(UNet(channels=2, width=8).double(), RectifiedFlow(), shape=(2, 8, 8)),
    )
    assert float(PairwiseSimilarity(source)(model, {"x_0": images(2)}, Keyed(0, 2)).total.detach()) == 0.0


def test_the_haar_transform_is_orthonormal():
    x = images()
    bands = haar(x)
    torch.testing.assert_close((bands**2).sum(0).flatten(1).sum(1), (x**2).flatten(1).sum(1))
    gram = torch.stack([haar(unit.reshape(1, 1, 2, 2)).flatten() for unit in torch.eye(4)])
    torch.testing.assert_close(gram @ gram.T, torch.eye(4))
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    torch.testing.assert_close(
        bands[1:].sum(0), 2 * (d - (a + b + c + d) / 4)
    )  # the sum of three is one number
    with pytest.raises(ValueError, match="even sides"):
        haar(torch.randn(1, 1, 7, 8))


def test_the_sum_of_bands_misses_a_diagonal_edge_that_each_of_them_sees():
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[None, None]
    bowl = torch.tensor([[2.0, -1.0], [-1.0, 0.0]])[None, None]  # corner and mean agree: d = mean
    assert float(haar(bowl)[1:].sum(0)) == 0.0 and float(haar(bowl)[1:].abs().max()) > 0.5
    assert float(haar(x)[3]) == 2.0


class Answers(Denoiser):
    """A denoiser that knows the data up to an error."""

    prediction = "mean"

    def __init__(self, error):
        super().__init__()
        self.process, self.error = RectifiedFlow(), error

    def forward(self, x, t, condition=None, step=None):
        return Posterior(self.process, x, t, images(len(x)) + self.error)


def test_high_frequencies_do_not_see_what_is_constant_in_blocks():
    batch, noise = {"x_0": images()}, Keyed(0, 6)
    coarse = torch.randn(6, 2, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    for error in (0.7, coarse):
        assert float(HighFrequency()(Answers(error), batch, noise).sample.max()) < 1e-28
    error = torch.randn(6, 2, 8, 8)
    wanted = (haar(error)[1:] ** 2).mean((0, 2, 3, 4))
    torch.testing.assert_close(HighFrequency(2.0)(Answers(error), batch, noise).sample, 2 * wanted)
    summed = (haar(error)[1:].sum(0) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(HighFrequency(bands="sum")(Answers(error), batch, noise).sample, summed)


def test_options_are_checked():
    with pytest.raises(ValueError, match="unknown space"):
        PairwiseSimilarity(unet(), "wavelet")
    with pytest.raises(ValueError, match="weight"):
        HighFrequency(-1.0)
    model = unet()
    with pytest.raises(ValueError, match="is the model that is trained"):
        PairwiseSimilarity(model)(model, {"x_0": images()}, Keyed(0, 6))
