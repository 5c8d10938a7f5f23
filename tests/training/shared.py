"""One of several processes that train together: torchrun shared.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from killed import SHARED, train

train(sys.argv[1], **SHARED)
