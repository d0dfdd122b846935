"""What both TensorRT-LLM backends share: NVIDIA's releases, tools, precisions and GPUs as data, and the memory model.

    backend.py     the half of the backends' code that is the same
    variants.py    precisions, in each tool's own words
    releases.py    TensorRT-LLM, Triton, TensorRT, CUDA and driver versions that belong together
    gpus.py        GPU kinds: memory, bandwidth, compute capability, labels
    shape.py       a model's dimensions, from its config.json
    families.py    model architectures and the convert scripts that know them
    commands/      each tool's arguments, and argv made from them
    legacy.py      what older guides call these arguments
    probe.py       the tables against the tools' own --help
    llm_args.py    the arguments of LLM()
    launch.py      how Triton is started for several GPUs
    devices.py     the GPUs that are really there
    folders.py     what the tools leave, checked
    planning.py    what both backends settle before anything is spent
    memory.py      bytes per GPU: weights, KV cache, activations, workspace

Nothing here imports tensorrt_llm: planning runs on a CPU.
"""
