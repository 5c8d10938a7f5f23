from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
import yaml
from torch import nn

import ornstein as orn
from ornstein import data, denoisers, networks, objectives, processes
from ornstein.core import Losses, Objective
from ornstein.data import Dataset, TensorSplit
from ornstein.denoisers.files import load_model, load_weights
from ornstein.training import Run, fit

QUIET = {"progress": False, "sample_every": 0, "evaluate_every": 0}


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.parameters(), b.parameters()))


# ------------------------------------------------------------------------------------- what it does


def test_it_learns_and_leaves_a_run_folder(tmp_path, sequences, denoiser) -> None:
    before = torch.random.get_rng_state()
    run = fit(
        denoiser, sequences, steps=60, batch=16, learning_rate=5e-3, out=tmp_path / "run", report_every=20,
        evaluate_every=30, sample_every=60, checkpoint_every=30, ema=0.9, progress=False,
    )  # fmt: skip
    assert torch.equal(torch.random.get_rng_state(), before)
    losses = [m["loss"] for m in run.metrics if "loss" in m]
    assert losses[-1] < 0.8 * losses[0]
    held_out = [m for m in run.metrics if "held_out_loss" in m]
    assert [m["step"] for m in held_out] == [30, 60]
    assert held_out[1]["held_out_loss"] < held_out[0]["held_out_loss"]
    assert held_out[0]["held_out_loss"] == pytest.approx(sum(held_out[0]["held_out_levels"]) / 8)
    assert [t["step"] for t in run.timing] == [20, 40, 60]
    names = {p.name for p in run.folder.iterdir()} - {".lock"}
    assert names == {"config.yaml", "metrics.jsonl", "timing.jsonl", "checkpoints", "samples", "model"}
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["training"]["steps"] == 60
    assert config["denoiser"] == json.loads(json.dumps(denoiser.spec()))
    assert len(config["held_out"]["edges"]) == 9


def test_the_folder_gives_back_both_weights(tmp_path, sequences, denoiser) -> None:
    run = fit(denoiser, sequences, steps=12, batch=8, out=tmp_path, ema=0.5, **QUIET)
    assert equal(load_model(tmp_path, "raw"), denoiser)
    assert equal(load_model(tmp_path / "model"), run.denoiser)
    assert equal(Run(tmp_path).denoiser, run.denoiser)
    assert not equal(run.denoiser, denoiser)
    assert not run.denoiser.training
    assert not denoiser.training


def test_without_an_average_the_model_is_the_denoiser(tmp_path, sequences, denoiser) -> None:
    run = fit(denoiser, sequences, steps=4, batch=8, out=tmp_path, ema=None, **QUIET)
    assert run.denoiser is denoiser
    assert equal(load_model(tmp_path), denoiser)
    assert equal(load_model(tmp_path, "raw"), denoiser)


