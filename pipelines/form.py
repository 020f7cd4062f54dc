"""The fields of Kubeflow's form as the signature of a pipeline, which is where KFP reads them.

`lorapar/kubeflow/parameters.py` says each of them once; nothing here repeats one.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from lorapar.kubeflow.parameters import PARAMETERS, Parameter


def field(parameter: Parameter) -> inspect.Parameter:
    """A parameter that a person may leave as it is."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(parameter.name, kind, default=parameter.default, annotation=parameter.type)


FORM = [field(parameter) for parameter in PARAMETERS]


def takes(parameters: list[inspect.Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let KFP see a function of `**given` as one of these parameters."""
    signature = inspect.Signature(parameters, return_annotation=None)

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(body)
        def pipeline(*values: Any) -> None:
            body(**signature.bind(*values).arguments)

        pipeline.__signature__ = signature  # type: ignore[attr-defined]
        return pipeline

    return decorate
