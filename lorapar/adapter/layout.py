"""Which linear modules of a model carry LoRA.

The paper's layouts (section 4, table 3) name projections by role: Q, K, V of attention, G(ate), U(p), D(own) of the
MLP; O is attention's output. A role is found by the module's name and by the block it is in, so that one letter
means the same in every decoder: `query_key_value` of GPT-NeoX holds Q, K and V in one matrix, `c_proj` of GPT-2 is O
in its attention and D in its MLP. LoRA takes a matrix as a whole; where a layout asks for a part of one, it gets the
whole, and `Targets.notes` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lorapar.errors import BadInputError

ROLES = "QKVOGUD"
LAYOUTS = ("QKVGUD", "QKV", "GUD")
"""The paper's layouts; any other choice of the letters of `ROLES` is one, too."""
ALL_LINEAR = "all-linear"

# Names that mean one thing wherever they stand.
_ANYWHERE = {
    "q_proj": "Q", "Wq": "Q", "q_lin": "Q", "q_a_proj": "Q", "q_b_proj": "Q", "q_gate_proj": "Q",
    "k_proj": "K", "Wk": "K", "k_lin": "K",
    "v_proj": "V", "v_proj_current": "V", "v_proj_delayed": "V", "Wv": "V", "v_lin": "V",
    "kv_proj": "KV", "kv_a_proj_with_mqa": "KV", "kv_b_proj": "KV",
    "qkv_proj": "QKV", "query_key_value": "QKV", "c_attn": "QKV", "Wqkv": "QKV", "qkv": "QKV",
    "in_proj_qkv": "QKV", "in_proj_qkvz": "QKV",
    "o_proj": "O", "out_lin": "O", "o_a_proj": "O", "o_b_proj": "O",
    "up_proj": "U", "fc1": "U", "fc_in": "U", "c_fc": "U", "dense_h_to_4h": "U", "lin1": "U", "proj_up": "U",
    "gate_up_proj": "GU", "Wi": "GU",
    "down_proj": "D", "fc2": "D", "fc_out": "D", "dense_4h_to_h": "D", "lin2": "D", "proj_down": "D",
    "proj_up_gate": "G",
}  # fmt: skip
# Names that mean something else in attention than in an MLP.
_IN_ATTENTION = {"c_proj": "O", "dense": "O", "out_proj": "O", "Wo": "O", "query": "Q", "key": "K", "value": "V",
                 "query_proj": "Q", "key_proj": "K", "value_proj": "V", "q": "Q", "k": "K", "v": "V"}  # fmt: skip
_IN_MLP = {"c_proj": "D", "Wo": "D", "gate_proj": "G", "w1": "G", "w3": "U", "w2": "D",
           "input_linear": "GU", "output_linear": "D"}  # fmt: skip
# An MLP that is a list of layers (CTRL).
_IN_SEQUENCE = {"0": "U", "2": "D"}
_SEQUENCE = re.compile(r"\.(mlp|ffn)\.$")
_ATTENTION = re.compile(r"attn|attention|mixer|mlstm")
_MLP = re.compile(r"mlp|ffn|feed_forward|\bff\b|shared_expert|block_sparse_moe|mixer")
# Not the decoder's own attention and MLP: encoders beside it, sparse-attention indexers, routers of experts.
_APART = re.compile(
    r"vision|visual|image|audio|speech|\bencoder\b|encoder_attn|cross_attn|crossattention|indexer|compressor|router|"
    r"\bgate\b|layernorm|multi_modal|\bmtp\b"
)
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Targets:
    """What a layout selects in one model."""

    modules: tuple[str, ...]
    """PEFT's `target_modules`: the shortest ends of module paths that name exactly the modules meant."""
    notes: tuple[str, ...] = ()
    """One sentence each on what the layout takes beside what it names, and what it has to leave out."""


def resolve_layout(model: torch.nn.Module, layout: str | Sequence[str]) -> tuple[str, ...]:
    """The modules that a layout means in this model: `find_targets` without its notes."""
    return find_targets(model, layout).modules