def test_the_average_equals_its_closed_form(tmp_path, sequences, denoiser) -> None:
    """Over the weights of every step, read from checkpoints."""
    from ornstein.training import Checkpoints

    fit(denoiser, sequences, steps=10, batch=8, out=tmp_path, ema=0.7, checkpoint_every=1, keep=99, **QUIET)
    stored = [Checkpoints(tmp_path / "checkpoints")._read(k)[1] for k in range(11)]
    name = "denoiser.network.stem.weight"
    expected = stored[0][f"lesson.{name}"].double()
    for n in range(1, 11):
        d = min(0.7, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * stored[n][f"lesson.{name}"].double()
    found = stored[10][f"average.{name.removeprefix('denoiser.')}"].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(stored[0][f"lesson.{name}"], stored[10][f"lesson.{name}"])


def test_it_is_one_step_of_adamw_on_the_objective(tmp_path, sequences, denoiser) -> None:
    """The loop against the same step written out."""
    import copy

    from ornstein.training.source import Source

    mine, objective = copy.deepcopy(denoiser), objectives.Denoising()
    fit(
        denoiser,
        sequences,
        objective,
        steps=1,
        batch=8,
        clip=0.1,
        weight_decay=0.3,
        seed=4,
        out=tmp_path,
        **QUIET,
    )
    given = next(Source(sequences, 8, 4, frozenset({"label"})).given(0, 1))
    optimizer = torch.optim.AdamW(mine.parameters(), lr=1e-3, weight_decay=0.3)
    objective(mine, given.batch, given.noise).total.backward()
    norm = nn.utils.clip_grad_norm_(mine.parameters(), 0.1)
    optimizer.step()
    assert norm > 0.1
    for ours, theirs in zip(denoiser.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert Run(tmp_path).metrics[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)


def test_samples_and_noise_are_functions_of_seed_step_and_row(sequences) -> None:
    from ornstein.training.source import Source

    whole = Source(sequences, 8, 3, frozenset({"label"}))
    halves = [Source(sequences, 8, 3, frozenset({"label"}), rank=r, processes=2) for r in range(2)]
    for given, *parts in zip(whole.given(5, 8), *(h.given(5, 8) for h in halves), strict=True):
        x = torch.cat([p.batch["x_0"] for p in parts])
        assert torch.equal(x, given.batch["x_0"])
        drawn = torch.cat([p.noise.normal(p.batch["x_0"]) for p in parts])
        assert torch.equal(drawn, given.noise.normal(x))
    with pytest.raises(ValueError, match="shared equally by 3"):
        Source(sequences, 8, 3, processes=3)


def test_workers_that_read_ahead_change_nothing(tmp_path, train) -> None:
    short = {"steps": 8, "sample_every": 0, "evaluate_every": 0}
    alone = train(tmp_path / "alone", **short)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks of a process with threads
        helped = train(tmp_path / "helped", workers=2, **short)
    assert equal(alone.denoiser, helped.denoiser)


def test_bf16_computes_in_bf16_and_keeps_weights_in_float32(tmp_path, sequences, denoiser) -> None:
    seen = set()
    denoiser.network.stem.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    run = fit(denoiser, sequences, steps=4, batch=8, out=tmp_path, precision="bf16", **QUIET)
    assert torch.bfloat16 in seen
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    assert math.isfinite(run.metrics[-1]["loss"])


def test_a_denoiser_without_a_shape_takes_that_of_the_data(tmp_path, sequences) -> None:
    network = networks.UNet(2, dims=1, width=8, multipliers=(1,))
    made = denoisers.NetworkDenoiser(network, processes.RectifiedFlow())
    fit(made, sequences, steps=1, batch=4, out=tmp_path, **QUIET)
    assert made.shape == (2, 8)
    assert load_model(tmp_path).shape == (2, 8)


def test_named_data_and_a_default_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = networks.UNet(1, width=8, multipliers=(1,), labels=10)
    made = denoisers.NetworkDenoiser(network, processes.RectifiedFlow())
    run = orn.fit(made, "digits", steps=2, batch=4, progress=False)
    assert str(run.folder) == "runs/digits"
    assert (tmp_path / "runs/digits/samples/step-00000002.png").stat().st_size > 1000


def test_words_train_and_are_drawn(tmp_path) -> None:
    words = data.words(length=6)
    k = words.categories
    network = networks.SequenceTransformer(k + 1, k, 6, width=16, depth=1, heads=2)
    made = denoisers.NetworkDenoiser(network, processes.Absorbing(k))
    run = fit(made, words, steps=3, batch=4, out=tmp_path, report_every=1, progress=False)
    assert len(run.metrics[-1]["held_out_levels"]) == 8
    assert len((tmp_path / "samples/step-00000003.txt").read_text().splitlines()) == 8


def test_trees_train_and_are_drawn(tmp_path) -> None:
    joint = data.digits_joint()
    process = processes.ProductProcess({"image": processes.RectifiedFlow(), "label": processes.Absorbing(10)})
    network = networks.JointUNet(1, 10, width=8, multipliers=(1,))
    run = fit(
        denoisers.NetworkDenoiser(network, process), joint, steps=3, batch=4, out=tmp_path, progress=False
    )
    assert {"loss/image", "loss/label"} <= set(run.metrics[-1])
    made = {p.name for p in (tmp_path / "samples").iterdir()}
    assert made == {"step-00000003-image.png", "step-00000003-label.txt"}
    assert load_model(tmp_path).shape == {"image": (1, 8, 8), "label": ()}


def test_named_losses_are_logged_each(tmp_path, sequences, denoiser) -> None:
    class Two(Objective):
        def forward(self, model, batch, noise) -> Losses:
            loss = objectives.Denoising()(model, batch, noise).sample
            return Losses(3 * loss, {"one": loss, "two": 2 * loss}, {})

    run = fit(denoiser, sequences, Two(), steps=2, batch=8, report_every=2, out=tmp_path, **QUIET)
    record = run.metrics[0]
    assert record["loss/two"] == pytest.approx(2 * record["loss/one"], rel=1e-5)
    assert record["loss"] == pytest.approx(3 * record["loss/one"], rel=1e-5)


def test_references_are_neither_trained_nor_saved_but_parameters_of_an_objective_are(
    tmp_path, sequences, denoiser
) -> None:
    class Distance(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Linear(2, 2)
            self.head = nn.Parameter(torch.zeros(()))
            self.references = (self.teacher,)
            self.modes = set()

        def forward(self, model, batch, noise) -> Losses:
            losses = objectives.Denoising()(model, batch, noise)
            self.modes.add(self.teacher.training)
            return Losses(losses.sample + (self.head - self.teacher.weight.sum()) ** 2, {}, {})

    objective = Distance()
    teacher = weights(objective.teacher)
    fit(denoiser, sequences, objective, steps=6, batch=8, out=tmp_path, checkpoint_every=3, **QUIET)
    assert all(map(torch.equal, teacher, objective.teacher.parameters()))
    assert objective.modes == {False}
    assert objective.head.item() != 0.0
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "checkpoints/step-00000006/state.safetensors")
    assert "lesson.objective.head" in kept
    assert not [k for k in kept if "teacher" in k]


def test_tensorboard_has_the_metrics(tmp_path, sequences, denoiser) -> None:
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = {**QUIET, "evaluate_every": 4, "report_every": 2}
    run = fit(denoiser, sequences, steps=4, batch=8, out=tmp_path, trackers="tensorboard", **options)
    events = event_file.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [2, 4]
    assert events.Scalars("loss")[1].value == pytest.approx(run.metrics[1]["loss"], rel=1e-6)
    assert "held_out_levels/7" in events.Tags()["scalars"]


def test_the_callback_sees_every_line(tmp_path, sequences, denoiser) -> None:
    seen = []
    run = fit(
        denoiser, sequences, steps=6, batch=8, out=tmp_path, report_every=2, callback=seen.append, **QUIET
    )
    assert seen == run.metrics
    assert [m["step"] for m in seen] == [2, 4, 6]


def test_what_draw_returns_is_shown(tmp_path, sequences, denoiser) -> None:
    options = {**QUIET, "sample_every": 1}
    fit(denoiser, sequences, steps=1, batch=8, out=tmp_path, draw=lambda m: torch.zeros(2, 2, 8), **options)
    assert (tmp_path / "samples/step-00000001.txt").read_text().count("0.0") == 32


# --------------------------------------------------------------------------- what is not finite


class Poisoned(Objective):
    """Denoising, with a loss or a gradient that is not finite at the steps of a list."""

    def __init__(self, bad: set[int], how: str) -> None:
        super().__init__()
        self.bad, self.how, self.calls = bad, how, -2  # the first call is the trial before any work

    def forward(self, model, batch, noise) -> Losses:
        self.calls += 1
        sample = objectives.Denoising()(model, batch, noise).sample
        if self.calls in self.bad:
            zero = 0 * model.network.stem.weight.sum()
            sample = sample * math.nan if self.how == "loss" else sample + zero.sqrt()
            if self.how == "constant":
                sample = sample.detach() * 0 + zero + math.inf
        return Losses(sample, {}, {})


@pytest.mark.parametrize("how", ["loss", "gradient", "constant"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, sequences, denoiser, how) -> None:
    from ornstein.training import Checkpoints

    options = {**QUIET, "report_every": 1, "checkpoint_every": 1, "keep": 99}
    run = fit(denoiser, sequences, Poisoned({2, 4}, how), steps=6, batch=8, out=tmp_path, **options)
    assert [m["skipped"] for m in run.metrics] == [0, 0, 1, 1, 2, 2]
    assert [m["loss"] is None for m in run.metrics] == [False, False, True, False, True, False]
    before, after, later = (Checkpoints(tmp_path / "checkpoints")._read(k)[1] for k in (2, 3, 4))
    own = [k for k in before if k.startswith(("lesson.", "optimizer."))]
    assert all(torch.equal(before[k], after[k]) for k in own)
    assert not all(torch.equal(after[k], later[k]) for k in own)
    assert all(p.isfinite().all() for p in run.denoiser.parameters())


def test_many_in_a_row_end_the_run_and_keep_the_last_checkpoint(tmp_path, sequences, denoiser) -> None:
    options = {**QUIET, "checkpoint_every": 4, "patience": 5}
    with pytest.raises(FloatingPointError, match=r"steps 7 to 15 .* not finite.*learning_rate"):
        fit(
            denoiser,
            sequences,
            Poisoned(set(range(6, 99)), "loss"),
            steps=40,
            batch=8,
            out=tmp_path,
            **options,
        )
    from ornstein.training import Checkpoints

    step, tensors, _ = Checkpoints(tmp_path / "checkpoints").latest()
    assert step == 12
    assert all(v.isfinite().all() for v in tensors.values())


# ------------------------------------------------------------------------------- what it refuses


def dataset(x: torch.Tensor, **options) -> Dataset:
    return Dataset("made", TensorSplit(x), TensorSplit(x[:0]), tuple(x.shape[1:]), **options)


def flow(**options) -> denoisers.NetworkDenoiser:
    network = networks.UNet(2, dims=1, width=8, multipliers=(1,), labels=options.pop("labels", None))
    return denoisers.NetworkDenoiser(network, processes.RectifiedFlow(), **options)


GOOD = torch.zeros(4, 2, 8)
WRONG = {
    "no denoiser": (lambda: (nn.Linear(1, 1), dataset(GOOD), {}), TypeError, "denoiser: expected"),
    "nothing to train": (
        lambda: (
            denoisers.GaussianDenoiser(torch.zeros(2, 8), 1.0, processes.RectifiedFlow()),
            dataset(GOOD),
            {},
        ),
        ValueError,
        "no parameter to train",
    ),
    "no data": (lambda: (flow(), 3, {}), TypeError, "data: expected a name"),
    "unknown data": (lambda: (flow(), "digitz", {}), ValueError, "Did you mean 'digits'"),
    "nan in the data": (lambda: (flow(), dataset(GOOD * math.nan), {}), ValueError, "NaN"),
    "another shape": (lambda: (flow(shape=(2, 4)), dataset(GOOD), {}), ValueError, r"\(2, 8\).*\(2, 4\)"),
    "channels": (lambda: (flow(), dataset(torch.zeros(4, 3, 8)), {}), ValueError, "cannot be evaluated"),
    "ids for a continuous process": (
        lambda: (flow(), dataset(torch.zeros(4, 8, dtype=torch.long), categories=5), {}),
        ValueError,
        "has 5 categories, the process RectifiedFlow has none",
    ),
    "labels beyond the network's": (
        lambda: (
            flow(labels=3),
            Dataset("made", TensorSplit(GOOD, {"label": torch.arange(4)}), TensorSplit(GOOD), (2, 8)),
            {},
        ),
        ValueError,
        "label: expected 0 to 2",
    ),
    "an objective's name": (lambda: (flow(), dataset(GOOD), {"objective": "mse"}), TypeError, "objective: "),
    "steps": (lambda: (flow(), dataset(GOOD), {"steps": 0}), ValueError, "steps: expected"),
    "precision": (lambda: (flow(), dataset(GOOD), {"precision": "bf61"}), ValueError, "Did you mean 'bf16'"),
    "trackers": (lambda: (flow(), dataset(GOOD), {"trackers": "tensorbord"}), ValueError, "Did you mean"),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_refuses_before_any_work(case, tmp_path) -> None:
    made, error, text = WRONG[case]
    denoiser, samples, options = made()
    with pytest.raises(error, match=text):
        fit(denoiser, samples, **{"steps": 1, "batch": 2, "out": tmp_path / "run", **QUIET, **options})
    assert not list(tmp_path.iterdir())


class Own(nn.Module):
    """A network that is not ornstein's."""

    fields = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x, level, condition=None):
        return self.layer(x)


def test_a_network_of_ones_own_trains_and_its_weights_are_read_by_code(tmp_path, sequences) -> None:
    made = denoisers.NetworkDenoiser(Own(), processes.RectifiedFlow(), shape=(2, 8))
    with pytest.warns(UserWarning, match="without a config that rebuilds"):
        run = fit(made, sequences, steps=3, batch=8, out=tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"cannot be rebuilt.*Own"):
        load_model(tmp_path)
    again = denoisers.NetworkDenoiser(Own(), processes.RectifiedFlow(), shape=(2, 8))
    assert equal(load_weights(again, tmp_path), run.denoiser)
    assert equal(load_weights(again, tmp_path, "raw"), made)


def test_a_full_disk_ends_the_run_with_its_last_checkpoint(
    tmp_path, sequences, denoiser, monkeypatch
) -> None:
    import errno
    import os

    options = {**QUIET, "report_every": 2, "checkpoint_every": 2}

    def fill(record: dict) -> None:
        def fsync(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if record["step"] == 4:
            monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(OSError, match="No space left"):
        fit(denoiser, sequences, steps=6, batch=8, out=tmp_path, callback=fill, **options)
    monkeypatch.undo()
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000000", "step-00000002"]
    run = fit(denoiser, sequences, steps=6, batch=8, out=tmp_path, **options)
    assert [m["step"] for m in run.metrics] == [2, 4, 6]
