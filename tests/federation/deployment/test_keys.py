"""Keys and certificates: ours against the standard library's TLS, and the mistakes a person makes with them."""

import shutil
import socket
import ssl
import stat
import subprocess
import threading

import pytest

from data.errors import InputError
from federation.deployment.keys import (
    check_server_certificate,
    days_left,
    make_authority,
    make_server_certificate,
    make_site_key,
    read_public_key,
)


@pytest.fixture
def made(tmp_path):
    make_authority("tiny", tmp_path / "authority.pem", tmp_path / "authority.key")
    make_server_certificate(
        ["localhost", "127.0.0.1"], tmp_path / "authority.pem", tmp_path / "authority.key", tmp_path / "server.pem",
        tmp_path / "server.key",
    )  # fmt: skip
    return tmp_path


def shake_hands(folder, authority, host):
    """A TLS handshake over loopback as Python's own library does it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        try:
            server.wrap_socket(connection, server_side=True).close()
        except (ssl.SSLError, OSError):
            connection.close()

    threading.Thread(target=answer, daemon=True).start()
    client = ssl.create_default_context(cafile=authority)
    with socket.create_connection(listener.getsockname(), timeout=5) as plain:
        client.wrap_socket(plain, server_hostname=host).close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_certificate_is_believed_for_its_names_and_addresses(made, host):
    shake_hands(made, made / "authority.pem", host)
    assert 700 < days_left(made / "server.pem") <= 730 and days_left(made / "authority.pem") > 3600


def test_not_for_another_name_nor_under_another_authority(made, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made, made / "authority.pem", "example.org")
    make_authority("other", tmp_path / "other.pem", tmp_path / "other.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made, made / "other.pem", "localhost")


def test_private_keys_are_for_their_owner_alone(made):
    make_site_key("north", made / "site.key", made / "north.pub")
    for name in ("authority.key", "server.key", "site.key"):
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):  # a key is never written over
        make_site_key("north", made / "site.key", made / "north.pub")


def test_a_site_key_says_whose_it_is_and_openssh_reads_it(tmp_path):
    make_site_key("north", tmp_path / "site.key", tmp_path / "north.pub")
    key, name = read_public_key(tmp_path / "north.pub")
    assert name == "north" and key.curve.name == "secp384r1"
    if shutil.which("ssh-keygen"):
        command = ["ssh-keygen", "-l", "-f", tmp_path / "north.pub"]
        assert b"(ECDSA)" in subprocess.run(command, capture_output=True, check=True).stdout


def test_what_is_no_key_is_named(tmp_path):
    (tmp_path / "junk.pub").write_bytes(b"\xff\xfe junk")
    for name, words in (("junk.pub", "no public key in OpenSSH's format"), ("nothing.pub", "no such file")):
        with pytest.raises(InputError, match=f"{name}: {words}"):
            read_public_key(tmp_path / name)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
def test_a_certificate_of_ones_own_authority(made, tmp_path):
    """RSA, made by openssl, as a hospital's IT has it."""

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=it")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=localhost")
    (tmp_path / "names").write_text("subjectAltName=DNS:fl.example.org,DNS:*.lab.example.org,IP:127.0.0.1")
    sign = ["x509", "-req", "-in", "own.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl(*sign, "-extfile", "names", "-out", "own.pem")
    openssl(*sign, "-out", "nameless.pem")
    openssl(*sign, "-extfile", "names", "-days", "-1", "-out", "old.pem")
    key, authority = tmp_path / "own.key", tmp_path / "ca.pem"
    good = ["fl.example.org", "127.0.0.1", "eeg.lab.example.org"]
    check_server_certificate(tmp_path / "own.pem", key, authority, good)
    with pytest.raises(InputError, match="own.key: not the key of the certificate"):
        check_server_certificate(made / "server.pem", key, made / "authority.pem", [])
    with pytest.raises(InputError, match="own.pem: was not signed by the authority"):
        check_server_certificate(tmp_path / "own.pem", key, made / "authority.pem", [])
    for host in ("example.org", "other.example.org", "a.b.lab.example.org", "10.0.0.1"):
        with pytest.raises(InputError, match=rf"own.pem: is for .*fl.example.org, and not for {host}: sites would"):
            check_server_certificate(tmp_path / "own.pem", key, authority, [*good, host])
    with pytest.raises(InputError, match="is for no host .it has no subjectAltName., and not for localhost"):
        check_server_certificate(tmp_path / "nameless.pem", key, authority, ["localhost"])
    with pytest.raises(InputError, match="old.pem: is valid from .* UTC, and it is 20"):
        check_server_certificate(tmp_path / "old.pem", key, authority, good)