def find_targets(model: torch.nn.Module, layout: str | Sequence[str]) -> Targets:
    """The modules that a layout means in this model, and what a person should know of the choice.

    Args:
        model: the base model, also one without weights (device `meta`); quantised linear layers count as linear.
        layout: letters of `ROLES` such as 'QKVGUD'; 'all-linear'; a regular expression that whole module paths match;
            or a list of module names, each the end of a path such as 'q_proj' or 'mlp.c_proj'.

    Raises:
        BadInputError: the model has no module of the layout, or none of one of its letters or names; the message
            lists the model's linear modules as the setting that would take them.
    """
    linear = _linear_paths(model)
    if not isinstance(layout, str):
        targets = _of_names(model, linear, tuple(layout))
    elif layout == ALL_LINEAR:
        targets = _of_all(model, linear)
    elif re.fullmatch(f"[{ROLES}]+", layout):
        targets = _of_roles(model, linear, layout)
    else:
        targets = _of_pattern(model, linear, layout)
    targets = _that_peft_takes(model, linear, _with_experts(model, targets))
    return _that_are_called(model, linear, _that_peft_finds(model, linear, targets))


def with_paths(model: torch.nn.Module, modules: Sequence[str], paths: Iterable[str]) -> tuple[str, ...]:
    """The modules of a layout and, beside them, linear modules by their whole paths, as PEFT's `target_modules`."""
    linear = _linear_paths(model)
    wanted = set(paths)
    chosen = [path for path in linear if path in wanted or _ends(path, tuple(modules))]
    return _shortest(model, chosen) if any(not _ends(path, tuple(modules)) for path in wanted) else tuple(modules)


def paths_of(model: torch.nn.Module, modules: Sequence[str]) -> list[str]:
    """The paths of the linear modules that PEFT's `target_modules` name."""
    return [path for path in _linear_paths(model) if _ends(path, tuple(modules))]


