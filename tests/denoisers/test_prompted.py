from __future__ import annotations

import pytest
import torch

import ornstein as orn
from ornstein.conditions import TextEncoder, Tokeniser
from ornstein.core import Condition
from ornstein.data import Dataset, TensorSplit
from ornstein.denoisers import Converted, Gauged, NetworkDenoiser, Prompted
from ornstein.guides import ClassifierFree
from ornstein.networks import TextTransformer, Transformer
from ornstein.processes import RectifiedFlow, VariancePreserving
from ornstein.solvers import DDIM

WORDS = ("up", "down", "and")


class Counted(TextEncoder):
    calls = 0

    def forward(self, ids):
        self.calls += 1
        return super().forward(ids)


def prompted(shape=(1, 4), process=None) -> Prompted:
    torch.manual_seed(0)
    tokeniser = Tokeniser(WORDS, 6)
    encoder = Counted(tokeniser, TextTransformer(tokeniser.size, 6, width=8, depth=1, heads=2))
    network = Transformer(1, dims=1, patch=1, width=16, depth=1, heads=2, text=8)
    denoiser = NetworkDenoiser(network, process or RectifiedFlow(), shape=shape)
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.3)  # at the start a text changes nothing
    return Prompted(denoiser, encoder).eval()


def drawn(model, n=2, **given):
    return orn.Sampler(DDIM(), 5)(model, n, seed=3, **given)


def test_words_ids_and_features_are_the_same_condition():
    model = prompted()
    ids = model.tokenise("text", ["up and up", "down"])
    features = model.encoder(ids)
    one = drawn(model, text=["up and up", "down"])
    assert torch.equal(one, drawn(model, text=ids)) and torch.equal(one, drawn(model, text=features))
    assert not torch.allclose(one, drawn(model, text="down"))
    both = drawn(model, text="down")
    torch.testing.assert_close(both[1], one[1])


def test_texts_are_encoded_once_a_run_and_preparing_twice_is_preparing_once():
    model = prompted()
    drawn(model, text="up")
    assert model.encoder.calls == 1
    once = model.prepare(Condition({"text": model.tokenise("text", ["up"])}))
    assert model.prepare(once)["text"] is once["text"] and model.encoder.calls == 2
    assert set(once["text"]) == {"tokens", "mask", "pooled"}


def test_a_row_without_words_is_unconditional_whatever_the_others_are():
    model = prompted()
    some, none = drawn(model, 3, text=["up", None, "down and up"]), drawn(model, 3)
    torch.testing.assert_close(some[1], none[1])
    assert not torch.allclose(some[0], none[0])
    empty = drawn(model, 3, text="")
    assert not torch.allclose(empty[1], none[1])  # an empty prompt is one
    for row, words in ((0, "up"), (2, "down and up")):
        torch.testing.assert_close(drawn(model, 3, text=words)[row], some[row])


def test_guides_and_wrappers_hand_words_on():
    model = prompted(process=VariancePreserving())
    plain, without = drawn(model, text="up"), drawn(model)
    torch.testing.assert_close(drawn(ClassifierFree(1.0)(model), text="up"), plain)
    torch.testing.assert_close(drawn(ClassifierFree(0.0)(model), text="up"), without)
    x, t = torch.randn(2, 1, 4), 0.6
    condition = model.prepare(Condition.make(2, {"text": "up"}, {"text"}, tokenise=model.tokenise))
    guided = ClassifierFree(3.0)(model)(x, t, condition).mean
    expected = 3 * model(x, t, condition).mean - 2 * model(x, t).mean
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=1e-5)
    drawn(ClassifierFree(2.0)(Converted(model, RectifiedFlow())), text=["up", None])


def test_ids_in_a_batch_are_seen_as_features():
    model = prompted()
    x, t, ids = torch.randn(2, 1, 4), torch.tensor([0.3, 0.8]), model.tokenise("text", ["up", "down"])
    told = Condition({"text": ids}, {"text": torch.tensor([True, False])})
    made = model(x, t, told).mean
    prepared = Condition({"text": model.encoder(ids)}, told.present)
    assert torch.equal(made, model.denoiser(x, t, prepared).mean)
    torch.testing.assert_close(made[1], model(x, t).mean[1])


def test_the_encoder_is_frozen_and_the_rest_is_not():
    model = prompted().train()
    assert model.denoiser.training and not model.encoder.training
    assert not any(p.requires_grad for p in model.encoder.parameters())
    model(
        torch.randn(1, 1, 4), 0.5, Condition({"text": model.tokenise("text", ["up"])})
    ).mean.sum().backward()
    network = model.denoiser.network
    assert network.text.inner.weight.grad.any() and model.encoder.network.table.weight.grad is None


def plain(model) -> Prompted:
    """With an encoder that a config can rebuild."""
    encoder = TextEncoder(model.encoder.tokeniser, model.encoder.network)
    return Prompted(model.denoiser, encoder)


def test_it_is_saved_with_its_encoder(tmp_path):
    model = plain(prompted())
    model.save_pretrained(tmp_path)
    again = orn.load(tmp_path)
    assert isinstance(again, Prompted) and isinstance(Prompted.from_pretrained(tmp_path), Prompted)
    assert torch.equal(drawn(again, text=["up zz", None]), drawn(model, text=["up zz", None]))


