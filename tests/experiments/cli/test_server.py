"""`mfscsn server init`: what all sites agree on, as the coordinator first finds it."""

import pytest
from conftest import mfscsn, refused, tiny_toml

from federation.deployment.server_home import FederationFile, ServerFile, ServerHome


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


def test_a_certificate_that_sites_would_not_believe_makes_no_server(tmp_path):
    own = ServerHome.create(tmp_path / "own", ServerFile(hosts=["127.0.0.1"]), FederationFile(name="tiny")).path
    given = ("--certificate", own / "server.pem", "--key", own / "server.key", "--authority", own / "authority.pem")
    assert "and not for other.example: sites would" in refused(
        "server", "init", "s", "--host", "other.example", *given, cwd=tmp_path
    )
    assert "needs --certificate, --key and --authority" in refused(
        "server", "init", "s", "--host", "127.0.0.1", *given[:4], cwd=tmp_path
    )
    assert not (tmp_path / "s").exists()
    code, _, err = mfscsn("server", "init", "s", "--host", "127.0.0.1", *given, cwd=tmp_path)
    assert code == 0 and (tmp_path / "s" / "server.pem").read_bytes() == (own / "server.pem").read_bytes(), err
