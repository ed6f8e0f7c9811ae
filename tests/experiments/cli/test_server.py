"""`mfscsn server init`: what all sites agree on, as the coordinator first finds it."""

import pytest
from conftest import mfscsn, tiny_toml

from federation.deployment.server_home import ServerHome


@pytest.mark.parametrize(
    ("words", "contract", "masked"),
    [
        ([], "", False),  # two sites
        (["--sites", "4"], "", True),
        (["--sites", "3"], "", False),
        (["--sites", "4"], "secure_aggregation = false", False),  # said by hand
        (["--sites", "4"], 'strategy = "fedmedian"', False),  # looks at each site's layers
    ],
)
def test_updates_are_masked_from_four_sites_on_unless_said_otherwise(tmp_path, words, contract, masked):
    (tmp_path / "fed.toml").write_text(tiny_toml(contract, extractor="common-space"))
    code, out, err = mfscsn("server", "init", "s", "--host", "127.0.0.1", "--from", "fed.toml", *words, cwd=tmp_path)
    assert code == 0, err
    assert ServerHome(tmp_path / "s").federation.contract.secure_aggregation == masked
    assert f"secure_aggregation = {str(masked).lower()}: this server will see" in out


def test_without_a_file_the_number_of_sites_decides(tmp_path):
    for sites, masked in ((5, True), (None, False)):
        words = ["--sites", str(sites)] if sites else []
        code, _, err = mfscsn("server", "init", f"s{sites}", "--host", "127.0.0.1", *words, cwd=tmp_path)
        assert code == 0, err
        assert ServerHome(tmp_path / f"s{sites}").federation.contract.secure_aggregation == masked
