"""Deployments for tests, ended after each."""

import pytest
from deployment.harness import TINY, Deployment, tiny_site


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path)
    yield made
    made.end()


@pytest.fixture
def three_tiny_sites(deployment):
    """A server that is served, and three sites with few simulated trials, checked and registered."""

    def make(rounds, local_epochs=1, contract="min_sites = 2"):
        deployment.begin(
            f'name = "tiny"\n[contract]\nwindow = [0.5, 2.5]\n{contract}\n'
            f"[training]\nrounds = {rounds}\nbatch_size = 8\nlocal_epochs = {local_epochs}\n"
        )
        for name, source in zip(("north", "south", "west"), TINY, strict=True):
            deployment.add_site(name, tiny_site(source))
        deployment.serve()
        return deployment

    return make
