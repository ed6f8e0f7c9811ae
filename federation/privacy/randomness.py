"""Random numbers that nobody else can foretell: key streams, and the noise and draws of differential privacy."""

import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from scipy.special import ndtri


def key_stream(key: bytes, n_bytes: int) -> bytes:
    """Return the first bytes of ChaCha20's key stream (RFC 8439), with a nonce of zeros: a key serves once."""
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(n_bytes))


def secret_uniform(n: int) -> NDArray[np.float64]:
    """Draw `n` numbers between 0 and 1, ends excluded, from a key that the operating system gives and nobody keeps."""
    words = np.frombuffer(key_stream(secrets.token_bytes(32), 8 * n), "<u8")
    return np.asarray(((words >> np.uint64(12)) + 0.5) / 2.0**52, np.float64)


def secret_normal(n: int) -> NDArray[np.float64]:
    """Draw `n` standard normal numbers from a key that the operating system gives and nobody keeps."""
    normal: NDArray[np.float64] = ndtri(secret_uniform(n))
    return normal
