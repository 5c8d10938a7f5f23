from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from ornstein import objectives, processes
from ornstein.core import Condition, Keyed
from ornstein.training.evaluation import BINS, SEED, HeldOut, level_edges


def test_an_affine_process_is_divided_by_log_snr_from_noisy_to_clean() -> None:
    clock, edges = level_edges(processes.RectifiedFlow())
    assert clock == "half log-SNR"
    assert edges[0] == pytest.approx(-math.log(80))
    assert edges[-1] == pytest.approx(-math.log(0.01))
    steps = [b - a for a, b in pairwise(edges)]
    assert steps == pytest.approx([steps[0]] * BINS)
    cosine = processes.VariancePreserving("cosine")
    assert level_edges(cosine)[1][0] == pytest.approx(max(cosine.half_log_snr(1.0), -math.log(80)))


@pytest.mark.parametrize(
    "process",
    [
        processes.Absorbing(5),
        processes.ProductProcess({"a": processes.RectifiedFlow(), "b": processes.Absorbing(3)}),
    ],
)
def test_others_are_divided_by_time(process) -> None:
    assert level_edges(process) == ("time", [1 - i / 8 for i in range(9)])


def test_it_is_the_objective_at_times_spread_over_each_bin(sequences, denoiser) -> None:
    objective, process = objectives.Denoising(), denoiser.process
    fields = frozenset({"label"})
    held_out = HeldOut(sequences.held_out, objective, process, fields, torch.device("cpu"), batch=3)
    losses = held_out.losses(denoiser)
    assert losses == held_out.losses(denoiser)
    x, label = sequences.held_out.x_0, sequences.held_out.fields["label"]
    for b, (low, high) in enumerate(pairwise(held_out.edges)):
        t = process.time_at(low + (high - low) * (torch.arange(10).double() + 0.5) / 10)
        batch = {"x_0": x, "condition": Condition({"label": label}), "time": t}
        expected = objective(denoiser, batch, Keyed(SEED, 10).fold("held-out").fold(b)).sample.mean()
        assert losses[b] == pytest.approx(expected.item(), rel=1e-5)


def test_a_large_split_is_thinned_evenly(sequences, denoiser) -> None:
    class Large:
        def __len__(self) -> int:
            return 5120

    held_out = HeldOut(Large(), None, denoiser.process, frozenset(), torch.device("cpu"), 8)
    assert held_out.chosen.tolist() == list(range(0, 5120, 10))
