"""Pipelines' parameters, taken from the specs of their steps: each name, default and description has one place.

KFP reads a pipeline's signature and docstring. Components need theirs in writing, since KFP ships their source; a
pipeline is only ever executed here, so its signature can be made.
"""

import dataclasses
import importlib
import inspect
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp_trtllm.check_release.spec import STEPS, Release
from kfp_trtllm.core.command import attributes

from pipelines.platforms import Parameter, Platform

BUILD = (
    "resolve_model",
    "fetch_model",
    "plan_build",
    "convert_checkpoint",
    "build_engine",
    "evaluate_accuracy",
    "benchmark_engine",
    "select_engine",
    "package_repository",
)
DEPLOY = ("deploy_triton", "smoke_test", "roll_out_canary", "close_release")

Body = Callable[[dict[str, Any], Platform], Any]


def of(steps: Sequence[str], platform: Platform) -> list[Parameter]:
    """The parameters that any of the steps takes, in the order of check_release, and then the platform's own."""
    described: dict[str, str] = {}
    for step in steps:
        spec = getattr(importlib.import_module(f"kfp_trtllm.{step}.spec"), STEPS[step])
        described = {**attributes(spec), **described}
        described |= {"variants": "Precisions to build and choose from."} if "variant" in described else {}
    hints = typing.get_type_hints(Release)
    found = [
        Parameter(
            name=field.name,
            annotation=_annotation(hints[field.name]),
            default=platform.defaults.get(field.name, _default(field)),
            description=described[field.name],
        )
        for field in dataclasses.fields(Release)
        if field.name in described
        and field.name not in platform.left_out
        and not (field.name == "repository" and "package_repository" in steps)  # the run makes it
    ]
    if "plan_build" in steps:
        found += platform.parameters
    # What has no default comes first in a signature.
    return sorted(found, key=lambda parameter: parameter.default is not inspect.Parameter.empty)


def pipeline(
    steps: Sequence[str], *, display_name: str, description: str, returns: str = ""
) -> Callable[[Body], Callable[[Platform], Any]]:
    """Makes a pipeline of a function over (parameters by name, platform): one for each platform.

    Args:
        steps: Whose parameters it takes.
        display_name: For the UI.
        description: For the UI.
        returns: What its output is; "" where it has none.
    """

    def wrap(body: Body) -> Callable[[Platform], Any]:
        def on(platform: Platform) -> Any:
            parameters = of(steps, platform)

            def function(*channels: Any) -> Any:
                return body(dict(zip((parameter.name for parameter in parameters), channels, strict=True)), platform)

            function.__name__ = body.__name__
            function.__doc__ = _docstring(description, parameters, returns)
            function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
                [
                    inspect.Parameter(
                        parameter.name,
                        inspect.Parameter.POSITIONAL_OR_KEYWORD,
                        default=parameter.default,
                        annotation=parameter.annotation,
                    )
                    for parameter in parameters
                ],
                return_annotation=str if returns else inspect.Signature.empty,
            )
            name = body.__name__.replace("_", "-")
            return dsl.pipeline(name=name, display_name=display_name, description=description)(function)

        on.__name__, on.__doc__ = body.__name__, body.__doc__
        return on

    return wrap


def _annotation(hint: Any) -> Any:
    """The type as KFP wants it."""
    origin = typing.get_origin(hint)
    if origin is not None and issubclass(origin, Mapping):
        return dict
    if origin is not None and issubclass(origin, Sequence):
        return list[typing.get_args(hint)[0]]  # type: ignore[misc]
    return hint


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.name == "repository":  # empty only where the run makes it
        return inspect.Parameter.empty
    if field.name == "store":
        return "file://~/.kfp-trtllm/store"
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _docstring(summary: str, parameters: Sequence[Parameter], returns: str) -> str:
    arguments = "\n".join(f"    {parameter.name}: {parameter.description}" for parameter in parameters)
    ending = f"\nReturns:\n{textwrap.indent(returns, '    ')}\n" if returns else ""
    return f"{summary}\n\nArgs:\n{arguments}\n{ending}"
