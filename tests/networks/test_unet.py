from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ornstein.core import Condition
from ornstein.networks import ResidualBlock, SpatialAttention, UNet


@pytest.mark.parametrize("size", [(1,), (9,), (1, 1), (8, 8), (7, 5), (1, 6), (2, 3, 5), (9, 1, 2)], ids=str)
def test_any_size_keeps_its_size(size, wake):
    network = wake(UNet(1, dims=len(size), width=8, multipliers=(1, 2, 2), attention=(2,)))
    output = network(torch.randn(2, 1, *size), torch.zeros(2))
    assert output.shape == (2, 1, *size)
    assert output.isfinite().all()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_input_reaches_every_output(dims, wake):
    network = wake(UNet(1, dims=dims, width=8, multipliers=(1, 1, 1)).double())
    x = torch.randn(1, 1, *[5] * dims, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, torch.zeros(1)), x)
    assert (jacobian.abs() > 0).all()


def test_a_constant_image_in_more_dimensions_is_the_same_function(wake):
    """With kernels that are constant across columns, a 2-D network on columns is the 1-D one."""
    flat = wake(UNet(2, dims=1, width=8, multipliers=(1, 2), attention=(1,)).double())
    image = UNet(2, dims=2, width=8, multipliers=(1, 2), attention=(1,)).double()
    state = flat.state_dict()
    for name, value in image.state_dict().items():
        given = state[name]
        if value.ndim == 4:  # an image one pixel wide meets the middle column only
            value.zero_()[..., value.shape[-1] // 2] = given
        else:
            value.copy_(given)
    x, level = torch.randn(3, 2, 9, dtype=torch.double), torch.randn(3).double()
    assert torch.allclose(image(x[..., None], level)[..., 0], flat(x, level), rtol=0, atol=1e-10)


def test_channels_last_in_memory_gives_the_same(wake):
    network = wake(UNet(3, width=16, multipliers=(1, 2), attention=(1,)).double())
    x, level = torch.randn(2, 3, 8, 8, dtype=torch.double), torch.randn(2).double()
    plain = network(x, level)
    last = network.to(memory_format=torch.channels_last)
    assert torch.allclose(last(x.to(memory_format=torch.channels_last), level), plain, atol=1e-10)


@pytest.fixture
def small(wake):
    network = wake(UNet(1, width=4, multipliers=(1, 1), attention=(1,)).double()).eval()
    return lambda x, level: network(x, level)


def test_first_and_second_derivatives_are_right(small):
    x = torch.randn(2, 1, 3, 2, dtype=torch.double, requires_grad=True)
    level = torch.randn(2, dtype=torch.double, requires_grad=True)
    assert gradcheck(small, (x, level), fast_mode=True)
    assert gradgradcheck(small, (x, level), fast_mode=True)


def test_forward_mode_and_vectorised_derivatives_agree_with_backward_mode(small):
    x, level = torch.randn(2, 1, 3, 2, dtype=torch.double), torch.randn(2).double()
    backward = torch.func.jacrev(small)(x, level)
    assert torch.allclose(torch.func.jacfwd(small)(x, level), backward, atol=1e-10)
    tangent = torch.randn_like(x)
    pushed = torch.func.jvp(lambda x: small(x, level), (x,), (tangent,))[1]
    assert torch.allclose(pushed, torch.einsum("abcdefgh,efgh->abcd", backward, tangent), atol=1e-10)


def test_hooks_see_every_resolution():
    network, seen = UNet(1, width=8, multipliers=(1, 2, 3)), {}
    for name in ("encoder.0", "encoder.1", "encoder.2", "middle", "decoder.0", "decoder.1"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    network(torch.randn(1, 1, 7, 7), torch.zeros(1))
    sizes = {0: (8, 7, 7), 1: (16, 4, 4), 2: (24, 2, 2)}
    assert seen == {
        "encoder.0": sizes[0], "encoder.1": sizes[1], "encoder.2": sizes[2],
        "middle": sizes[2], "decoder.0": sizes[1], "decoder.1": sizes[0],
    }  # fmt: skip


def test_a_single_level_is_a_residual_network():
    network = UNet(1, width=8, multipliers=(1,))
    assert network(torch.randn(1, 1, 4, 4), torch.zeros(1)).shape == (1, 1, 4, 4)
    assert len(network.decoder) == 0


def test_a_residual_block_starts_as_the_identity():
    x = torch.randn(2, 6, 5)
    assert torch.equal(ResidualBlock(6, 4, dims=1)(x, torch.randn(2, 4)), x)


def test_a_residual_block_is_modulated_by_scale_and_shift(wake):
    block = wake(ResidualBlock(4, 3, dims=1))
    torch.nn.init.zeros_(block.film.weight)
    block.film.bias.data = torch.cat([torch.full((4,), 2.0), torch.full((4,), -1.0)])
    x = torch.randn(1, 4, 6)  # scale -1 removes the map: a constant silu(2) enters the second convolution
    expected = x + block.conv_out(torch.nn.functional.silu(torch.full((1, 4, 6), 2.0)))
    assert torch.allclose(block(x, torch.randn(1, 3)), expected)


def test_spatial_attention_starts_as_the_identity_and_has_no_positions(wake):
    attention = SpatialAttention(8).double()
    x, order = torch.randn(2, 8, 3, 4, dtype=torch.double), torch.randperm(12)
    assert torch.equal(attention(x), x)
    wake(attention)
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    expected = attention(x).flatten(2)[..., order].reshape(x.shape)
    assert torch.allclose(attention(shuffled), expected, atol=1e-10)
    assert not torch.allclose(expected, shuffled)


def test_attention_with_positions_tells_places_apart(wake):
    attention = SpatialAttention(8, positions=True).double()
    x = torch.randn(1, 8, 1, 1, dtype=torch.double).expand(-1, -1, 3, 4)
    assert torch.equal(attention(x), x)
    wake(attention)
    values = attention(x).flatten(2)[0].T
    assert torch.cdist(values, values).add(torch.eye(12)).min() > 1e-6  # no two places read alike
    plain = wake(SpatialAttention(8).double())(x).flatten(2)[0].T
    assert torch.allclose(plain, plain[:1].expand_as(plain), atol=1e-12)


def test_a_text_is_read_where_there_is_attention(wake):
    network = wake(UNet(1, width=8, multipliers=(1, 2), attention=(1,), text=3).double())
    assert network.fields == {"text"}
    x, level = torch.randn(2, 1, 5, 4).double(), torch.zeros(2).double()
    text, present = torch.randn(2, 6, 3).double(), {"text": torch.tensor([True, False])}
    shown = torch.arange(6)[None].expand(2, -1) < 4
    given = {"tokens": text, "mask": shown}
    missing, read = (network(x, level, v) for v in (None, Condition({"text": given}, present)))
    assert torch.allclose(missing[1], read[1], atol=1e-12)
    assert not torch.allclose(missing[0], read[0], atol=1e-4)
    hidden = {"tokens": torch.where(shown[..., None], text, 7.0), "mask": shown}
    assert torch.equal(network(x, level, Condition({"text": hidden}, present)), read)


def test_dropout_acts_in_training_only(wake):
    network = wake(UNet(1, width=8, dropout=0.5))
    x, level = torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert not torch.equal(network(x, level), network(x, level))
    network.eval()
    assert torch.equal(network(x, level), network(x, level))


def test_the_recommended_network_for_digits_is_small():
    network = UNet(1, labels=10)
    assert sum(p.numel() for p in network.parameters()) == 725_793


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dims": 4}, "dims: expected 1, 2 or 3, got 4"),
        ({"multipliers": ()}, "multipliers: expected one number per level"),
        ({"multipliers": (1, 2), "attention": (2,)}, r"attention: expected levels 0 to 1, got \[2\]"),
        ({"multipliers": (1, 0)}, "multipliers: expected .* got 0"),
        ({"width": 0}, "width: expected .* got 0"),
        ({"blocks": 0}, "blocks: expected .* got 0"),
        ({"labels": 0}, "labels: expected .* got 0"),
        ({"channels": 0}, "channels: expected .* got 0"),
        ({"dropout": 1.5}, "dropout"),
        ({"text": 3}, "text: is read where there is attention"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"channels": 1, **arguments})


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8), (1, 8, 8), (2, 1, 2, 8, 8)], ids=str)
def test_states_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 1, H, W\), got"):
        UNet(1, width=8)(torch.randn(shape), torch.zeros(shape[0]))


@pytest.mark.parametrize("axis", [0, 1])
def test_the_first_waves_of_a_position_are_of_its_row(wake, axis):
    """Of the sines of width 8 two are of the row and two of the column: with one alone, a flat map differs along it."""
    attention = wake(SpatialAttention(8, positions=True).double())
    attention.place.weight.data.zero_()
    attention.place.weight.data[:, 2 * axis] = torch.randn(8).double()
    x = torch.randn(1, 8, 1, 1).double().expand(-1, -1, 3, 4)
    read = attention(x)
    assert (read.diff(dim=2 + axis).abs().amax((0, 1)) > 1e-6).all()
    assert read.diff(dim=3 - axis).abs().max() < 1e-12
