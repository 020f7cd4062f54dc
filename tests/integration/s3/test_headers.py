"""What a company's bucket asks of requests, against a real server: keys of customers, tags, storage class."""

import base64
import hashlib

import pytest

from lorapar.errors import UnreachableError
from lorapar.store import fetch_tree, open_store, put_tree, s3_headers
from lorapar.store.base import Transfer

FIRST, SECOND = (base64.b64encode(bytes([number] * 32)).decode() for number in (1, 2))


def test_tree_under_a_customers_key_comes_back_with_that_key_alone(s3_address, tree, tmp_path, monkeypatch):
    monkeypatch.setenv(s3_headers.CUSTOMER_KEY, FIRST)
    store = open_store(s3_address)
    manifest = put_tree(store, tree)
    assert store.write_if_absent("first", b"x")
    assert not store.write_if_absent("first", b"y")
    fetch_tree(store, manifest, tmp_path / "back")
    assert (tmp_path / "back/large.bin").read_bytes() == (tree / "large.bin").read_bytes()
    for other in ("", SECOND):
        monkeypatch.setenv(s3_headers.CUSTOMER_KEY, other)
        with pytest.raises(UnreachableError) as caught:
            open_store(s3_address).read("first")
        assert FIRST not in str(caught.value)


def test_tags_and_storage_class_are_kept_by_the_server(s3_address, tree, monkeypatch):
    monkeypatch.setenv(s3_headers.TAGS, "team=nlp&cost=4%202")
    monkeypatch.setenv(s3_headers.STORAGE_CLASS, "STANDARD_IA")
    store = open_store(s3_address)
    store.write("whole", b"x")
    large = tree / "large.bin"
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    store.upload_all([Transfer(large, "parts", large.stat().st_size, digest)])
    store.renew("whole")
    for key in ("whole", "parts"):
        named = {"Bucket": store.bucket, "Key": f"{store.address.split('/', 3)[3]}/{key}"}
        tags = {one["Key"]: one["Value"] for one in store._client.get_object_tagging(**named)["TagSet"]}
        assert tags == {"team": "nlp", "cost": "4 2"}
        assert store._client.head_object(**named)["StorageClass"] == "STANDARD_IA"
