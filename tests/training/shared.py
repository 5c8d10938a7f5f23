"""One of several processes that train together: torchrun shared.py FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from killed import SHARED, train

train(sys.argv[1], **SHARED)
# Threads of gloo sometimes abort a process that is ending; by now all is done and on disk.
sys.stdout.flush()
os._exit(0)
