"""A Triton model repository whose model repeats the words of its prompt, and does worse things when asked to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kfp_trtllm.core.manifest import File, Manifest
from kfp_trtllm.core.targets.base import Revision

_CONFIG = """
name: "{model}"
backend: "python"
max_batch_size: 0
version_policy {{ all {{ }} }}
model_transaction_policy {{ decoupled: {decoupled} }}
input [{{ name: "text_input" data_type: TYPE_STRING dims: [1] }}]
output [{{ name: "text_output" data_type: TYPE_STRING dims: [1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""

_MODEL = """
import os, signal, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.version = args["model_version"]
        self.decoupled = '"decoupled":true' in args["model_config"].replace(" ", "")
        {initialize}

    def execute(self, requests):
        if not self.decoupled:
            return [self.whole(request) for request in requests]
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0].decode()
            threading.Thread(target=self.answer, args=(request.get_response_sender(), text)).start()

    def whole(self, request):
        text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0].decode()
        output = text.replace("version", self.version).encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", np.array([output], dtype=object))])

    def answer(self, sender, text):
        for word in text.split():
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "kill-triton":
                os.kill(os.getppid(), signal.SIGKILL)
            if word == "packages":
                word = np.__file__
            if word == "version":
                word = self.version
            if word.startswith("sleep="):
                time.sleep(float(word.removeprefix("sleep=")))
            output = pb_utils.Tensor("text_output", np.array([word.encode()], dtype=object))
            sender.send(pb_utils.InferenceResponse([output]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def echo(
    folder: Path,
    name: str = "one",
    *,
    model: str = "echo",
    initialize: str = "pass",
    versions: tuple[int, ...] = (1,),
    decoupled: bool = True,
) -> tuple[Revision, Path]:
    """Writes a repository and returns the revision that it makes.

    Args:
        folder: Receives one folder per name.
        name: Makes the revision differ from others.
        model: Model name.
        initialize: Statement that the model executes when it is loaded.
        versions: Triton's numbers, each with a model that tells its own when asked for "version".
        decoupled: Whether it streams.
    """
    repository = folder / f"{model}-{name}"
    for version in versions:
        (repository / model / str(version)).mkdir(parents=True)
        (repository / model / str(version) / "model.py").write_text(_MODEL.replace("{initialize}", initialize))
    config = _CONFIG.format(model=model, decoupled=str(decoupled).lower())
    (repository / model / "config.pbtxt").write_text(config)
    digest = hashlib.sha256(f"{name} {initialize}".encode()).hexdigest()
    manifest = Manifest(
        kind="repository",
        files=(File(path=f"{model}/1/model.py", size=1, sha256=digest),),
        facts={
            "model_name": model,
            "model_version": versions[-1],
            "versions": versions,
            "backend": "onnxruntime",
            "variant": "int4",
            "engine": f"sha256:{digest}",
            "decoupled": decoupled,
            "chat_template": False,
            "max_batch_size": 1,
            "max_input_len": 64,
            "max_seq_len": 128,
        },
    )
    return Revision.of(manifest), repository
