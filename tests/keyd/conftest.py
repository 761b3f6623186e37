"""The fault hook stands beside the data path's tests, certificates beside those of IKE."""

import sys
from pathlib import Path

for _place in ("datapath", "proto/ike"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _place))