def told_apart(n=64) -> Dataset:
    """A text says the sign of all numbers of a sample."""
    sign = torch.arange(n) % 2
    x = (2.0 * sign - 1).reshape(n, 1, 1).expand(n, 1, 4) + 0.1 * torch.randn(n, 1, 4)
    texts = ["up" if s else "down" for s in sign.tolist()]
    return Dataset("signs", TensorSplit(x, texts=texts), TensorSplit(x[:8], texts=texts[:8]), (1, 4))


def test_training_reads_the_texts_of_the_data_and_leaves_the_encoder_alone(tmp_path):
    model = plain(prompted(shape=None))
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    options = {"batch": 32, "learning_rate": 1e-2, "ema": 0.9, "progress": False, "sample_every": 0}
    torch.manual_seed(0)
    data = told_apart()
    run = orn.fit(model, data, steps=60, out=tmp_path / "run", **options)
    for made in (model, run.denoiser, orn.load(tmp_path / "run")):
        assert all(torch.equal(v, before[k]) for k, v in made.encoder.state_dict().items())
        assert made.shape == made.denoiser.shape == (1, 4)
    means = [drawn(orn.load(tmp_path / "run"), 16, text=words).mean() for words in ("up", "down")]
    assert means[0] > 0.7 and means[1] < -0.7
    orn.load(tmp_path / "run").save_pretrained(tmp_path / "again")  # what training found out is in the config
    assert orn.load(tmp_path / "again").shape == (1, 4)


def test_a_run_that_is_resumed_ends_alike(tmp_path):
    options = {"batch": 8, "progress": False, "sample_every": 4, "checkpoint_every": 4, "evaluate_every": 4}
    torch.manual_seed(0)
    data = told_apart()
    whole = orn.fit(plain(prompted()), data, steps=8, out=tmp_path / "whole", **options).denoiser

    class Stopped(Exception):
        pass

    def stop(record):
        if record["step"] == 8:
            raise Stopped

    with pytest.raises(Stopped):
        orn.fit(plain(prompted()), data, steps=8, out=tmp_path / "cut", callback=stop, **options)
    resumed = orn.fit(plain(prompted()), data, steps=8, out=tmp_path / "cut", **options).denoiser
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in resumed.state_dict().items())
    assert (tmp_path / "whole" / "samples" / "step-00000004.txt").exists()


def test_what_reads_no_words_says_so():
    silent = NetworkDenoiser(
        Transformer(1, dims=1, patch=1, width=8, depth=1, heads=2, labels=3), RectifiedFlow()
    )
    with pytest.raises(ValueError, match=r"label: NetworkDenoiser reads no words, got \['up'\].*as label"):
        silent.tokenise("label", ["up"])
    silent.shape = (1, 4)
    for model in (silent, ClassifierFree(2.0)(silent)):
        with pytest.raises(ValueError, match="label: NetworkDenoiser reads no words"):
            drawn(model, label="up")
    with pytest.raises(TypeError, match="unknown condition field 'text'"):
        drawn(silent, text="up")
    with pytest.raises(ValueError, match=r"does not read 'text'; it reads \['label'\]"):
        Prompted(silent, torch.nn.Identity())
    with pytest.raises(
        ValueError, match=r"expected words, ids \(B, L\) or features, got integers of shape \(2,\)"
    ):
        drawn(prompted(), text=[3, 4])
    both = Transformer(1, dims=1, patch=1, width=8, depth=1, heads=2, labels=3, text=8)
    model = Prompted(NetworkDenoiser(both, RectifiedFlow(), shape=(1, 4)), prompted().encoder)
    with pytest.raises(ValueError, match="label: NetworkDenoiser reads no words"):
        drawn(model, text="up", label="up")


def test_a_text_is_encoded_in_full_precision_under_autocast():
    model = prompted().float()
    told = Condition({"text": model.tokenise("text", ["up and down"])})
    plain = model.encoded(told)["text"]
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.encoder(told["text"])["tokens"]  # so autocast is felt
        found = model.encoded(told)["text"]
    assert not torch.equal(cast.float(), plain["tokens"])
    assert all(torch.equal(found[k], plain[k]) and found[k].dtype == plain[k].dtype for k in plain)


def test_the_shape_of_a_wrapper_is_that_of_what_it_wraps():
    model = prompted()
    rest = [Converted(model, VariancePreserving()), Gauged(model, lambda x, t, c: 0 * x)]
    for wrapper, length in zip([model, *rest], (5, 6, 7), strict=True):
        wrapper.shape = (1, length)
        assert wrapper.shape == model.denoiser.shape == (1, length)
        assert wrapper.like(2).shape == (2, 1, length)
    assert drawn(model, 2, text=[None, None]).shape == (2, 1, 7)


def test_no_text_in_any_row_is_no_text():
    model = prompted()
    assert torch.equal(drawn(model, 2, text=[None, None]), drawn(model, 2))
    guided = ClassifierFree(2.0)(model)
    assert torch.equal(drawn(guided, 2, text=[None, None]), drawn(guided, 2))
