"""What a network may be told to be, by name. No torch: a contract is read by many that train nothing."""

from typing import Literal

COMMON_SPACE = "common-space"  # an extractor: `mfscsn.network.Anchored`
SUMS, MEANS = "sums", "means"  # bodies: `mfscsn.sums`

Share = Literal["middle", "none", "all-but-head", "all-but-extractor", "all-but-norm", "all"]
SHARES_EXTRACTOR = ("all-but-head", "all-but-norm", "all")
SHARES_HEAD = ("all-but-extractor", "all-but-norm", "all")
