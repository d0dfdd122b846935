"""Where a model comes from. To add a source: one module with one class that implements `base.Source`, and a line here."""

from __future__ import annotations

from kfp_trtllm.core import plugins
from kfp_trtllm.core.sources.base import Fetched, OnProgress, Resolved, Source, redact
from kfp_trtllm.errors import InvalidSpec

__all__ = ["SOURCES", "Fetched", "OnProgress", "Resolved", "Source", "parse"]

SOURCES = {
    "file": "kfp_trtllm.core.sources.file:FileSource",
    "hf": "kfp_trtllm.core.sources.hf:HubSource",
    "sample": "kfp_trtllm.core.sources.sample:SampleSource",
}


def parse(source: str) -> Source:
    """The source that a URL names; reads nothing but the URL.

    Args:
        source: For example "hf://org/name@revision", "file:///models/llama" or "sample://smollm2-135m".

    Raises:
        InvalidSpec: There is no such scheme, or a part of the URL is missing or wrong.
    """
    scheme, separator, location = source.strip().partition("://")
    if not separator:
        raise InvalidSpec(
            f"source must be a URL such as hf://org/name, file:///path or sample://smollm2-135m, but got {redact(source)!r}."
        )
    found: type[Source] = plugins.load("source's scheme", redact(scheme), SOURCES)
    if not location:
        raise InvalidSpec(f"source must name a model after {scheme}://, but got {source.strip()!r}.")
    return found.parse(location)
