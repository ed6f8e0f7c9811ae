import pytest

from data.errors import InputError
from data.sources import open_source


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bids:/no/such/folder", "bids:/no/such/folder: no such folder"),
        ("moabb:PhysionetMj", "MOABB has no such data set; did you mean 'PhysionetMI'"),
        (
            "edf:x",
            "source 'edf:x': expected one of bids:..., files:..., arrays:..., beetl:..., moabb:..., simulated:...",
        ),
    ],
)
def test_what_cannot_be_opened_is_named(spec, message):
    with pytest.raises(InputError, match=message):
        open_source(spec)
