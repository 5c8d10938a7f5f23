"""Inputs on another device, as tensors that refuse to meet those of this one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ornstein.core import tree_map
from ornstein.data.scenes import Scenes, World, draw_scenes, render
from ornstein.metrics import (
    attribute_entropy,
    attribute_shift,
    bias_report,
    diversity,
    edit_score,
    edited_mask,
    identity_score,
    layout_iou,
    permuted_edits,
    permuted_layout,
    permuted_score,
    position_recall,
    reading_error,
    retrieval,
    scene_score,
    scenes_edits,
    told_apart,
)
from ornstein.metrics.scenes import mean_estimate, names_unseen, reading


class Elsewhere(Tensor):
    """Raises where it meets a plain tensor, or NumPy; `cpu()` and `to("cpu")` bring it here. It may be indexed by
    plain tensors, as tensors of any device by those of the CPU.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        met = args[:1] if func is Tensor.__getitem__ else (args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.cpu or (func is Tensor.to and args[1] == "cpu"):
                return func(args[0].as_subclass(Tensor), *args[1:], **(kwargs or {}))
            met = [v for v in tree_leaves(met) if isinstance(v, Tensor) and v.ndim]
        if func is Tensor.numpy or any(not isinstance(v, Elsewhere) for v in met):
            raise RuntimeError(f"{func}: tensors of two devices")
        return super().__torch_function__(func, types, args, kwargs)


def away(tree):
    return tree_map(lambda v: v.as_subclass(Elsewhere), tree)


def here(found) -> list[Tensor]:
    """The tensors of a result, by value."""
    if isinstance(found, (tuple, dict, Tensor)):
        leaves = tree_leaves(found)
    else:
        leaves = tree_leaves(list(vars(found).values()))
    return [torch.as_tensor(v) for v in leaves]


SCENES = draw_scenes(12, 1, World(most=2))
IMAGES = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGET = SCENES._replace(colour=(SCENES.colour + 1) % 8, background=(SCENES.background + 1) % 4)
PAIR = SimpleNamespace(
    of_images=lambda x: x[:, 0, :3, 0], of_texts=lambda ids: ids.float().cos().expand(-1, 3)
)
VALUES, PROMPTS = torch.arange(12) % 3, torch.arange(12) // 3
CALLS = {
    "scene_score": (scene_score, (SCENES, TARGET)),
    "permuted_score": (permuted_score, (SCENES, TARGET)),
    "scene_score of what was read": (scene_score, (SCENES, reading(TARGET))),
    "rows": (lambda s, index: scene_score(s, s).rows(index), (SCENES, VALUES)),
    "names_unseen": (names_unseen, (SCENES,)),
    "mean_estimate": (lambda v: tuple(mean_estimate(v)), (torch.rand(9),)),
    "layout_iou": (layout_iou, (SCENES, TARGET)),
    "position_recall": (position_recall, (SCENES, reading(TARGET))),
    "permuted_layout": (lambda a, b: permuted_layout(layout_iou, a, b), (SCENES, TARGET)),
    "reading_error": (reading_error, (SCENES, reading(TARGET))),
    "edited_mask": (lambda a, b: edited_mask(a, b, 16), (SCENES, TARGET)),
    "edit_score": (edit_score, (IMAGES, SCENES, TARGET, IMAGES)),
    "permuted_edits": (permuted_edits, (IMAGES, SCENES, TARGET, IMAGES)),
    "bias_report": (lambda v, p, w: bias_report(v, p, 3, w), (VALUES, PROMPTS, torch.ones(3))),
    "attribute_shift": (lambda v, p: attribute_shift(v, p.clamp(max=2), 3), (VALUES, PROMPTS)),
    "attribute_entropy": (lambda v: attribute_entropy(v, 3), (VALUES,)),
    "retrieval": (lambda x, ids: retrieval(PAIR, x, ids), (IMAGES, PROMPTS[:, None])),
    "told_apart": (
        lambda x, ids: told_apart(PAIR, x, ids, x.flip(0), ids.flip(0)),
        (IMAGES, PROMPTS[:, None]),
    ),
    "diversity": (diversity, (IMAGES, PROMPTS)),
    "identity_score": (
        lambda *v: identity_score(lambda x: x.flatten(1), *v),
        (IMAGES, VALUES, IMAGES[:3], IMAGES[3:6]),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_inputs_may_be_on_another_device(name: str, monkeypatch) -> None:
    """All of them, or some: scenes and readings are often here while a model's images are not."""
    monkeypatch.setattr(scenes_edits, "parse", lambda images: reading(TARGET))
    function, given = CALLS[name]
    want = here(function(*given))
    together = name in (
        "edited_mask",
        "retrieval",
        "told_apart",
    )  # which belong to one edit, or to one network
    for k in range(-1, 0 if together else len(given)):
        moved = tuple(away(v) if k in (-1, i) else v for i, v in enumerate(given))
        for mine, other in zip(here(function(*moved)), want, strict=True):
            torch.testing.assert_close(mine.as_subclass(Tensor), other, rtol=0, atol=0, equal_nan=True)


def test_the_other_device_is_another_one() -> None:
    x, y = away(torch.ones(3)), torch.ones(3)
    for meet in (lambda: x + y, lambda: y + x, lambda: torch.stack([x, y]), lambda: x.numpy(), lambda: y[x.long()],
                 lambda: y.__setitem__(slice(0, 3), x)):  # fmt: skip
        with pytest.raises(RuntimeError, match="two devices"):
            meet()
    assert torch.equal(x.cpu() + y, 2 * y) and type(x.to("cpu", torch.float64)) is Tensor
    assert isinstance(x[torch.tensor([0, 1])], Elsewhere)


def test_images_with_gradient_are_judged(monkeypatch) -> None:
    few = SCENES.rows(slice(0, 2))
    images = render(few, 16).requires_grad_()
    monkeypatch.setattr(scenes_edits, "parse", lambda images: reading(few))
    assert not edit_score(images, few, few, images).outside_error.requires_grad
    assert isinstance(few, Scenes)
