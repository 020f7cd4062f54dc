"""How many processes do a stage on this machine, and what each does of it; `plan` asks too, without torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import gcd

from lorapar.config import RlConfig, RunConfig, SftConfig
from lorapar.errors import BadInputError
from lorapar.imports import import_at_once


def visible_gpus() -> int:
    """How many GPUs torch sees; none where it is not installed."""
    if find_spec("torch") is None:
        return 0
    import_at_once("torch")
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@dataclass(frozen=True)
class Share:
    """What each of several processes does of an optimiser step."""

    processes: int
    batch_size: int
    """Rows or completions in one forward pass of one process."""
    gradient_accumulation: int
    """Forward passes of one process to one optimiser step."""


def share_of(config: SftConfig | RlConfig, processes: int) -> Share | None:
    """The same rows a step, divided evenly among so many processes; None where that cannot be.

    A group of completions of one prompt stays in one process, so that a reward sees it whole.
    """
    common = gcd(config.gradient_accumulation, processes)
    batch_size, torn = divmod(config.batch_size, processes // common)
    share = Share(processes, batch_size, config.gradient_accumulation // common)
    if isinstance(config, RlConfig):
        torn = torn or (share.batch_size * share.gradient_accumulation) % config.num_generations
    return None if torn else share


def best_share(config: SftConfig | RlConfig, most: int) -> Share:
    """That of the most processes, up to `most`, among which a step can be divided evenly."""
    shares = (share_of(config, count) for count in range(most, 0, -1))
    return next(share for share in shares if share is not None)


def wanted_processes(gpus: int, most: int | None) -> int:
    """One process a GPU, `most` at most; without a GPU that many."""
    return min(most or gpus or 1, gpus or sys.maxsize)


def chosen_share(config: SftConfig | RlConfig, gpus: int, most: int | None) -> tuple[Share, str | None]:
    """One process a GPU, `most` at most (without a GPU that many), and why there are fewer, where there are."""
    wanted = wanted_processes(gpus, most)
    if wanted > 1 and isinstance(config, RlConfig) and config.rollouts == "vllm":
        why = (
            "rl.rollouts vllm samples in one process, so one trains; transformers samples in each, and a server for all"
        )
        return best_share(config, 1), why
    share = best_share(config, wanted)
    if share.processes == wanted:
        return share, None
    groups = f", in whole groups of {config.num_generations}" if isinstance(config, RlConfig) else ""
    why = (
        f"{share.processes} of {wanted} processes train: batch_size {config.batch_size} times "
        f"gradient_accumulation {config.gradient_accumulation} cannot be divided evenly among {wanted}{groups}; "
        f"make gradient_accumulation a multiple of {wanted}"
    )
    return share, why


def share_on_nodes(config: SftConfig | RlConfig, nodes: int, each: int, most: int | None) -> tuple[Share, str | None]:
    """The same number of processes on each of several machines, `each` at most and `most` in all; and why fewer.

    Raises BadInputError where a step cannot be divided among them.
    """
    section = "rl" if isinstance(config, RlConfig) else "sft"
    if isinstance(config, RlConfig) and config.rollouts == "vllm":
        raise BadInputError(
            f"rl.rollouts vllm samples in one process, and {nodes} nodes train: set it to transformers or server"
        )
    if most is not None and most < nodes:
        raise BadInputError(f"processes: {most} in all are fewer than one on each of {nodes} nodes; raise it")
    wanted = min(each, most // nodes) if most else each
    for count in range(wanted, 0, -1):
        if share := share_of(config, nodes * count):
            if count == wanted:
                return share, None
            why = f"{_step(config)} cannot be divided evenly among {nodes} times {wanted} processes"
            return share, f"{count} of {wanted} processes train on each node: {why}"
    raise BadInputError(
        f"{section}: {_step(config)} cannot be divided evenly among {nodes} nodes; make gradient_accumulation a "
        f"multiple of {nodes}"
    )


def nodes_text(config: RunConfig, stage: str, nodes: int, each: int) -> list[str]:
    """What each process of sft or rl does on several machines, and why there are fewer; by phase where phases differ.

    Nothing of a node that no phase trains in. Raises BadInputError, with the phase where there are several.
    """

    def described(section: SftConfig | RlConfig) -> list[str]:
        share, why = share_on_nodes(section, nodes, each, config.processes)
        part = f"{_part(share)}{_PART_OF_BASE if config.sharding == 'fsdp2' else ''}"
        here = f"{share.processes // nodes} on each of {nodes} nodes"
        return [f"{share.processes} processes, {here}, each with {part}", *([] if why is None else [why])]

    return _by_phase(config, stage, described)


def _by_phase(config: RunConfig, stage: str, described: Callable[[SftConfig | RlConfig], list[str]]) -> list[str]:
    """What there is to say of each phase that a node trains, with its name; once, where it is the same of all."""
    phases = config.trained_by("sft" if stage == "sft" else "rl")
    found: list[tuple[str, list[str]]] = []
    for phase, section in phases:
        try:
            found.append((phase, described(section)))
        except BadInputError as error:
            raise BadInputError(f"{phase}: {error}" if len(phases) > 1 else str(error)) from None
    if all(lines == found[0][1] for _, lines in found):
        return found[0][1] if found else []
    return [f"{phase}: {line}" for phase, lines in found for line in lines]


_PART_OF_BASE = ", and a part of the base"


def _part(share: Share) -> str:
    return f"batch_size {share.batch_size}, gradient_accumulation {share.gradient_accumulation}"


def _step(config: SftConfig | RlConfig) -> str:
    """What an optimiser step is made of."""
    groups = f", in whole groups of {config.num_generations}," if isinstance(config, RlConfig) else ""
    return f"batch_size {config.batch_size} times gradient_accumulation {config.gradient_accumulation}{groups}"


NOT_SHARDED = "sharding is fsdp2, but one process trains, and holds the whole base; see processes"
ANSWERS_IN_ONE = "evaluate.backend vllm answers in one process; transformers answers in one for each GPU"
SHARED_STAGES = ("score", "sft", "rl", "evaluate")
"""Stages that several processes do together."""


def processes_text(config: RunConfig, stage: str, gpus: int) -> list[str]:
    """In how many processes a stage is done where so many GPUs are visible, if not in one, and why not in more.

    Of sft and rl by phase, where phases differ.
    """

    def trained(section: SftConfig | RlConfig) -> list[str]:
        share, why = chosen_share(section, gpus, config.processes)
        if config.sharding == "fsdp2" and share.processes == 1:
            why = why or NOT_SHARDED
        return _counted(share.processes, f"{_part(share)}{_PART_OF_BASE if config.sharding == 'fsdp2' else ''}", why)

    if stage in ("sft", "rl"):
        return _by_phase(config, stage, trained)
    count, why = wanted_processes(gpus, config.processes), None
    if stage == "score":
        count = min(count, -(-config.score.examples // config.score.batch_size))
    elif config.evaluate.backend == "vllm" and count > 1:
        count, why = 1, ANSWERS_IN_ONE
    return _counted(count, "a part of the rows", why)


def _counted(count: int, each: str, why: str | None) -> list[str]:
    return [*([f"{count}, each with {each}"] if count > 1 else []), *([] if why is None else [why])]
