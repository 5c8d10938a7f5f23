from __future__ import annotations

import math

import pytest
import torch

from ornstein.metrics import feature_distance, load_classifier, psnr, ssim

X = torch.rand(3, 2, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_psnr_of_a_known_error():
    shifts = torch.tensor([0.1, 0.5, 2.0]).reshape(3, 1, 1, 1)
    expected = [20 * math.log10(2 / d) for d in (0.1, 0.5, 2.0)]
    assert psnr(X + shifts, X).tolist() == pytest.approx(expected, rel=1e-4)
    assert psnr(X, X).tolist() == pytest.approx([126.02] * 3, abs=0.01)


def test_ssim_is_1_for_equal_images_and_symmetric():
    torch.testing.assert_close(ssim(X, X), torch.ones(3))
    y = X.flip(-1)
    torch.testing.assert_close(ssim(X, y), ssim(y, X))
    assert (ssim(X, y) < 0.3).all()
    torch.testing.assert_close(ssim(X, -X)[0], ssim(X[:1], -X[:1])[0])


def test_ssim_of_constant_images_is_the_term_of_the_means():
    a, b = torch.full((1, 1, 8, 8), 0.5), torch.full((1, 1, 8, 8), -0.25)
    c = 0.02**2
    expected = (2 * 0.5 * -0.25 + c) / (0.25 + 0.0625 + c)
    assert float(ssim(a, b)) == pytest.approx(expected, rel=1e-3)


def test_ssim_by_hand_in_one_window():
    x, y = X[:1, :1, :7, :7].double(), X[1:2, :1, :7, :7].double()
    line = torch.exp(-(torch.arange(-3, 4).double() ** 2) / 4.5)
    w = torch.outer(line, line) / torch.outer(line, line).sum()
    m_x, m_y = (w * x[0, 0]).sum(), (w * y[0, 0]).sum()
    s_x, s_y = (w * (x[0, 0] - m_x) ** 2).sum(), (w * (y[0, 0] - m_y) ** 2).sum()
    s_xy = (w * (x[0, 0] - m_x) * (y[0, 0] - m_y)).sum()
    c_1, c_2 = 0.02**2, 0.06**2
    expected = (2 * m_x * m_y + c_1) * (2 * s_xy + c_2) / ((m_x**2 + m_y**2 + c_1) * (s_x + s_y + c_2))
    assert float(ssim(x, y)) == pytest.approx(float(expected), rel=1e-9)


def test_features_tell_images_apart():
    from ornstein import data

    digits = data.load("digits").held_out
    x, label = digits.x_0[:100], digits.fields["label"][:100]
    classifier = load_classifier("digits")
    assert (feature_distance(classifier, x, x) == 0).all()
    distances = feature_distance(classifier, x[:50], x[50:])
    same = label[:50] == label[50:]
    assert distances[same].mean() < distances[~same].mean()


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        psnr(X, X[:, :1])
    with pytest.raises(ValueError, match="7 pixels or more"):
        ssim(X[..., :6], X[..., :6])