def linear_modules(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every linear module but the output head, by its path."""
    modules = dict(model.named_modules())
    return {path: module_sizes(modules[path]) for path in _linear_paths(model)}


def module_sizes(layer: torch.nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear module; GPT-2's Conv1D holds its weight the other way round."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0]), int(layer.weight.shape[1])
    return int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]


def linear_module_names(model: torch.nn.Module) -> tuple[str, ...]:
    """The distinct last path parts of all linear modules, sorted; the output head is left out."""
    return tuple(sorted({path.rsplit(".", 1)[-1] for path in _linear_paths(model)}))


def takes_transposed(model: torch.nn.Module, modules: Iterable[str]) -> bool:
    """Whether the modules named hold their weight as [in, out] (GPT-2's Conv1D), which PEFT has to be told."""
    from transformers.pytorch_utils import Conv1D

    ends = tuple(modules)
    return any(isinstance(module, Conv1D) and _ends(path, ends) for path, module in model.named_modules())


def stands_apart(path: str) -> bool:
    """Whether a module is none of the decoder's own by its path: an encoder beside it, an indexer, a router."""
    return bool(_APART.search(path))


def role_of(path: str) -> str:
    """The letters of `ROLES` that a linear module's weight holds, '' where it is none of a decoder layer's own."""
    path = path.removesuffix(".linear")  # Moshi holds its matrices in modules of these names
    leaf = path.rsplit(".", 1)[-1]
    block = path.removesuffix(leaf)
    if not _LAYER.search(path) or _APART.search(path):
        return ""
    if _ATTENTION.search(block) and leaf in _IN_ATTENTION:
        return _IN_ATTENTION[leaf]
    if _MLP.search(block) and leaf in _IN_MLP:
        return _IN_MLP[leaf]
    if leaf in _IN_SEQUENCE and _SEQUENCE.search(block):
        return _IN_SEQUENCE[leaf]
    return _ANYWHERE.get(leaf, "")


def _roles(model: torch.nn.Module, linear: Sequence[str]) -> dict[str, str]:
    """The letters that each module holds: those of its name, and G where U is twice what D takes in."""
    roles, modules = {path: role_of(path) for path in linear}, dict(model.named_modules())
    inputs = {path.rsplit(".", 1)[0]: module_sizes(modules[path])[0] for path, held in roles.items() if held == "D"}
    for path, held in roles.items():
        if held == "U" and module_sizes(modules[path])[1] == 2 * inputs.get(path.rsplit(".", 1)[0], 0):
            roles[path] = "GU"
    return roles


def _of_roles(model: torch.nn.Module, linear: Sequence[str], layout: str) -> Targets:
    """Every module that holds a role of the layout."""
    roles = _roles(model, linear)
    chosen = [path for path, held in roles.items() if set(held) & set(layout)]
    there = {letter for held in roles.values() for letter in held}
    missing = [letter for letter in layout if letter not in there]
    attention, mlp = set("QKV") & set(layout), set("GUD") & set(layout)
    lost = (attention and not attention & there) or (mlp and not mlp & there and not _expert_parameters(model))
    if not chosen or lost or "O" in missing:
        raise BadInputError(
            f"adapter.layout {layout}: {type(model).__name__} has no linear module for {', '.join(missing)}; "
            + _what_to_write(linear)
        )
    notes = [
        f"{end} holds {_listed(held)} in one matrix, so the layout {layout} takes it whole"
        for end, held in {path.rsplit(".", 1)[-1]: roles[path] for path in chosen}.items()
        if set(held) - set(layout)
    ]
    if _expert_parameters(model):  # of the MLP's roles its own sentence tells
        missing = [letter for letter in missing if letter in "QKVO"]
    if missing:
        held = _listed(there & set(layout))
        notes.append(f"this model has no {_listed(missing)} projection, so the layout {layout} means its {held}")
    return Targets(_shortest(model, chosen), tuple(notes))


def _of_all(model: torch.nn.Module, linear: Sequence[str]) -> Targets:
    """Every linear module of the decoder itself."""
    chosen = [path for path in linear if not _APART.search(path)]
    if not chosen:
        raise BadInputError(
            f"adapter.layout {ALL_LINEAR}: {type(model).__name__} has no linear module outside of encoders, routers "
            "and heads; " + _what_to_write(linear)
        )
    return Targets(_shortest(model, chosen))


def _of_names(model: torch.nn.Module, linear: Sequence[str], names: tuple[str, ...]) -> Targets:
    """The modules whose paths end with the names."""
    if not names:
        raise BadInputError("adapter.layout names no module; give at least one, or one of " + ", ".join(LAYOUTS))
    missing = [name for name in names if not any(_ends(path, (name,)) for path in linear)]
    if missing:
        raise BadInputError(
            f"adapter.layout: {type(model).__name__} has no linear module {', '.join(missing)}; "
            + _what_to_write(linear)
        )
    return Targets(names)


def _of_pattern(model: torch.nn.Module, linear: Sequence[str], pattern: str) -> Targets:
    """The modules whose whole path the regular expression matches, as PEFT reads it."""
    chosen = [path for path in linear if re.fullmatch(pattern, path)]
    if not chosen:
        raise BadInputError(
            f"adapter.layout '{pattern}' is neither letters of {ROLES} (the paper's are {', '.join(LAYOUTS)}) nor a "
            f"pattern that matches the whole path of a linear module of {type(model).__name__}"
            + (f", such as {linear[0]}; " if linear else "; ")
            + _what_to_write(linear)
        )
    return Targets(_shortest(model, chosen))


def _with_experts(model: torch.nn.Module, targets: Targets) -> Targets:
    """What PEFT makes of the choice in a mixture of experts, whose routed experts are parameters and not modules.

    PEFT 0.21 reads gate_proj, up_proj and down_proj there as names of the fused experts, which have no gradients by
    example: such names are left out, and with them the shared experts and dense layers that bear them. It goes by the
    model's type, so also where a configuration makes all layers dense.
    """
    experts = _expert_parameters(model)
    kept = tuple(name for name in targets.modules if not _means_experts(model, name))
    left = ", ".join(name for name in targets.modules if name not in kept)
    if not kept:
        raise BadInputError(
            f"adapter.layout: PEFT takes {left} for routed experts in {type(model).__name__}, which cannot be scored "
            "by example; choose attention: adapter.layout QKV"
        )
    notes = list(targets.notes)
    if experts:
        count = sum(parameter.numel() for parameter in experts.values())
        notes.append(f"the routed experts ({count / 1e6:,.1f} million weights) carry no LoRA")
    if left:
        notes.append(f"{left} carry no LoRA, because PEFT reads their names as those of routed experts")
    return Targets(kept, tuple(notes))


def _that_peft_takes(model: torch.nn.Module, linear: Sequence[str], targets: Targets) -> Targets:
    """The targets without modules that PEFT refuses: `out_proj` of Mamba layers, whose kernels read its weight."""
    try:
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
    except ImportError:  # a PEFT before or after this check
        return targets
    from peft import LoraConfig

    def refused(path: str) -> bool:
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, path.rsplit(".", 1)[-1])
        except ValueError:
            return True
        return False

    paths = [path for path in linear if _ends(path, targets.modules)]
    kept = [path for path in paths if not refused(path)]
    if len(kept) == len(paths):
        return targets
    left = ", ".join(dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths if path not in kept))
    if not kept:
        raise BadInputError(
            f"adapter.layout: PEFT takes no LoRA on {left} of {type(model).__name__}; choose other modules"
        )
    return Targets(_shortest(model, kept), (*targets.notes, f"{left} carry no LoRA, which PEFT does not take there"))


