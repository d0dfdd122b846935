"""See trtllm_tools.py."""

from trtllm_tools import convert

convert("llama")
