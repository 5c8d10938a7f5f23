from __future__ import annotations

import pytest
import torch

from ornstein.core import Condition


def test_users_write_numbers_lists_with_gaps_and_tensors():
    made = Condition.make(3, {"label": [7, None, 2], "weight": 0.5}, {"label", "weight"})
    assert made["label"].tolist() == [7, 0, 2] and made.present["label"].tolist() == [True, False, True]
    assert made["weight"].tolist() == [0.5] * 3 and made.present["weight"].all()


def test_a_field_nobody_declares_is_an_error_with_the_nearest_name():
    with pytest.raises(TypeError, match=r"unknown condition field 'labl'\. Did you mean 'label'"):
        Condition.make(1, {"labl": 1}, {"label", "text"})
    with pytest.raises(ValueError, match="label: 2 rows given for 3 samples"):
        Condition.make(3, {"label": [1, 2]}, {"label"})


def test_fields_are_dropped_one_by_one_and_rows_travel_with_their_masks():
    made = Condition({"a": torch.arange(3), "b": torch.rand(3, 2)})
    null = made.null("a")
    assert not null.present["a"].any() and null.present["b"].all() and made.present["a"].all()
    assert null.replace(a=torch.ones(3)).present["a"].all()
    index = torch.tensor([2, 0])
    assert made.rows(index)["a"].tolist() == [2, 0]
    some = made.dropped(torch.tensor([True, False, True]))
    assert some.rows(index).present["b"].tolist() == [False, False]


def test_joining_fills_missing_fields_with_absence():
    joined = Condition.cat([Condition({"a": torch.ones(2)}), Condition({"b": torch.ones(1, 4)})])
    assert joined.present["a"].tolist() == [True, True, False]
    assert joined.present["b"].tolist() == [False, False, True] and joined["b"].shape == (3, 4)


def test_joining_pads_tokens_that_have_a_mask():
    def told(length, rows):
        tokens = torch.randn(rows, length, 4)
        return Condition(
            {"text": {"tokens": tokens, "mask": torch.ones(rows, length) > 0, "pooled": torch.rand(rows, 3)}}
        )

    short, long = told(2, 1), told(5, 2)
    for given in ([short, long, Condition({"a": torch.ones(1)})], [long, short]):
        joined = Condition.cat(given)["text"]
        row = 0
        for one in given:
            if "text" in one:
                tokens = one["text"]["tokens"]
                rows, length = slice(row, row + len(tokens)), tokens.shape[1]
                assert torch.equal(joined["tokens"][rows, :length], tokens)
                assert joined["mask"][rows, :length].all() and not joined["mask"][rows, length:].any()
                assert not joined["tokens"][rows, length:].any()
                assert torch.equal(joined["pooled"][rows], one["text"]["pooled"])
                row += len(tokens)
        assert joined["mask"].shape[1] == 5 and joined["mask"].dtype == torch.bool


def test_what_cannot_be_joined_is_named():
    tokens = torch.zeros(1, 3, 4)
    with_mask = {"tokens": tokens, "mask": torch.ones(1, 3) > 0}
    for other in (torch.zeros(1, 2, 4), {"tokens": tokens}, {**with_mask, "tokens": torch.zeros(1, 3, 5)}):
        first = tokens if isinstance(other, torch.Tensor) else with_mask
        with pytest.raises(
            ValueError, match=r"text: conditions with rows of shapes .*\(3, 4\).* cannot be joined"
        ):
            Condition.cat([Condition({"text": first}), Condition({"text": other})])
    with pytest.raises(ValueError, match="an empty condition has no rows"):
        Condition.cat([Condition(), Condition({"text": tokens})])


def test_staged_fields_are_resolved_at_a_time():
    class Staged:
        def at(self, t):
            return torch.full((2,), 1.0 if t > 0.5 else 0.0)

    made = Condition({"a": torch.ones(2), "s": Staged()}, {"a": torch.ones(2) > 0, "s": torch.ones(2) > 0})
    assert made.at(0.9)["s"].tolist() == [1.0, 1.0] and made.at(0.1)["s"].tolist() == [0.0, 0.0]


def test_fields_are_taken_away_with_their_masks():
    made = Condition({"a": torch.arange(3), "b": torch.rand(3, 2)}, {"a": torch.arange(3) > 0})
    rest = made.without("b", "c")
    assert set(rest) == set(rest.present) == {"a"}
    assert rest.present["a"].tolist() == [False, True, True] and set(made) == {"a", "b"}
    assert not made.without("a", "b") and isinstance(made.without("a", "b"), Condition)


def test_words_become_ids_by_the_models_tokeniser():
    def tokenise(name, words):
        return torch.tensor([[len(word), len(name)] for word in words])

    def made(given):
        return Condition.make(3, {"text": given}, {"text"}, tokenise=tokenise)

    assert made("red")["text"].tolist() == [[3, 4]] * 3 and made("red").present["text"].all()
    some = made(["red", None, "a"])
    assert some["text"].tolist() == [[3, 4], [0, 4], [1, 4]]
    assert some.present["text"].tolist() == [True, False, True]
    ids = torch.arange(6).reshape(3, 2)
    assert made(ids)["text"] is ids
    with pytest.raises(ValueError, match="text: 2 rows given for 3 samples"):
        made(["red", "a"])
    with pytest.raises(ValueError, match="text: expected numbers or a tensor"):
        made(["red", 3, "a"])
    with pytest.raises(ValueError, match="text: expected numbers or a tensor"):
        Condition.make(3, {"text": "red"}, {"text"})


def test_a_field_that_is_absent_in_every_row_is_no_field():
    def tokenise(name, words):
        raise AssertionError

    for fields in ({"text": [None, None]}, {"label": (None, None)}):
        assert not Condition.make(2, fields, {"text", "label"}, tokenise=tokenise)
    with pytest.raises(ValueError, match="label: 1 rows given for 2 samples"):
        Condition.make(2, {"label": [None]}, {"label"})


def test_every_leaf_of_features_has_the_batchs_rows_and_its_device():
    tokens, mask = torch.randn(2, 3, 4), torch.ones(2, 3) > 0
    made = Condition.make(2, {"text": {"tokens": tokens.long(), "mask": mask}}, {"text"}, "meta")
    assert {v.device.type for v in made["text"].values()} == {"meta"} == {made.present["text"].device.type}
    for features in ({"tokens": tokens, "mask": mask[:1]}, {"tokens": tokens, "mask": torch.ones(1, 3)}):
        with pytest.raises(
            ValueError, match=r"text\['mask'\]: 1 rows given for 2 samples; expected one a sample"
        ):
            Condition.make(2, {"text": features}, {"text"})
    with pytest.raises(ValueError, match=r"text\['tokens'\]: holds NaN"):
        Condition.make(2, {"text": {"tokens": tokens / 0 * 0, "mask": mask}}, {"text"})
    with pytest.raises(ValueError, match=r"a\['b'\]\['c'\]: 3 rows given for 2 samples"):
        Condition.make(2, {"a": {"b": {"c": [1, 2, 3]}}}, {"a"})
    nested = Condition.make(2, {"a": {"b": {"c": [1, 2]}}}, {"a"})
    assert nested["a"]["b"]["c"].tolist() == [1, 2]
