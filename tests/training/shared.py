"""One of several processes that train together: torchrun shared.py FOLDER [LAST].

With LAST the process that writes dies without a word after the report of that step.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from killed import SHARED, train


def dying(last: int):
    def callback(record: dict) -> None:
        if record["step"] >= last:
            os._exit(9)

    return callback


own = {"callback": dying(int(sys.argv[2]))} if len(sys.argv) > 2 else {}
train(sys.argv[1], **SHARED, **own)
# Threads of gloo sometimes abort a process that is ending; by now all is done and on disk.
sys.stdout.flush()
os._exit(0)
