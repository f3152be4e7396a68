"""A store in a bucket: moto speaks S3's protocol on loopback. Skipped without moto and s3fs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest
from command import Run
from store_world import QuietConsole, assert_whole, build, chain, ids

from r1pipe.errors import StoreError
from r1pipe.pipeline.run import run as run_manifest
from r1pipe.sharing.exchange import push
from r1pipe.sharing.remote import Remote, open_remote
from r1pipe.store.store import Store

s3fs = pytest.importorskip("s3fs")
if find_spec("moto") is None or find_spec("flask") is None:
    pytest.skip("moto and flask are not installed", allow_module_level=True)

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Serve buckets from a process of its own: where flask is imported, vLLM 0.32 on a CPU fails,
    as it looks into all that all modules hold, flask's requests outside of any too."""
    command = [sys.executable, "-c", SERVER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None, "asked for above"
        host, port = process.stdout.readline().split()
        yield f"http://{host}:{port}"
        process.kill()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an empty bucket, and have s3fs find the server by the environment."""
    told(server, "reset")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("mine")
    return "s3://mine/store"


def told(server: str, action: str, body: bytes = b"") -> None:
    """Have moto do something to itself."""
    httpx2.post(f"{server}/moto-api/{action}", content=body).raise_for_status()


def test_a_store_goes_into_a_bucket_and_comes_back(
    tmp_path: Path, r1pipe: Run, bucket: str
) -> None:
    build(tmp_path / "here", chain())
    here = ("--store", str(tmp_path / "here"))
    first = json.loads(r1pipe("store", "push", bucket, "--json", *here)[1])
    assert (first["artifacts"], first["there"]) == (3, 0)
    again = json.loads(r1pipe("store", "push", bucket, "--json", *here)[1])
    assert (again["artifacts"], again["files"], again["there"]) == (0, 0, 3)
    code, out, _ = r1pipe("store", "pull", bucket, "--store", str(tmp_path / "other"))
    assert (code, out.partition(":")[0]) == (0, "pulled 3 artifacts")
    assert ids(tmp_path / "other") == ids(tmp_path / "here")
    assert_whole(tmp_path / "other", chain())
    assert run_manifest(chain(), Store(tmp_path / "other"), QuietConsole()).built == []


def test_a_push_that_broke_off_shows_no_record_and_goes_on_with_what_is_missing(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "here", chain())
    store, put, left = Store(tmp_path / "here"), Remote._put, [3]

    def breaks(self: Remote, path: str, content: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoreError("the network is gone")
        put(self, path, content)  # type: ignore[arg-type]

    monkeypatch.setattr(Remote, "_put", breaks)
    with pytest.raises(StoreError, match="the network is gone"):
        push(store, open_remote(bucket), store.records(), lambda _: None)
    monkeypatch.setattr(Remote, "_put", put)
    s3fs.S3FileSystem.clear_instance_cache()
    assert open_remote(bucket).names("records") == {}
    blobs = open_remote(bucket).names("blobs")
    done = push(store, open_remote(bucket), store.records(), lambda _: None)
    assert (done.artifacts, len(blobs) > 0) == (3, True)
    s3fs.S3FileSystem.clear_instance_cache()
    assert len(open_remote(bucket).names("blobs")) == len(blobs) + done.files


def test_a_bucket_that_is_not_there_is_not_made(tmp_path: Path, r1pipe: Run, bucket: str) -> None:
    build(tmp_path / "here", chain())
    here = ("--store", str(tmp_path / "here"))
    for command in ("push", "pull"):
        code, _, err = r1pipe("store", command, "s3://mien/store", *here)
        assert (code, err.count("\n")) == (3, 1), err
        assert err.startswith("s3://mien/store: ")
        assert "there is no bucket 'mien'; make it first" in err
    assert not s3fs.S3FileSystem(skip_instance_cache=True).exists("mien")


def test_a_key_that_is_refused_is_one_line(
    tmp_path: Path, r1pipe: Run, bucket: str, server: str
) -> None:
    build(tmp_path / "here", chain())
    told(server, "reset-auth", b"0")  # from now on keys count
    for command in ("push", "pull"):
        code, _, err = r1pipe("store", command, bucket, "--store", str(tmp_path / "here"))
        assert (code, err.count("\n")) == (8, 1), err
        assert "is not permitted: " in err
        assert "secret" not in err
