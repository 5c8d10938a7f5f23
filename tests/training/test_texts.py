"""Data sets that carry texts, in the one training loop."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ornstein as orn
from ornstein import conditions, data, denoisers, networks, objectives, processes, spaces, training
from ornstein.data.dataset import Split
from ornstein.training.sheets import default_draw
from ornstein.training.source import Source, tokenised

TEXTS = ["red", "blue", "red blue", "", "green"]


class Reads(denoisers.ScoreDenoiser):
    """Words as their lengths."""

    fields = frozenset({"text", "label"})

    def tokenise(self, name, words):
        assert name == "text"
        return torch.tensor([[len(word), 7] for word in words]).reshape(len(words), 2)


class Made(Split):
    """Samples made when they are read, and a field too; `batch` reads nothing else."""

    texts = TEXTS

    def __init__(self):
        self.fields = {"label": torch.arange(5)}

    def __len__(self):
        return 5

    def _states(self, indices):
        return indices[:, None] * torch.ones(5)

    def batch(self, indices):
        return {"x_0": self._states(indices), "fields": {"label": indices}}


def given(split):
    return data.Dataset("made", split, split, (5,))


def reader():
    return Reads(lambda x, t, c: x, processes.RectifiedFlow(), (5,))


@pytest.mark.parametrize(
    "split", [data.TensorSplit(torch.eye(5), {"label": torch.arange(5)}, texts=TEXTS), Made()]
)
def test_texts_become_ids_once_and_stand_in_every_batch(split):
    made = tokenised(given(split), reader())
    assert made.train.texts == TEXTS and "text" not in split.fields and len(made.train) == 5
    batch = next(Source(made, 8, 0, frozenset({"text", "label"})).given(0, 1)).batch
    rows = batch["condition"]["label"].tolist()
    assert batch["condition"]["text"].tolist() == [[len(TEXTS[i]), 7] for i in rows] and len(rows) == 8
    plain = next(Source(given(split), 8, 0, frozenset({"label"})).given(0, 1)).batch
    assert torch.equal(batch["x_0"], plain["x_0"])
    assert torch.equal(made.train.x_0, split.x_0)


def test_ids_that_data_have_and_models_that_read_no_text_are_left_alone():
    ids = torch.zeros(5, 3, dtype=torch.long)
    with_ids = given(data.TensorSplit(torch.eye(5), {"text": ids}, texts=TEXTS))
    assert tokenised(with_ids, reader()).train is with_ids.train
    model = reader()
    model.fields = frozenset({"label"})
    made = given(Made())
    assert tokenised(made, model).train is made.train
    silent = dataclasses.replace(made, held_out=data.TensorSplit(torch.eye(5)))
    assert tokenised(silent, reader()).held_out is silent.held_out


def test_every_sample_has_its_text():
    with pytest.raises(ValueError, match="'x_0': 5, 'texts': 4"):
        data.TensorSplit(torch.eye(5), texts=TEXTS[:4])


def test_encoded_data_keep_their_texts():
    class Twice(spaces.Codec):
        def encode(self, x, condition=None):
            return 2 * x

    made = training.encoded(given(data.TensorSplit(torch.eye(5), texts=TEXTS)), Twice())
    assert made.train.texts == TEXTS and torch.equal(made.train.x_0, 2 * torch.eye(5))
    assert made.train.twin_texts is None

    class Twinned(Made):
        twin_texts = TEXTS[::-1]

    ids = tokenised(training.encoded(given(Twinned()), Twice()), reader()).train.fields["twin_text"]
    assert ids[:, 0].tolist() == [len(word) for word in TEXTS[::-1]]


def test_states_of_tokenised_data_are_read_without_their_conditions():
    class Costly(Made):
        def batch(self, indices):
            raise AssertionError("conditions were made")

    assert torch.equal(tokenised(given(Costly()), reader()).train.x_0, Made().x_0)


def test_sheets_are_drawn_for_the_held_out_texts(monkeypatch):
    seen = {}
    monkeypatch.setattr("ornstein.solvers.sample", lambda model, n, **options: seen.update(options, n=n))
    default_draw(given(Made()), frozenset({"text"}), 0)(reader())
    assert seen["n"] == 64 and seen["text"] == (13 * TEXTS)[:64]
    seen.clear()
    default_draw(given(Made()), frozenset({"image"}), 0)(reader())
    assert "text" not in seen


def test_a_pair_of_towers_is_learned_and_found_in_its_folder(tmp_path):
    torch.manual_seed(0)
    words = ("dark", "bright", "left", "right")
    side, tone = torch.arange(64) % 2, torch.arange(64) // 2 % 2
    x = 0.1 * torch.randn(64, 1, 8, 8)
    x[torch.arange(64), :, :, :] += (tone * 2.0 - 1)[:, None, None, None] * torch.stack(
        [torch.arange(8) < 4, torch.arange(8) >= 4]
    )[side][:, None, None, :]
    texts = [f"{words[t]} {words[2 + s]}" for s, t in zip(side.tolist(), tone.tolist(), strict=True)]
    split = data.TensorSplit(x, texts=texts)
    tokeniser = conditions.Tokeniser(words, 4)
    tower = networks.TextTransformer(tokeniser.size, 4, width=16, depth=1, heads=2)
    encoder = conditions.TextEncoder(tokeniser, tower)
    model = denoisers.Matcher(
        networks.TextImage(encoder, networks.Encoder(1, 16, width=4, levels=2, depth=1))
    )
    orn.fit(
        model, data.Dataset("sides", split, split, (1, 8, 8)), objectives.TextImageMatching(), steps=60, batch=16,
        learning_rate=1e-2, ema=0.9, out=tmp_path, progress=False, evaluate_every=0, sample_every=0, warmup=5,
    )  # fmt: skip
    pair = orn.load(tmp_path).pair
    all_four = ["dark left", "bright left", "dark right", "bright right"]
    best = pair(x, pair.text.tokenise(all_four)).argmax(1)
    assert [all_four[i] for i in best.tolist()] == texts
