"""How generated code is run: the section `execute`."""

from typing import Annotated, Literal

from pydantic import Field

from lorapar.config.base import Positive, Section


class ExecuteConfig(Section):
    """The sandbox that generated code runs in, and what one program may use."""

    sandbox: Literal["strict", "best_effort"] = Field(
        "strict", description="strict: refuse to run code where a protection is missing; best_effort: run, and say so"
    )
    workers: Positive = Field(2, description="Programs that run side by side")
    wall_seconds: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(10.0, description="Longest run of a program")
    cpu_seconds: Positive = Field(10, description="CPU time of a program")
    memory_mib: Annotated[int, Field(ge=64)] = Field(1024, description="Address space of a program")
    threads: Positive = Field(16, description="Threads of a program")
    file_mib: Positive = Field(16, description="Longest file a program may write")
    scratch_mib: Positive = Field(64, description="All files of a program together")
    output_kib: Positive = Field(64, description="What a program may print")
