"""An earlier LoRA as the start of a new one: its factors.

Whatever its rank, alpha, rsLoRA and patterns are, it becomes one uniform LoRA: A as it is, B times what its own scale
is of the new one, both padded with zeros where a module has a smaller rank or none at all. That is exact but for one
rounding of B to float32, and the bits are the same where the two scales are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorapar.adapter.files import read_tensors
from lorapar.adapter.layout import linear_modules
from lorapar.errors import BadInputError, IntegrityError

_KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True)
class Factors:
    """One module's part of a LoRA."""

    a: torch.Tensor
    """[its rank, in], as it is in the file."""
    b: torch.Tensor
    """[out, its rank], as it is in the file."""
    scale: float
    """What the product is multiplied by: alpha / rank, or alpha / sqrt(rank)."""


@dataclass(frozen=True)
class EarlierAdapter:
    """A plain LoRA read from a PEFT folder."""

    name: str
    """How messages call it."""
    factors: Mapping[str, Factors]
    """By the path of the module in the bare model, sorted."""

    @property
    def rank(self) -> int:
        """The largest rank of its modules, which is the rank of all where there are no patterns."""
        return max(int(one.a.shape[0]) for one in self.factors.values())

    @property
    def scale(self) -> float:
        """The scale of its first module, which is that of all where there are no patterns."""
        return next(iter(self.factors.values())).scale

    def held(self, path: str, *, scale: float, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A [rank, in] and B [out, rank], float32, which under another scale are what the adapter was."""
        a, b = torch.zeros(self.rank, inputs), torch.zeros(outputs, self.rank)
        own = self.factors.get(path)
        if own is not None:
            rank = own.a.shape[0]
            a[:rank] = own.a.float()
            b[:, :rank] = (own.b.double() * (own.scale / scale)).float()
        return a, b

    def require_fit(self, model: torch.nn.Module) -> None:
        """Raise where it sits on a module that the base model lacks or has in another size (IntegrityError, another
        base), or on one that is not a linear module of its decoder (BadInputError)."""
        linear, modules = linear_modules(model), dict(model.named_modules())
        for path, own in self.factors.items():
            sizes = (int(own.a.shape[1]), int(own.b.shape[0]))
            if path not in modules or linear.get(path, sizes) != sizes:
                has = (
                    "has no such module"
                    if path not in modules
                    else f"has it from {linear[path][0]} to {linear[path][1]}"
                )
                raise IntegrityError(
                    f"model.adapter: {self.name} has LoRA on '{path}' (from {sizes[0]} to {sizes[1]}), and "
                    f"{type(model).__name__} {has}: it was made for another base model; give that one as model.name"
                )
            if path not in linear:
                raise BadInputError(
                    f"model.adapter: {self.name} has LoRA on '{path}', which is no linear module of the decoder's "
                    "layers; go on from an adapter without it"
                )


def read_earlier(folder: Path, name: str, setting: str = "model.adapter: ") -> EarlierAdapter:
    """The factors of a PEFT folder; raises BadInputError where its tensors are more or less than pairs of A and B.

    A message begins with `setting`, which is nothing where no setting named the folder.
    """
    tensors, _ = read_tensors(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.dim() != 2:
            raise BadInputError(
                f"{setting}{name} holds '{key}', which is no part of a plain LoRA on linear modules; "
                "give one that holds only pairs of lora_A and lora_B"
            )
        found.setdefault(match["path"], {})[match["factor"]] = tensor
    for path, pair in found.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise BadInputError(f"{setting}{name}: lora_A and lora_B of '{path}' are no pair; save it again")
        broken = next((factor for factor, tensor in pair.items() if not bool(torch.isfinite(tensor).all())), None)
        if broken is not None:
            raise BadInputError(f"{setting}{name}: lora_{broken} of '{path}' is not finite; save it again")
    if not found:
        raise BadInputError(f"{setting}{name} holds no tensors; give an adapter that was trained")
    _require_ranks(config, found, f"{setting}{name}")
    factors = {
        path: Factors(pair["A"], pair["B"], _scale(config, path, int(pair["A"].shape[0])))
        for path, pair in sorted(found.items())
    }
    return EarlierAdapter(name, factors)


def _require_ranks(config: Mapping[str, Any], found: Mapping[str, Mapping[str, torch.Tensor]], whose: str) -> None:
    """Raise BadInputError where tensors have another rank than PEFT would make them by the configuration."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("rank_pattern") or {}
    for path, pair in found.items():
        said, rank = int(patterns.get(get_pattern_key(patterns.keys(), path), config["r"])), int(pair["A"].shape[0])
        if rank != said:
            raise BadInputError(
                f"{whose}: '{path}' has rank {rank}, and its adapter_config.json says {said}, so its scale is unknown; "
                "copy both files again from where it was trained"
            )


def _scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """As PEFT works it out, for a module whose rank is known."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(patterns.keys(), path), config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
