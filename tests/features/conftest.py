"""This folder on the path, for `oracle` and `strategies`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
