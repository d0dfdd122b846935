"""Model architectures: the script that converts each for backend `tensorrt`, and whether backend `pytorch` has it.

An architecture is here only where NVIDIA's sources name it: TensorRT-LLM's map of engine models and its convert scripts
(as they last were, 1.1 to 1.2), its list of models of the PyTorch backend (docs/source/models/supported-models.md, about
1.1), and its release notes for the version in which one came. Where those don't tell it for the PyTorch backend, it is
taken as 1.0, where that backend became stable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kfp_trtllm.core.backends.trtllm.releases import DEFAULT, check_backend, numbers
from kfp_trtllm.errors import InvalidSpec, unknown


@dataclass(frozen=True, kw_only=True)
class Family:
    """Architectures that share a convert script. Its arguments are in commands/convert_checkpoint.py.

    Attributes:
        script: Folder of convert_checkpoint.py under examples/models/core/.
        pipeline: Whether the script can split a model into pipeline stages.
        experts: Whether it can split mixtures of experts (--moe_tp_size, --moe_ep_size).
    """

    script: str
    pipeline: bool = True
    experts: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What runs an architecture, by backend.

    Attributes:
        family: Name in FAMILIES; "" where no convert script is known.
        tensorrt: The first version that builds its engines, as far as is known; "" where that was always so.
        pytorch: The first version whose LLM API is known to run it; "" for none.
    """

    family: str = ""
    tensorrt: str = ""
    pytorch: str = ""


FAMILIES: Mapping[str, Family] = {
    "gemma": Family(script="gemma", pipeline=False),
    "gpt": Family(script="gpt"),
    "llama": Family(script="llama", experts=True),
    "phi": Family(script="phi", pipeline=False, experts=True),  # it has --pp_size, and asserts that it is 1
    "qwen": Family(script="qwen", experts=True),
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "DeciLMForCausalLM": Architecture(pytorch="1.0"),
    "DeepseekV3ForCausalLM": Architecture(pytorch="1.0"),
    "Exaone4ForCausalLM": Architecture(pytorch="1.0"),
    "GPT2LMHeadModel": Architecture(family="gpt"),
    "GPTBigCodeForCausalLM": Architecture(family="gpt"),
    "Gemma2ForCausalLM": Architecture(family="gemma", tensorrt="0.13"),
    "Gemma3ForCausalLM": Architecture(family="gemma", tensorrt="0.19", pytorch="1.0"),
    "GemmaForCausalLM": Architecture(family="gemma"),
    "GptOssForCausalLM": Architecture(pytorch="1.1"),
    "LlamaForCausalLM": Architecture(family="llama", pytorch="1.0"),
    "MistralForCausalLM": Architecture(family="llama", pytorch="1.0"),
    "MixtralForCausalLM": Architecture(family="llama", pytorch="1.0"),
    "NemotronForCausalLM": Architecture(family="gpt", pytorch="1.0"),
    "Phi3ForCausalLM": Architecture(family="phi", pytorch="1.0"),
    "Phi3SmallForCausalLM": Architecture(family="phi", tensorrt="0.11"),
    "PhiForCausalLM": Architecture(family="phi"),
    "PhiMoEForCausalLM": Architecture(family="phi", tensorrt="0.14"),
    "Qwen2ForCausalLM": Architecture(family="qwen", tensorrt="0.12", pytorch="1.0"),
    "Qwen2MoeForCausalLM": Architecture(family="qwen", tensorrt="0.11", pytorch="1.0"),
    "Qwen3ForCausalLM": Architecture(family="qwen", tensorrt="1.0", pytorch="1.0"),
    "Qwen3MoeForCausalLM": Architecture(family="qwen", tensorrt="1.0", pytorch="1.0"),
    "SeedOssForCausalLM": Architecture(pytorch="1.1"),
    "Starcoder2ForCausalLM": Architecture(family="gpt", pytorch="1.2"),
}


def check(architecture: str, backend: str, version: str = DEFAULT) -> Architecture:
    """The architecture, when the backend of a version of TensorRT-LLM has it.

    Args:
        architecture: The first of `architectures` in the model's config.json.
        backend: "tensorrt" or "pytorch".
        version: Of TensorRT-LLM.

    Raises:
        InvalidSpec: It is unknown, or this backend or version lacks it; says which would do.
    """
    check_backend(backend, version)
    if architecture not in ARCHITECTURES:
        known = [name for name, entry in ARCHITECTURES.items() if backend == "pytorch" or entry.family]
        raise InvalidSpec(unknown(f"the architecture, for backend {backend},", architecture, known))
    found = ARCHITECTURES[architecture]
    if backend == "tensorrt":
        if not found.family:
            raise InvalidSpec(
                f"backend tensorrt can't build {architecture}, for which no convert script is known: use backend pytorch."
            )
        since = found.tensorrt
    else:
        since = found.pytorch
        if not since:
            raise InvalidSpec(
                f"backend pytorch is not known to run {architecture}: use backend tensorrt with TensorRT-LLM {DEFAULT}."
            )
    if since and numbers(version) < numbers(since):
        raise InvalidSpec(
            f"backend {backend} is known to have {architecture} from TensorRT-LLM {since} on, but got {version}: use "
            f"{DEFAULT}."
        )
    return found


def convert_script(family: str, version: str = DEFAULT) -> str:
    """Path of a family's convert_checkpoint.py under the folder examples/ of TensorRT-LLM.

    Raises:
        InvalidSpec: The family is unknown, or its place in that version is.
    """
    if family not in FAMILIES:
        raise InvalidSpec(unknown("family", family, FAMILIES))
    folder = FAMILIES[family].script
    check_backend("tensorrt", version)
    if numbers(version) >= numbers("1.0"):
        return f"models/core/{folder}/convert_checkpoint.py"
    if numbers(version) < numbers("0.20"):
        return f"{folder}/convert_checkpoint.py"
    # The scripts moved in one of these two.
    raise InvalidSpec(
        f"the version of TensorRT-LLM must be 1.0 or newer, or older than 0.20, to convert a checkpoint, but got "
        f"{version}, where the scripts' place is not known: use {DEFAULT}."
    )
