#!/usr/bin/env python3
"""Encrypted folders of the sync service, written a second time from sync/src/vault/'s words (PyNaCl, blake3,
argon2-cffi from PyPI), to print the vectors that `vectors_of_an_independent_program` in
sync/src/vault/vector_tests.rs holds the program to. Not in CI."""
import base64
import struct
import unicodedata

import argon2.low_level as argon2
from blake3 import blake3
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as seal

KEY = bytes(range(32))


def sub(purpose):
    return blake3(KEY, derive_key_context="pvfs2-sync 2026 vault v1: " + purpose).digest()


def name(number, text):
    aad, text = struct.pack("<q", number), text.encode()
    nonce = blake3(aad + text, key=sub("nonces of names")).digest()[:16]
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text.decode()).lower())
    tag = blake3(aad + folded.encode(), key=sub("folds of names")).digest()[:12]
    sealed = seal(text, aad, nonce + bytes(8), sub("names"))
    letters = base64.urlsafe_b64encode(tag) + base64.urlsafe_b64encode(nonce + sealed)
    return letters.decode().rstrip("=") + ".pv1"


def content(plain):
    bound = blake3(plain).digest() + struct.pack("<Q", len(plain))
    n = blake3(bound, key=sub("nonces of contents")).digest()
    head = b"pvfs2v1\0" + sub("key id")[:16] + n
    key = blake3(n, key=sub("contents")).digest()
    pieces = [plain[i : i + 65536] for i in range(0, len(plain), 65536)] or [b""]
    out = head
    for i, piece in enumerate(pieces):
        nonce = bytes(19) + struct.pack(">I", i) + bytes([i + 1 == len(pieces)])
        out += seal(piece, head, nonce, key)
    return out


def key_file(passphrase):
    ident, salt, nonce = sub("key id").hex(), bytes(range(16)), bytes(range(24))
    under = argon2.hash_secret_raw(passphrase, salt, 3, 65536, 1, 32, argon2.Type.ID)
    aad = f"pvfs2-vault 1 {ident} 1 argon2id 65536 3 1 {salt.hex()}".encode()
    written = bytes([0xA5]) * 32
    recovery = blake3(written, derive_key_context="pvfs2-sync 2026 vault v1: recovery").digest()
    of = f"pvfs2-vault 1 recovery {ident}".encode()
    return (nonce + seal(KEY, aad, nonce, under)).hex(), (nonce + seal(KEY, of, nonce, recovery)).hex()


print("id", sub("key id").hex())
print("name", name(0, "diary.txt"))
print("name", name(42, "Résumé"))
for plain in [b"", b"dear diary", bytes(i % 251 for i in range(200_000))]:
    sealed = content(plain)
    print("content", len(plain), sealed.hex() if len(sealed) < 100 else blake3(sealed).hexdigest())
print("slots", *key_file(b"correct horse battery"))
