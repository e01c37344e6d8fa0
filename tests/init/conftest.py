"""The folder of the generated files' module on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # messy
