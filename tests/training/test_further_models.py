"""Training with its defaults of models that need more than a count and labels to be sampled, or that were changed."""

from __future__ import annotations

import pytest
import torch

import ornstein as orn
from ornstein import adapters, denoisers, networks, objectives, processes, solvers
from ornstein.core import Sampler, TimeGrid
from ornstein.training import fit

DRAWN = {"steps": 2, "batch": 4, "evaluate_every": 0, "sample_every": 1, "progress": False}


def unet(**options) -> networks.UNet:
    return networks.UNet(1, width=8, multipliers=(1, 2), **options)


def test_blocks_are_drawn_one_after_the_other_also_under_a_guide(tmp_path):
    network = networks.BlockwiseTransformer(1, (8, 8), grid=2, width=16, depth=1, heads=2, labels=10)
    model = denoisers.Blockwise(network, processes.RectifiedFlow(), scale=0.75)
    times = objectives.PerBlock(objectives.UniformTime(), (None, 4, 4))
    run = fit(
        model,
        "digits",
        objectives.OwnCondition(objectives.Denoising(times=times), "clean"),
        out=tmp_path,
        **DRAWN,
    )
    assert len(list((run.folder / "samples").iterdir())) == 2
    guided = orn.guides.ClassifierFree(2.0)(run.denoiser)
    own = solvers.recommended(model.process)
    rows = solvers.block_by_block(TimeGrid.log_snr(3, model.process), guided.blocks, own)
    assert torch.equal(
        orn.sample(guided, 2, steps=3, label=1), Sampler(own, grid=rows)(guided, 2, seed=0, label=1)
    )


def test_what_only_the_objective_reads_is_not_asked_for_when_drawing(tmp_path):
    network = networks.MultiHead(unet(), {"label": networks.PooledHead(16, 10)})
    process, kinds = processes.VariancePreserving(), {"label": "categorical"}
    model = denoisers.MultiTask(network, process, "edm", (1, 8, 8), 0.5, kinds)
    run = fit(model, "digits", objectives.Heads({"label": 0.1}), out=tmp_path, **DRAWN)
    assert len(list((run.folder / "samples").iterdir())) == 2


def test_a_model_that_cannot_be_drawn_from_a_count_is_trained_all_the_same(tmp_path):
    process = processes.Shifted(processes.VariancePreserving())
    model = denoisers.NetworkDenoiser(networks.UNet(1, width=8, multipliers=(1, 2)), process, "edm")
    objective = objectives.OwnCondition(objectives.Denoising(), "anchor")
    with pytest.warns(UserWarning, match=r"no sheet of samples: .*anchor.*give fit a draw="):
        run = fit(model, "digits", objective, out=tmp_path, **DRAWN)
    assert orn.load(run.folder).process.spec() == process.spec()


def test_an_adapted_network_is_not_saved_as_what_it_was(tmp_path):
    model = denoisers.NetworkDenoiser(unet(attention=(1,)), processes.RectifiedFlow(), shape=(1, 8, 8))
    model.save_pretrained(tmp_path / "base")
    adapters.adapt(model.network, ("qkv",), 2)
    with pytest.raises(ValueError, match="low-rank adapters, put into it after it was made"):
        model.save_pretrained(tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()


def test_fine_tuning_under_a_coupling_marks_the_model_that_is_kept(tmp_path):
    model = orn.load("digits").requires_grad_(True)
    assert model.estimates == "posterior"
    coupled = objectives.Denoising(coupling=objectives.OptimalAssignment())
    run = fit(model, "digits", coupled, out=tmp_path, **{**DRAWN, "sample_every": 0})
    assert {model.estimates, run.denoiser.estimates, orn.load(run.folder).estimates} == {"velocity"}
    with pytest.raises(ValueError, match=r"others: .* estimates a velocity"):
        orn.guides.Superposition([run.denoiser])(orn.load("digits"))
