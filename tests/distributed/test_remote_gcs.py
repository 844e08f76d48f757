"""Stores and sequences on Google Cloud Storage: an emulator of it on loopback, through gcsfs."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from random_stores import toy_suite
from store_parts import FINGERPRINT, matches

from memoserve.catalog import connect
from memoserve.errors import StoreConflict
from memoserve.sequences import open_sequences
from memoserve.store import Store
from memoserve.store.verify import mend, verify
from memoserve.suites import Suite

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket."""
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import create_server

    put = objects._multipart_upload

    def conditional(request: Any, response: Any, storage: Any) -> None:
        """The emulator puts without looking; Cloud Storage refuses a put of what must not be there yet."""
        if request.query.get("ifGenerationMatch") == ["0"]:
            with contextlib.suppress(NotFound):
                storage.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
        put(request, response, storage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_multipart_upload", conditional)
        server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
        server.start()
        _, port = server._api._httpd.socket.getsockname()
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks over gRPC, which it lacks
        yield "gs://bucket"
        server.stop()


def test_a_store(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/{uuid.uuid4().hex[:8]}/store"
    assert not Store.is_at(url)
    store, suite = Store.create(url), toy_suite(tmp_path / "suite")
    store.claim(suite, FINGERPRINT)
    checkpoint = suite.checkpoint(suite.models[0], 7)
    for first in (0, 100):
        store.write_scores(checkpoint, first, first + 100, np.arange(first, first + 100), matches(100), "w")
    with pytest.raises(StoreConflict, match=r"already has sequences 0\.\.99"):
        store.write_scores(checkpoint, 50, 150, np.arange(50, 150), matches(100), "w")
    again = Store.open(url)
    assert again.read_scores("toy", "s", 7, 50, 150).sequence_id.tolist() == list(range(50, 150))
    assert again.missing("toy", "s", 7, [(0, 250)], 100) == [(200, 250)]
    with connect(url) as db:
        assert db.execute("SELECT count(*) FROM scores").fetchall() == [(200,)]
    assert verify(url).damages == ()
    part = store.parts("toy", "s", 7)[0]
    assert part.name in store.files.below("")
    assert store.files.entries(part.name.rpartition("/")[0])[part.name.rpartition("/")[2]].modified
    store.files.write(part.name, store.files.read(part.name)[:-20])
    assert [damage.name for damage in mend(store, "toy", [("s", 7)])] == [part.name]
    assert again.missing("toy", "s", 7, [(0, 200)], 100) == [(0, 100)]


def test_a_put_never_replaces_another_ones_and_one_run_holds_a_store(bucket: str) -> None:
    store = Store.create(f"{bucket}/{uuid.uuid4().hex[:8]}/store")
    store.files.create("a/b", b"first")
    store.files.create("a/b", b"first")  # as a put does whose answer was lost
    with pytest.raises(FileExistsError):
        store.files.create("a/b", b"second")
    assert store.files.read("a/b") == b"first"
    with store.lock(), pytest.raises(StoreConflict, match="in use by another run"):
        Store.open(store.path).lock().__enter__()
    with store.lock():
        pass


def test_sequences(bucket: str, mini: Suite) -> None:
    folder = mini.file.parent / "data"
    here = f"{bucket}/{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("gs").put(f"{folder}/", f"{here}/", recursive=True)
    local, remote = open_sequences(f"{folder}/train.idx"), open_sequences(f"{here}/train.idx")
    assert (remote.count, remote.identity()) == (local.count, local.identity())
    ids = np.array([3, 4, 700, 30_000])
    assert np.array_equal(remote.take(ids, 64), local.take(ids, 64))
