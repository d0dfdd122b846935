"""What the task files name as `!function`: how their items are read and their answers scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kfp_trtllm.core.evaluation.tasks import FOLDER


def items(*, data_file: str, **_metadata: Any) -> dict[str, Any]:
    """The items of a JSONL file in this folder, as the split "test".

    They are read into memory: datasets' own JSON loader would copy them into a cache in the user's home, and would
    look for the file in the working directory.

    Args:
        data_file: Name of the file.
        **_metadata: What else the harness passes.
    """
    import hashlib
    import json

    import pyarrow  # type: ignore[import-untyped]
    from datasets import Dataset  # type: ignore[import-untyped]

    text = (FOLDER / data_file).read_text(encoding="utf-8")
    table = pyarrow.Table.from_pylist([json.loads(line) for line in text.splitlines()])
    # Without a fingerprint, datasets would make one by pickling pyarrow, which not every installation can.
    return {"test": Dataset(table, fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16])}


def says(item: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """1 when one of the item's targets is a word (or words) of the answer; letter case does not matter.

    Chat models wrap an answer in a sentence; asking for equality would measure obedience, not damage.
    """
    answer = answers[0].lower()
    found = any(re.search(rf"(?<!\w){re.escape(target.lower())}(?!\w)", answer) for target in item["targets"])
    return {"acc": float(found)}
