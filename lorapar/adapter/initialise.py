"""The start values of a LoRA pair, for each initialisation.

Every function here gives A [r, in] and B [out, r] in float32 and never writes to the base weight.

`paper`     A and B from N(0, 0.01^2): the authors' plain example. Moves the model's function before the first step.
`residual`  the same draws, held as [B, -B0][A; A0] with A0 = A and B0 = B, so that the function is unchanged at step 0.
`pissa`     principal singular directions of the weight (Meng, Wang, Zhang, "PiSSA", 2024), in the same form.
`olora`     leading QR directions of the weight (Bueyuekakyuez, "OLoRA", 2024), in the same form.

PEFT's own PiSSA and OLoRA subtract the product from the base weight. W - s B0 A0 + s B A and W + s (B A - B0 A0) are
the same function, so holding the subtraction in the adapter's second half gives their training without editing W.
"""

from __future__ import annotations

import torch

from lorapar.adapter.layout import module_sizes
from lorapar.adapter.settings import AdapterSettings
from lorapar.errors import BadInputError

PAPER_STD = 0.01


def start_factors(
    base_layer: torch.nn.Module, settings: AdapterSettings, *, path: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [r, in] and B [out, r], float32, for one linear layer of the base model.

    Args:
        base_layer: the frozen linear layer, possibly 4-bit; only read.
        settings: rank, alpha and init.
        path: the layer's name, for messages.
        generator: CPU generator that the random initialisations draw from.

    Raises:
        BadInputError: PiSSA or OLoRA of a layer smaller than the rank, or of a weight that cannot be read as floats.
    """
    if settings.init in ("residual", "paper"):
        return _gaussian(base_layer, settings.rank, generator)
    return _peft_factors(_float_weight(base_layer, path), settings, path=path, generator=generator)


def hold_unchanged(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[A; A0] [2r, in] and [B, -B0] [out, 2r] with A0 = A and B0 = B: their product is zero until A or B moves."""
    return torch.cat([a, a]), torch.cat([b, -b], dim=1)


def _gaussian(layer: torch.nn.Module, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    # Drawn on the CPU, so that one seed gives one adapter on every device.
    features_in, features_out = module_sizes(layer)
    a = torch.randn(rank, features_in, generator=generator, dtype=torch.float32) * PAPER_STD
    b = torch.randn(features_out, rank, generator=generator, dtype=torch.float32) * PAPER_STD
    return a, b


def _float_weight(layer: torch.nn.Module, path: str) -> torch.Tensor:
    """A float32 copy [out, in] of a layer's weight; a quantised one is dequantised into the copy."""
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    try:
        weight = dequantize_module_weight(layer)
    except (TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise BadInputError(
            f"the weight of '{path}' cannot be read as floats ({error}), which PiSSA and OLoRA need: "
            "use adapter.init residual, which does not look at the weight"
        ) from error
    if isinstance(layer, Conv1D):
        weight = weight.T
    expected = module_sizes(layer)[::-1]
    if tuple(weight.shape) != expected or not weight.is_floating_point():
        raise BadInputError(
            f"the weight of '{path}' is {weight.dtype} of shape {tuple(weight.shape)}, not floats of shape {expected}, "
            "which PiSSA and OLoRA need: use adapter.init residual, which does not look at the weight"
        )
    copied: torch.Tensor = weight.detach().to(torch.float32, copy=True)
    return copied


def _peft_factors(
    weight: torch.Tensor, settings: AdapterSettings, *, path: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """PEFT's own A and B for a weight copy, which PEFT then edits and we throw away."""
    from peft import LoraConfig
    from peft.tuners.lora import Linear as PeftLinear

    if settings.rank > min(weight.shape):
        raise BadInputError(
            f"adapter.rank {settings.rank} is larger than '{path}' allows with init {settings.init}: "
            f"its weight is {tuple(weight.shape)}, so at most {min(weight.shape)}"
        )
    scratch = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    scratch.weight = torch.nn.Parameter(weight, requires_grad=False)
    mark = settings.init
    if mark == "pissa" and settings.pissa_iterations:
        mark = f"pissa_niter_{settings.pissa_iterations}"  # type: ignore[assignment]
    config = LoraConfig(r=settings.rank, lora_alpha=settings.plain_alpha, init_lora_weights=mark)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        layer = PeftLinear(scratch, "default", config, r=settings.rank, lora_alpha=settings.plain_alpha)
    return layer.lora_A["default"].weight.detach().float(), layer.lora_B["default"].weight.detach().float()
