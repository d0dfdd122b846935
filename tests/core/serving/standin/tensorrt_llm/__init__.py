"""Stands in for NVIDIA's package, which needs a GPU: the same calls, for what core/serving/trtllm_engine.py uses.

It answers with the prompt's tokens, over and over. Like TensorRT-LLM 1.2.1 it refuses arguments of LLM() and fields of
SamplingParams that it doesn't know (both lists from that version's sources), it refuses to await a result that was made
where no event loop ran, and an aborted request's stream ends by itself.

TRTLLM_STANDIN (JSON), and over it standin.json in the model's folder, make it misbehave:

    load            message of an error at load
    fail_every      every n-th request fails, by itself
    fail_all        every request fails, as after a sticky CUDA error
    die_at          the n-th request kills the executor, silently
    seconds         between two tokens
    end_at          the model says "end of text" after so many tokens
    shows_end       whether the stream holds that token (backends and versions differ)
    record          file in the model's parent folder that receives the arguments of LLM(); `aborted` counts aborts there
    load_seconds    that loading takes
"""

from __future__ import annotations

from ._base import SamplingParams, TorchLLM

__version__ = "1.2.1"
__all__ = ["LLM", "SamplingParams"]


class LLM(TorchLLM):
    """The PyTorch backend's class."""
