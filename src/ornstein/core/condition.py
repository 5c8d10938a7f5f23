"""What a run is conditioned on: named fields, each with a mask saying for which rows it is present."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .spec import suggest
from .tree import Time, Tree, cat, leaves, select, tree_map

__all__ = ["Condition"]

Tokenise = Callable[[str, Sequence[str]], Tensor]  # (field, words) -> ids (B, L)


class Condition(dict[str, Any]):
    """A tree of named fields (`label`, `text`, `anchor`, `measurement`, ...), the batch in front.

    `present[name]` is a boolean mask (B,): conditioned and unconditioned rows share a batch. A row that is
    not present holds a harmless value (zeros) that no network may read.
    """

    def __init__(
        self, fields: Mapping[str, Tree] | None = None, present: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(fields or {})
        masks = dict(present or {})
        for name, value in self.items():
            if name not in masks:
                first = leaves(value)[0]
                masks[name] = torch.ones(len(first), dtype=torch.bool, device=first.device)
        self.present: dict[str, Tensor] = masks

    @classmethod
    def make(
        cls,
        n: int,
        fields: Mapping[str, Any],
        accepted: Iterable[str],
        device: torch.device | str = "cpu",
        tokenise: Tokenise | None = None,
    ) -> Condition:
        """What users write (numbers, words, lists with None for an absent row, tensors) for `n` rows.

        Args:
            n: rows.
            fields: as they were written; a string stands for every row, and a field that is absent in all is left out.
                Of features given as a dict every leaf has n rows.
            accepted: names of the fields that the model reads.
            device: where the values go.
            tokenise: (name, words) -> ids (B, L), such as `Denoiser.tokenise`; None where nothing reads words.

        Raises:
            TypeError: a field that no piece of the model declares.
            ValueError: a field of the wrong length, or words where nothing reads them.
        """
        accepted = set(accepted)
        for name in fields:
            if name not in accepted:
                raise TypeError(suggest(name, accepted, "condition field"))
        values, masks = {}, {}
        for name, given in fields.items():
            if given is not None and not _all_absent(given, n):
                values[name], masks[name] = _rows(name, given, n, device, tokenise)
        return cls(values, masks)

    def null(self, *fields: str) -> Condition:
        """The same with these fields (all, if none is named) absent in every row."""
        names = fields or tuple(self)
        for name in names:
            if name not in self:
                raise ValueError(suggest(name, self, "condition field"))
        masks = {k: torch.zeros_like(m) if k in names else m for k, m in self.present.items()}
        return Condition(self, masks)

    def replace(self, **fields: Tree) -> Condition:
        """The same with these fields given new values, present in every row."""
        kept = {k: m for k, m in self.present.items() if k not in fields}
        return Condition({**self, **fields}, kept)

    def without(self, *fields: str) -> Condition:
        """The same less these fields, as far as it has them; it may be empty then, which is false."""
        kept = {k: v for k, v in self.items() if k not in fields}
        return Condition(kept, {k: self.present[k] for k in kept})

    def dropped(self, drop: Tensor, *fields: str) -> Condition:
        """The same with these fields (all, if none is named) absent in the rows where `drop` (B,) is true."""
        names = fields or tuple(self)
        return Condition(self, {k: m & ~drop if k in names else m for k, m in self.present.items()})

    def rows(self, index: Any) -> Condition:
        """The rows `index`."""
        picked = {k: select(v, index) for k, v in self.items()}
        return Condition(picked, {k: m[index] for k, m in self.present.items()})

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Joined along the batch; a field missing from one of them is absent in its rows.

        Tokens {"tokens": (B, L, D), "mask": (B, L)} of different lengths are padded to the longest, with zeros that the
        mask leaves out.

        Raises:
            ValueError: one condition is empty, or a field has rows of different shapes and no mask.
        """
        names = {name: c[name] for c in conditions for name in c}
        filled = [c._with_absent(names) for c in conditions]
        values = {k: _joined(k, [c[k] for c in filled]) for k in names}
        return Condition(values, {k: torch.cat([c.present[k] for c in filled]) for k in names})

    def _with_absent(self, like: Mapping[str, Tree]) -> Condition:
        if not self and like:
            raise ValueError("Condition.cat: an empty condition has no rows; use .null() of a full one")
        n = len(next(iter(self.present.values()))) if self else 0
        values, masks = dict(self), dict(self.present)
        for name, value in like.items():
            if name not in values:
                values[name] = tree_map(lambda v: v.new_zeros(n, *v.shape[1:]), value)
                masks[name] = torch.zeros(n, dtype=torch.bool, device=leaves(value)[0].device)
        return Condition(values, masks)

    def at(self, t: Time) -> Condition:
        """The condition at time `t`: fields that are staged over time (they have an `at`) are resolved.

        Called by the innermost denoiser only, since guides compare conditions as they were given.
        """
        if not any(hasattr(v, "at") for v in self.values()):
            return self
        return Condition({k: v.at(t) if hasattr(v, "at") else v for k, v in self.items()}, self.present)

    def to(self, device: torch.device | str) -> Condition:
        """Moved to a device."""
        moved = {k: tree_map(lambda v: v.to(device), v) for k, v in self.items()}
        return Condition(moved, {k: m.to(device) for k, m in self.present.items()})


def _joined(name: str, values: Sequence[Tree]) -> Tree:
    """Values of one field, joined along the batch."""
    padded = (
        _padded(values)
        if all(isinstance(v, dict) and {"tokens", "mask"} <= set(v) for v in values)
        else values
    )
    shapes = [tree_map(lambda v: tuple(v.shape[1:]), value) for value in padded]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"{name}: conditions with rows of shapes {' and '.join(map(str, shapes))} cannot be joined; give texts of "
            'different lengths as {"tokens": (B, L, D), "mask": (B, L)}'
        )
    return cat(padded)


def _padded(values: Sequence[Tree]) -> list[Tree]:
    """Tokens and masks of one length, the longest."""
    length = max(value["mask"].shape[1] for value in values)
    return [{**value, **{k: _longer(value[k], length) for k in ("tokens", "mask")}} for value in values]


def _longer(x: Tensor, length: int) -> Tensor:
    """(B, L, ...) to (B, length, ...), zeros behind."""
    if x.shape[1] == length:
        return x
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1)


def _all_absent(given: Any, n: int) -> bool:
    return isinstance(given, list | tuple) and len(given) == n > 0 and all(v is None for v in given)


def _rows(
    name: str, given: Any, n: int, device: torch.device | str, tokenise: Tokenise | None = None
) -> tuple[Tree, Tensor]:
    present = torch.ones(n, dtype=torch.bool, device=device)
    if isinstance(given, dict):
        return {
            k: v if v is None else _rows(f"{name}[{k!r}]", v, n, device)[0] for k, v in given.items()
        }, present
    if hasattr(given, "at"):
        return given, present
    given = [given] * n if isinstance(given, str) else given
    if isinstance(given, list | tuple) and any(v is None for v in given):
        present = torch.tensor([v is not None for v in given], device=device)
        filler = next((v for v in given if v is not None), 0)
        given = [filler * 0 if v is None else v for v in given]  # of words: the empty text
    if tokenise and isinstance(given, list | tuple) and given and all(isinstance(v, str) for v in given):
        given = tokenise(name, given)
    try:
        value = torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected numbers or a tensor, got {given!r}") from error
    if value.ndim == 0:
        value = value.expand(n)
    if len(value) != n or len(present) != n:
        raise ValueError(f"{name}: {len(value)} rows given for {n} samples; expected one a sample")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: holds NaN or infinite values")
    return value, present
