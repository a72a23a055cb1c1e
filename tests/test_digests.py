import hashlib

from fgaa_utils.digests import sha256


def test_sha256_of_a_file_longer_than_a_block(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 100_000)
    assert sha256(path) == hashlib.sha256(b"0123456789" * 100_000).hexdigest()
