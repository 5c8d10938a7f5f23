"""Accuracy, memorisation and words."""

import math
import string

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

from ornstein import metrics


def normal(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("hits, n", [(0, 10), (3, 10), (10, 10), (950, 1000)])
def test_shares_have_wilson_intervals(hits, n):
    exact = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
    found = metrics.wilson(hits, n)
    assert found == pytest.approx((hits / n, exact.low, exact.high, n), abs=1e-12)


def test_impossible_shares_are_refused():
    for hits, n in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="expected 0 <= hits <= n"):
            metrics.wilson(hits, n)


class Sign(torch.nn.Module):
    """Class 1 where the mean is positive."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.dropout = torch.nn.Dropout(0.9)

    def features(self, x):
        return x.flatten(1)

    def forward(self, x):
        mean = self.dropout(x.flatten(1).mean(1, keepdim=True)) * self.weight
        return torch.cat([-mean, mean], 1)


def test_class_accuracy_counts():
    classifier = Sign()
    x = torch.tensor([1.0, -1.0, 2.0, 3.0]).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    found = metrics.class_accuracy(classifier, x, torch.tensor([1, 0, 0, 1]))
    assert (found.value, found.n) == (0.75, 4)
    assert classifier.training  # as it was
    assert torch.equal(metrics.classifier_features(classifier, x), x.flatten(1))
    large = x.repeat(400, 1, 1, 1)
    assert metrics.predicted_classes(classifier, large).tolist() == [1, 0, 1, 1] * 400
    with pytest.raises(ValueError, match=r"labels: expected shape \(4,\), got \(3,\)"):
        metrics.class_accuracy(classifier, x, torch.zeros(3))
    with pytest.raises(ValueError, match="at least one sample"):
        metrics.predicted_classes(classifier, x[:0])


def test_copies_are_found():
    train, held_out = normal(400, 5), normal(300, 5, seed=1)
    report = metrics.nearest_training_distance(train[:100] + 1e-3, train, held_out)
    assert report.duplicates == 100
    assert report.closer.value == 1
    assert report.ratio.high < 0.01
    assert torch.allclose(report.samples, torch.full((100,), 1e-3 * math.sqrt(5)).double(), rtol=1e-3)


def test_new_data_are_not_copies():
    report = metrics.nearest_training_distance(normal(500, 5, seed=2), normal(400, 5), normal(500, 5, seed=1))
    assert report.duplicates == 0
    assert report.ratio.low < 1 < report.ratio.high
    assert report.closer.low < 0.01 < report.closer.high
    assert "duplicates: 0" in str(report)


def test_nearest_distances_and_ratio_are_exact():
    train = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    x = torch.tensor([[3.0, 4.0], [10.0, 1.0], [0.0, 2.0]])
    held_out = torch.tensor([[0.0, 4.0], [10.0, 8.0], [6.0, 0.0]])
    report = metrics.nearest_training_distance(x, train, held_out)
    assert report.samples.tolist() == [5, 1, 2]
    assert report.held_out.tolist() == [4, 8, 4]
    assert report.ratio.value == 0.5
    assert metrics.nearest_training_distance(x, train, held_out, tolerance=2).duplicates == 2


def test_memorisation_needs_one_shape():
    x = normal(4, 2)
    with pytest.raises(ValueError, match=r"one event shape, got \(2,\), \(3,\), \(2,\)"):
        metrics.nearest_training_distance(x, normal(4, 3), x)


def test_words_are_counted():
    strings = ["cat", "cat", "cow", "dxg", "dog", "a_b"]
    score = metrics.word_score(strings, train=["cat", "dog", "hen"], held_out=["cow", "cat"])
    assert score.valid.value == 4 / 6
    assert score.known.value == 3 / 6
    assert score.novel.value == 1 / 6  # a word on both lists was seen
    assert score.unique == 5 / 6
    assert score.valid.n == 6
    assert "novel words: 0.1667" in str(score)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_divergence_is_that_of_scipy(order):
    strings, words = ["aba", "ab", "b"], ["abb", "ba"]

    def grams(texts):
        marked = ["^" * (order - 1) + text + "$" for text in texts]
        return [t[i : i + order] for t in marked for i in range(len(t) - order + 1)]

    names = sorted({*grams(strings), *grams(words)})
    p, q = ([grams(texts).count(name) for name in names] for texts in (strings, words))
    exact = scipy.spatial.distance.jensenshannon(p, q, base=2)
    found = metrics.word_score(strings, [], words, order=order).divergence
    assert found.value == pytest.approx(exact, rel=1e-12)
    assert found.low <= found.value <= found.high


def test_divergence_orders_strings_by_likeness():
    from ornstein import data

    words = data.load("words")
    train, held_out = (words.decode(split.x_0) for split in (words.train, words.held_out))
    rng = np.random.default_rng(0)
    real = list(rng.choice(train, 500, replace=False))
    shuffled = ["".join(rng.permutation(list(word))) for word in real]
    random = ["".join(rng.choice(list(string.ascii_lowercase), len(word))) for word in real]
    scores = [metrics.word_score(s, train, held_out) for s in (real, shuffled, random)]
    highs, lows = ([getattr(s.divergence, end) for s in scores] for end in ("high", "low"))
    assert highs[0] < lows[1]
    assert highs[1] < lows[2]
    assert scores[0].valid.value == 1
    assert scores[0].novel.value == 0
    assert metrics.word_score(held_out, train, held_out).novel.value == 1


def test_equal_words_have_no_divergence():
    words = ["one", "two", "three"]
    assert metrics.word_score(words, [], words).divergence.value == pytest.approx(0, abs=1e-7)
    assert metrics.word_score(["xx", "yy"], [], ["a"], 1).divergence.value < 1  # all end in "$"


def test_bad_words_are_refused():
    with pytest.raises(ValueError, match="strings: expected at least 2, got 1"):
        metrics.word_score(["a"], ["a"], ["b"])
    with pytest.raises(ValueError, match="held_out: expected at least one word"):
        metrics.word_score(["a", "b"], ["a"], [])
    with pytest.raises(ValueError, match="order: expected at least 1"):
        metrics.word_score(["a", "b"], ["a"], ["b"], order=0)
