"""A model of diffusers as a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ornstein.core import Condition, Denoiser, Posterior, Step, Time, align, combine, tree_map
from ornstein.spaces import Encoded

from .codec import LatentCodec
from .kinds import PIXELS, WORDS, kind_of, labels_of, shape_of
from .schedule import is_flow, prediction_of, process_of
from .text import TextEncoders

__all__ = ["DiffusersDenoiser"]

Encode = Callable[[Tensor], dict[str, Any]]  # ids (B, L) to features
GUIDANCE = 3.5  # what Flux is told where nothing is said, as in its pipeline
VIEWS = {"epsilon": "noise", "v_prediction": "edm", "sample": "mean", "flow": "velocity"}


class DiffusersDenoiser(Denoiser):
    """A network of diffusers under the process of its scheduler, with its text encoders and its autoencoder.

    The network is told the timestep N t - 1 of a table of N steps (`TrainedSteps`: whole numbers where it was trained,
    fractions between), and N t of a flow. Its output F is read as

        epsilon        D = (x - sigma F) / alpha
        v_prediction   D = alpha x - sigma F
        sample         D = F
        flow           D = x - t F

    Channels beyond those of x (a learned variance) are left out. Where the model is latent the process is
    `spaces.Encoded`: states are latents, samples are images in [-1, 1]. States stay in float32 where the network is in
    half precision.

    What a scheduler does to the estimate of x_0 in a pipeline of theirs, `clip_sample` (cut to [-r, r]) and
    `thresholding` (cut to a quantile), is no part of the model and is not done here: with a scheduler that does so,
    samples differ from the pipeline's, and a warning says so when the model is read.

    Labels are dropped by the objective that trains, and not a second time by the network: the label dropout of a DiT,
    which draws from torch's global generator in training mode, is off.

    Fields, as far as the model reads them: `label`; `text`, words or features; `negative`, words in place of the empty
    text that a row without text is told (negative prompts); `guidance`, the number that a guidance-distilled Flux
    reads, 3.5 by default.

    Args:
        components: as of a pipeline: unet or transformer, scheduler, and where there are any vae, tokenizer,
            text_encoder and so on.
        settings: of the pipeline's config: `force_zeros_for_empty_prompt`.
        null_label: the class that a network without one of its own is told where a label is absent, 0 to the number of
            its classes less 1 (that number too for a DiT, whose own null class it is).

    Attributes:
        network: diffusers' module.
        scheduler: as it was given; `pipeline_grid` reads it.
        settings: as they were given.

    Raises:
        ValueError: parts that are not read here, or a null_label that is none of the network's classes.
    """

    def __init__(
        self,
        components: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        null_label: int | None = None,
    ) -> None:
        super().__init__()
        self.network: Any = components.get("unet") or components["transformer"]
        self.scheduler, self.settings = components["scheduler"], dict(settings or {})
        self.kind = type(self.network).__name__
        self._kind, self.labels = kind_of(self.network), labels_of(self.network)
        law = process_of(self.scheduler)
        self._predicted = prediction_of(self.scheduler, law)
        self.prediction, self.scale = VIEWS[self._predicted], 1.0  # what objectives weigh errors by
        codec = LatentCodec(components["vae"]) if components.get("vae") is not None else None
        self.process = law if codec is None else Encoded(law, codec)
        self.pixels = PIXELS if codec is None else codec.pixels
        self.shape, self.fields = shape_of(self.network), self._kind.fields
        self.text = _text_encoders(self._kind.text, components, self.network, self.settings)
        own = self.labels if self.kind == "DiTTransformer2DModel" else None
        self.null_label = own if null_label is None else self._checked(null_label, own)
        dropped = {"guidance"} | ({"label"} if self.null_label is None else set())
        self.needs = self.fields & dropped  # which training never drops

    def _checked(self, null_label: int, own: int | None) -> int:
        if self.labels is None:
            raise ValueError(f"null_label: this {self.kind} reads no labels, got {null_label!r}")
        most = self.labels - 1 if own is None else own
        if not isinstance(null_label, int) or isinstance(null_label, bool) or not 0 <= null_label <= most:
            raise ValueError(
                f"null_label: expected a class of this {self.kind}, 0 to {most}, got {null_label!r}"
            )
        return null_label

    def train(self, mode: bool = True) -> DiffusersDenoiser:
        """Training mode for all but the text encoders and the network's own dropping of labels."""
        super().train(mode)
        for part in self.network.modules():
            if type(part).__name__ == "LabelEmbedding":  # training drops labels already, by its own noise
                part.train(False)
        return self

    @property
    def patch(self) -> int:
        """Pixels of a state along one side of a token."""
        return 2 if self.kind == "FluxTransformer2DModel" else int(self.network.config.get("patch_size") or 1)

    def spec(self) -> dict[str, Any]:
        """Refused: the network's class is diffusers'."""
        raise ValueError(
            f"its network is diffusers' {self.kind}; write it with ornstein.interop.save_diffusers"
        )

    def _example(self) -> Tensor:
        parameter = next(self.network.parameters())
        dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        return torch.empty(0, dtype=dtype, device=parameter.device)

    # --- the posterior

    def forward(
        self, x: Tensor, t: Time, condition: Condition | None = None, step: Step | None = None
    ) -> Posterior:
        """One network call."""
        condition = condition.at(t) if condition else None
        if condition and (isinstance(condition.get("text"), Tensor) or "negative" in condition):
            condition = self._read_texts(condition, self.text)  # as training gives it
        inner = next(self.network.parameters()).dtype
        given = tree_map(lambda v: v.to(inner) if v.is_floating_point() else v, self._given(x, condition))
        told = self._told(x, t)
        output = self._kind.call(self.network, x.to(inner), told, {**given, "pixels": self.pixels})
        output = output[:, : x.shape[1]].to(x.dtype)
        return Posterior(self.process, x, t, self._mean(x, t, output), condition=condition)

    def many(
        self, x: Tensor, t: Time, conditions: Sequence[Condition | None], step: Step | None = None
    ) -> list[Posterior]:
        """All conditions in one network call; it counts as one evaluation each. Texts of different lengths take a call
        each, since the networks would read their padding.
        """
        given = [c for c in conditions if c]
        if len(given) != len(conditions) or len(given) == 1 or not _alike(given):
            return super().many(x, t, conditions, step)
        k = len(given)
        times = t.repeat(k) if isinstance(t, Tensor) and t.ndim else t
        joint = self(x.repeat(k, *[1] * (x.ndim - 1)), times, Condition.cat(given), step)
        return [joint[slice(i * len(x), (i + 1) * len(x))] for i in range(k)]

    def _told(self, x: Tensor, t: Time) -> Tensor:
        """The timestep, (B,); in float32 at least, whatever the network computes in."""
        count = self.scheduler.config.num_train_timesteps
        told = count * t if is_flow(self.scheduler) else count * t - 1
        if not isinstance(told, Tensor) or told.ndim == 0:
            return x.new_full((len(x),), max(float(told), 0.0), dtype=self._example().dtype)
        if told.ndim > 1:
            raise ValueError(f"t: {self.kind} is told one time for a sample, got shape {tuple(told.shape)}")
        return told.clamp(min=0).to(x.device, self._example().dtype)

    def _mean(self, x: Tensor, t: Time, output: Tensor) -> Tensor:
        process: Any = self.process
        if self._predicted == "sample":
            return output
        if self._predicted == "v_prediction":
            level = process.at(t)
            return combine(level.alpha, x, -level.sigma, output)
        return process.mean_from(self.prediction, x, output, t)

    # --- conditions

    def tokenise(self, name: str, words: Sequence[str]) -> Tensor:
        """Ids (B, L) by the pipeline's tokenizers."""
        if name not in ("text", "negative") or self.text is None:
            return super().tokenise(name, words)
        return self.text.tokenise(words)

    def prepare(self, condition: Condition) -> Condition:
        """Texts are encoded and labels checked, once a run; features that are given already stay as they are."""
        self._check_labels(condition)
        self._check_masks(condition)
        return self._read_texts(condition, None if self.text is None else self.text.distinct)

    def _read_texts(self, condition: Condition, encode: Encode | None) -> Condition:
        """The condition with features for words. What stands here runs at each step of a training: nothing waits."""
        fields, present = dict(condition), dict(condition.present)
        if "guidance" in fields:
            fields["guidance"] = torch.where(present["guidance"], fields["guidance"], GUIDANCE)
            present["guidance"] = torch.ones_like(present["guidance"])
        negative = _encoded("negative", fields.pop("negative", None), encode)
        text = _encoded("text", fields.get("text"), encode)
        if negative is not None:
            text = negative if text is None else text
            present.setdefault("text", torch.zeros_like(present["negative"]))
            null = _where("negative", present.pop("negative"), negative, self._null(text))
            text = {**text, "null": null}
        if text is not None:
            fields["text"] = text
        return Condition(fields, present)

    def _check_labels(self, fields: Condition) -> None:
        if "label" not in fields or not len(fields["label"]):
            return
        # absent rows hold a filler, which no network reads
        low, high = (int(v) for v in fields["label"].aminmax())
        if low < 0 or high >= (self.labels or 0):
            raise ValueError(
                f"label: expected 0 to {(self.labels or 0) - 1}, got values from {low} to {high}"
            )

    def _check_masks(self, fields: Condition) -> None:
        for name in WORDS & set(fields):
            given = fields[name]
            if not isinstance(given, dict) or "mask" not in given:
                continue
            if not bool((given["mask"] | ~fields.present[name][:, None]).all()):
                raise ValueError(
                    f"{name}: {self.kind} reads every token, padding too, got features whose mask leaves some out; "
                    "give texts of one length"
                )

    def _null(self, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What a row without text is told, (1, ...); zeros where there is no encoder to say."""
        if self.text is not None:
            return self.text.null(self._example())
        if like is None:
            raise ValueError("text: this model was read without text encoders; give features text=(B, L, D)")
        return {k: torch.zeros_like(v[:1]) for k, v in like.items() if k != "null"}

    def _given(self, x: Tensor, condition: Condition | None) -> dict[str, Tensor]:
        fields = condition if condition is not None else Condition()
        given: dict[str, Tensor] = {}
        if "text" in self.fields:
            text = fields.get("text")
            null = text["null"] if text and "null" in text else self._null(text)
            told = _where("text", fields.present["text"], text, null) if text else null
            given |= {k: v.expand(len(x), *v.shape[1:]) for k, v in told.items()}
        if "label" in self.fields:
            given["label"] = self._labels(x, fields)
        if "guidance" in self.fields:
            default = x.new_full((len(x),), GUIDANCE)
            given["guidance"] = fields.get("guidance", default).to(x.dtype)
        return given

    def _labels(self, x: Tensor, fields: Condition) -> Tensor:
        if self.null_label is None:  # such a model has nothing to say without a label: asking costs a wait
            if "label" not in fields or not bool(fields.present["label"].all()):
                raise ValueError(
                    f"label: this {self.kind} knows no class for an absent label; pass one for every row, or say which "
                    "class stands for none, load_diffusers(..., null_label=)"
                )
            return torch.as_tensor(fields["label"])
        null = torch.full((len(x),), self.null_label, device=x.device)
        return torch.where(fields.present["label"], fields["label"], null) if "label" in fields else null


def _alike(conditions: Sequence[Condition]) -> bool:
    """Whether the texts of all have features of the same names and lengths."""
    for name in WORDS:
        shapes = [tree_map(lambda v: v.shape[1:], c[name]) for c in conditions if name in c]
        if any(shape != shapes[0] for shape in shapes):
            return False
    return True


def _encoded(name: str, given: Any, encode: Encode | None) -> dict[str, Any] | None:
    """Features of a field: of ids by the encoders, and those given as they are."""
    if given is None or isinstance(given, dict):
        return given
    if given.is_floating_point():
        return {"tokens": given}
    if encode is None:
        raise ValueError(f"{name}: this model was read without text encoders; give features (B, L, D)")
    return encode(given)


def _where(
    field: str, present: Tensor, text: Mapping[str, Any], null: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The features of a text in the rows where it is present, those of none elsewhere."""
    missing = sorted(set(null) - set(text) - {"mask"})
    if missing:
        raise ValueError(f"{field}: the model also reads the features {missing}, got {sorted(text)}")
    names = [k for k in null if k in text]
    for k in names:
        given, expected = tuple(text[k].shape[1:]), tuple(null[k].shape[1:])
        if given != expected:
            raise ValueError(
                f"{field}: {k} have the shape (B, {', '.join(map(str, given))}), but what a row without text is told "
                f"has (B, {', '.join(map(str, expected))}); give features of that shape"
            )
    return {k: torch.where(align(present, text[k]), text[k], null[k]) for k in names}


def _text_encoders(
    encoding: str | None, components: Mapping[str, Any], network: nn.Module, settings: Mapping[str, Any]
) -> TextEncoders | None:
    """The encoders of a pipeline in their order; None for a network alone."""
    parts = {n: components.get(n) for n in ("text_encoder", "text_encoder_2", "text_encoder_3")}
    if encoding is None or not any(part is not None for part in parts.values()):
        return None
    if settings.get("requires_aesthetics_score"):
        raise ValueError(
            "pipeline: a refiner of Stable Diffusion XL, which is told a score, is not read here"
        )
    if encoding != "three":  # only Stable Diffusion 3 does without one
        parts = {n: part for n, part in parts.items() if part is not None}
    config: Any = network.config
    width = config.get("joint_attention_dim") or config.get("cross_attention_dim") or 0
    return TextEncoders(
        encoding,
        [components.get(n.replace("text_encoder", "tokenizer")) for n in parts],
        parts,
        width,
        zeros=bool(settings.get("force_zeros_for_empty_prompt")) and encoding == "penultimate",
    )
