"""What a secure sum borrows at both ends: SecAgg+'s words and records, and the site's stages of it."""

from importlib import import_module
from typing import Any

from flwr.common import Code, FitIns, FitRes, Parameters, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

__all__ = [
    "RECORD_KEY_CONFIGS",
    "RECORD_KEY_STATE",
    "Code",
    "FitIns",
    "FitRes",
    "Key",
    "Parameters",
    "Stage",
    "Status",
    "at_site",
    "bytes_to_ndarray",
    "combine_shares",
    "fitres_to_recorddict",
    "generate_shared_key",
    "ndarrays_to_parameters",
]

at_site: Any = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")  # a function has the module's name