def _that_peft_finds(model: torch.nn.Module, linear: Sequence[str], targets: Targets) -> Targets:
    """The targets without modules whose tensors PEFT looks for under another name when it loads an adapter.

    PEFT 0.21 renames an adapter's tensors as transformers renames those of old checkpoints. Where it does so by mistake
    (Laguna: the pattern `mlp.shared_expert.` matches `mlp.shared_experts`), it drops them and warns at most.
    """
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
    except ImportError:  # a PEFT before or after this translation
        return targets
    from peft import LoraConfig

    paths = [path for path in linear if _ends(path, targets.modules)]
    saved = {f"base_model.model.{path}.lora_A.weight": torch.zeros(1, 1) for path in paths}
    config = LoraConfig(target_modules=list(targets.modules))
    found = convert_peft_adapter_state_dict_for_transformers(model, config, saved)
    lost = [path for path, name in zip(paths, saved, strict=True) if name not in found]
    if not lost:
        return targets
    kept = [path for path in paths if path not in lost]
    ends = ", ".join(dict.fromkeys(".".join(path.split(".")[-2:]) for path in lost))
    if not kept:
        raise BadInputError(
            f"adapter.layout: PEFT could not load what was trained on {ends} of {type(model).__name__}, because it "
            "looks for their tensors under other names; choose other modules"
        )
    note = f"{ends} carry no LoRA, because PEFT looks for their tensors under other names when it loads an adapter"
    return Targets(_shortest(model, kept), (*targets.notes, note))


def _that_are_called(model: torch.nn.Module, linear: Sequence[str], targets: Targets) -> Targets:
    """The targets without modules that a text does not pass, on which LoRA could learn nothing.

    Such are those of a vision tower, and Mamba's `dt_proj`, whose weight is read past the module.
    """
    called = _called(model)
    paths = [path for path in linear if _ends(path, targets.modules)]
    kept = [path for path in paths if called is None or path in called or ".experts." in path]
    if len(kept) == len(paths):
        return targets
    parts = [path.split(".") for path in paths if path not in kept]
    left = ", ".join(dict.fromkeys(".".join(part for part in path if not part.isdigit()) for path in parts))
    if not kept:
        raise BadInputError(f"adapter.layout: no text passes through {left} of {type(model).__name__}; choose others")
    return Targets(
        _shortest(model, kept), (*targets.notes, f"{left} carry no LoRA, because no text passes through them")
    )


def _called(model: torch.nn.Module) -> set[str] | None:
    """Paths of the modules that a short text passes; None where the model cannot be run, as many on `meta` cannot."""
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _, __, path=path: called.add(path))
        for path, module in model.named_modules()
    ]
    training, device = model.training, next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.ones(1, 4, dtype=torch.long, device=device), use_cache=False)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        return None
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return called


def _means_experts(model: torch.nn.Module, name: str) -> bool:
    """Whether PEFT turns a target module of this name into a parameter of the routed experts."""
    from peft import LoraConfig

    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # a PEFT before or after this translation
        return False
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # "cannot convert without also targeting": one half of a fused pair
        return True
    return bool(config.target_parameters)


def _expert_parameters(model: torch.nn.Module) -> Mapping[str, torch.nn.Parameter]:
    """Parameters that hold many experts in one: three dimensions, or DBRX's two."""
    linear = {f"{path}.weight" for path in _linear_paths(model)}
    return {n: p for n, p in model.named_parameters() if ".experts." in n and p.dim() > 1 and n not in linear}


def _linear_paths(model: torch.nn.Module) -> list[str]:
    """Paths of all linear modules but the output head."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]


def _shortest(model: torch.nn.Module, chosen: Sequence[str]) -> tuple[str, ...]:
    """The shortest ends of paths that name the chosen modules and no other module of any kind, as PEFT reads them."""
    wanted = set(chosen)
    others = [path for path, _ in model.named_modules() if path and path not in wanted]
    ends: dict[str, None] = {}
    for path in chosen:
        parts = path.split(".")
        tries = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        ends[next(end for end in tries if not any(_ends(other, (end,)) for other in others))] = None
    return tuple(ends)


def _ends(path: str, ends: tuple[str, ...]) -> bool:
    return any(path == end or path.endswith(f".{end}") for end in ends)


def _listed(letters: Iterable[str]) -> str:
    inside = [letter for letter in ROLES if letter in set(letters)]
    return " and ".join(filter(None, [", ".join(inside[:-1]), inside[-1]]))


def _what_to_write(linear: Sequence[str]) -> str:
    names = sorted({path.rsplit(".", 1)[-1] for path in linear})
    if not names:
        return "it has no linear modules at all: choose another model"
    return f"choose among its linear modules with adapter.layout: [{', '.join(names)}]"
