"""The fault hook stands beside the data path's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "datapath"))
