"""This folder on the path, for `worlds` and `drift_worlds`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
