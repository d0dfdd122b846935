"""Hard links, so that bytes exist once on a disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


def link(source: Path, target: Path) -> None:
    """A hard link; a read-only copy where the file system allows none."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(source, target)
        target.chmod(0o444)
