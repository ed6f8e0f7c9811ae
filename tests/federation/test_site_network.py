"""Where the weights of a site's network come from."""

import torch
from conftest import federation_of, tiny_toml

from federation.site_network import server_network, site_network, site_seed
from federation.site_trials import SiteTrials


def rows(federation, prepared) -> dict[tuple[str, str], torch.Tensor]:
    """Each output's weights as they are before the first round: (site, label) -> row."""
    found = {}
    for site in federation.site:
        network = site_network(federation, SiteTrials(site, federation.contract, prepared))
        for branch, head in network.head_of.items():
            labels = site.dataset[0].labels(federation.contract)
            assert branch == site.dataset[0].name
            found |= {(site.name, label): network.heads[head][-1].weight[k] for k, label in enumerate(labels)}
    return found


def test_heads_of_one_label_start_alike_and_others_do_not(tmp_path, prepared):
    found = rows(federation_of(tiny_toml(contract='heads = "label"'), tmp_path), prepared)
    assert torch.equal(found["north", "right_hand"], found["south", "right_hand"])
    assert torch.equal(found["north", "rest"], found["south", "rest"])
    assert not torch.equal(found["south", "left_hand"], found["south", "right_hand"])
    other = rows(federation_of(tiny_toml(contract='heads = "label"', training="seed = 1"), tmp_path), prepared)
    assert not torch.equal(other["north", "rest"], found["north", "rest"])


def test_heads_start_by_site_unless_told(tmp_path, prepared):
    found = rows(federation_of(tiny_toml(), tmp_path), prepared)
    assert not torch.equal(found["north", "right_hand"], found["south", "right_hand"])


def test_a_secret_seed_moves_what_is_the_sites_own_and_nothing_else(tmp_path, prepared):
    plain, secret = (
        federation_of(tiny_toml(north=north), tmp_path) for north in ("", "secret_seed = 4611686018427387904")
    )
    assert site_seed(plain, plain.site[0]) == 0 and site_seed(secret, secret.site[0]) == 2**62
    before, after = (site_network(f, SiteTrials(f.site[0], f.contract, prepared)) for f in (plain, secret))
    assert all(torch.equal(before.common_state()[name], value) for name, value in after.common_state().items())
    private = "extractors.of-clinic.filters.spatial"
    assert not torch.equal(before.private_state()[private], after.private_state()[private])
    assert plain.digest() == secret.digest()  # the server need not know


def test_common_layers_start_the_same_everywhere(tmp_path, prepared):
    for contract in (
        'heads = "label"',
        "",
        'share = "all-but-extractor"\nlabels = ["left_hand", "right_hand", "rest"]',
    ):
        federation = federation_of(tiny_toml(contract=contract), tmp_path)
        start = server_network(federation).common_state()
        for site in federation.site:
            common = site_network(federation, SiteTrials(site, federation.contract, prepared)).common_state()
            assert common.keys() == start.keys() and all(torch.equal(common[name], start[name]) for name in start)
