"""Keys and certificates, all made by the `cryptography` library: the server's authority, its certificate, site keys.

TLS certificates are X.509 (RFC 5280) over ECDSA P-256; a site's key is ECDSA P-384 in OpenSSH's format, as Flower
wants it.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from data.errors import InputError
from data.files import replaced
from federation.site_home import SiteHome

AUTHORITY_DAYS, SERVER_DAYS = 3650, 730


def make_authority(name: str, certificate: Path, key: Path) -> None:
    """Make a certificate authority for one federation; write its certificate and its private key."""
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{name} authority")
    built = (
        _begin(subject, subject, secret.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(secret, hashes.SHA256())
    )
    _write_secret(key, _pem(secret))
    _write(certificate, built.public_bytes(form.Encoding.PEM))


def make_server_certificate(
    names: Sequence[str], authority: Path, authority_key: Path, certificate: Path, key: Path
) -> None:
    """Make the server's certificate for the names and addresses by which sites reach it, signed by the authority."""
    issuer, issuer_key = read_certificate(authority), _read_key(authority_key)
    secret = ec.generate_private_key(ec.SECP256R1())
    built = (
        _begin(_name(names[0]), issuer.subject, secret.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_host(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    _write_secret(key, _pem(secret))
    _write(certificate, built.public_bytes(form.Encoding.PEM))


def make_site_key(name: str, key: Path, public_key: Path) -> None:
    """Make a site's key pair; the public part carries the site's name as its comment."""
    secret = ec.generate_private_key(ec.SECP384R1())
    _write_secret(key, secret.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()))
    public = secret.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    _write(public_key, public + f" {name}\n".encode())


def read_public_key(path: Path) -> tuple[ec.EllipticCurvePublicKey, str]:
    """Read a site's public key and the name that it carries; raise InputError when it is none."""
    try:
        words = path.read_text().split()
        key = form.load_ssh_public_key(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: no public key in OpenSSH's format; `mfscsn site init` makes one") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError(f"{path}: a key of another kind, expected ECDSA as `mfscsn site init` makes it")
    return key, words[2] if len(words) > 2 else ""


def check_site_key(home: SiteHome) -> None:
    """Raise InputError when the key in a site's folder is not of the site that ``site.toml`` names, or lies open."""
    public_keys = sorted(home.path.glob("*.pub"))
    if not home.key.exists() or not public_keys:
        raise InputError(f"{home.key}: no key; restore it, or make another with `mfscsn site new-key {home.path}`")
    if home.public_key not in public_keys or read_public_key(home.public_key)[1] != home.site.name:
        where = home.path / "site.toml"
        raise InputError(f"{where}: names the site {home.site.name!r}, but the key is that of {public_keys[0].stem!r}")
    if home.key.stat().st_mode & 0o077:
        raise InputError(f"{home.key}: others can read it; make it yours alone with chmod 600")


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate; raise InputError when it is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no certificate in PEM format") from error


def check_server_certificate(certificate: Path, key: Path, authority: Path, wanted: Sequence[str]) -> None:
    """Check a certificate of the coordinator's own: its key, who signed it, when it is valid, and for which names.

    Raises
    ------
    InputError
        One line that names the file and what does not fit.
    """
    shown, secret, issuer = read_certificate(certificate), _read_key(key), read_certificate(authority)
    if _public(secret.public_key()) != _public(shown.public_key()):
        raise InputError(f"{key}: not the key of the certificate {certificate}")
    try:
        shown.verify_directly_issued_by(issuer)
    except Exception as error:
        raise InputError(f"{certificate}: was not signed by the authority in {authority}") from error
    now, begins, ends = datetime.datetime.now(datetime.UTC), shown.not_valid_before_utc, shown.not_valid_after_utc
    if not begins <= now < ends:
        raise InputError(
            f"{certificate}: is valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC, and it is"
            f" {now:%Y-%m-%d %H:%M}: sites would refuse it"
        )
    names = hosts(certificate)
    for host in wanted:
        if host not in names and f"*.{host.partition('.')[2]}" not in names:
            known = ", ".join(sorted(names)) or "no host (it has no subjectAltName)"
            raise InputError(f"{certificate}: is for {known}, and not for {host}: sites would refuse it")


def hosts(certificate: Path) -> set[str]:
    """Return the names and addresses that a certificate is for."""
    try:
        names = read_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names}


def days_left(certificate: Path) -> int:
    """Count the days until a certificate runs out; negative when it has."""
    return (read_certificate(certificate).not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = form.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: no private key in PEM format without a password") from error
    return key  # type: ignore[return-value]  # RSA and others serve as well: only sign and public_key are used


def _begin(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def _public(key: object) -> bytes:
    return key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def _write(path: Path, content: bytes) -> None:
    with replaced(path) as out:
        out.write(content)


def _write_secret(path: Path, content: bytes) -> None:
    """Write what only this user may read; it never lies there open, not for a moment."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)) as out:
        out.write(content)
