import hashlib
import http.server
import io
import re
import tarfile
import threading
from pathlib import Path

import pytest
from conftest import project_at

from fgvc_lib.datasets import download
from fgvc_lib.datasets.download import SOURCES, Source, fetch, fetch_all
from fgvc_lib.errors import DataError, StorageError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content` with ranges; breaks off after `limit` bytes of a reply while `limit` is set."""

    content, limit, ranges, kind = b"", None, [], "ranges"

    def do_GET(self):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "") if self.kind != "no ranges" else "")
        start = int(match[1]) if match else 0
        self.ranges.append(start)
        body = self.content[start:]
        if match and not body:
            return self.send_error(416)
        self.send_response(206 if match else 200)
        if match and self.kind == "another start":
            self.send_header("Content-Range", f"bytes {start + 5}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Handler.content, Handler.limit, Handler.ranges, Handler.kind = b"", None, [], "ranges"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def archive(name="cub", member=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(member or f"{name}/images.txt")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"1 a\n\n"))
    return buffer.getvalue()


def source(url, content, folder=""):
    return Source(f"{url}/file.tgz", f"md5:{hashlib.md5(content).hexdigest()}", "file.tgz", folder)


def test_fetches_checks_and_unpacks_once(server, tmp_path):
    Handler.content = archive()
    wanted = source(server, Handler.content, "cub")
    assert fetch(wanted, tmp_path) == tmp_path / "cub"
    assert (tmp_path / "cub" / "images.txt").read_text() == "1 a\n\n"
    fetch(wanted, tmp_path)
    assert Handler.ranges == [0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cub", "file.tgz"]


def test_goes_on_after_an_interruption(server, tmp_path):
    Handler.content, Handler.limit = bytes(range(256)) * 12_000, 2_000_000
    wanted = source(server, Handler.content)
    with pytest.raises(DataError, match=r"the connection broke off after 1.0 of 3.1 MB; fetching again goes on from there"):
        fetch(wanted, tmp_path)
    Handler.limit = None
    assert fetch(wanted, tmp_path).read_bytes() == Handler.content
    assert Handler.ranges[0] == 0 and Handler.ranges[-1] == 1 << 20  # what was written in whole chunks


def test_a_part_that_is_too_long_is_fetched_anew(server, tmp_path):
    Handler.content = b"short"
    (tmp_path / "file.tgz.part").write_bytes(b"much longer than the file")
    assert fetch(source(server, b"short"), tmp_path).read_bytes() == b"short"


def test_a_wrong_checksum_is_refused(server, tmp_path):
    Handler.content = b"not what was promised"
    found, wanted = (hashlib.md5(content).hexdigest() for content in (Handler.content, b"the real file"))
    words = rf"its MD5 is {found}, not {wanted}, so it was set aside as .*file\.tgz\.bad.: download it on another machine"
    with pytest.raises(DataError, match=words):
        fetch(source(server, b"the real file"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file.tgz.bad"]
    (tmp_path / "file.tgz").write_bytes(b"put there by hand")
    with pytest.raises(DataError, match="set aside"):
        fetch(source(server, b"the real file"), tmp_path)
    assert (tmp_path / "file.tgz.bad").read_bytes() == b"put there by hand" and Handler.ranges == [0]


@pytest.mark.parametrize("kind", ["no ranges", "another start"])
def test_a_server_that_does_not_go_on_where_it_was_asked_to(server, tmp_path, kind):
    Handler.content, Handler.kind = bytes(range(256)) * 100, kind
    (tmp_path / "file.tgz.part").write_bytes(Handler.content[:999])
    assert fetch(source(server, Handler.content), tmp_path).read_bytes() == Handler.content


@pytest.mark.parametrize("size", [1000, 8_000])
def test_an_archive_that_would_fill_the_disk(server, tmp_path, monkeypatch, size):
    monkeypatch.setattr(download, "MOST_BYTES", 2 * size)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"cub/{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    Handler.content = buffer.getvalue()
    with pytest.raises(DataError, match="cannot be unpacked .it holds more than 0 GB"):
        fetch(source(server, Handler.content, "cub"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file.tgz"]


def test_an_archive_without_its_links(server, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind in (("cub/way", tarfile.SYMTYPE), ("cub/way/out.txt", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../.."
            tar.addfile(info)
    Handler.content = buffer.getvalue()
    assert fetch(source(server, Handler.content, "cub"), tmp_path / "data").is_dir()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("out.txt")] == [Path("data/cub/way/out.txt")]


@pytest.mark.parametrize("content", [b"no archive", archive()[:60], archive()[:40] + b"junk"], ids=["none", "cut", "junk"])
def test_an_archive_that_is_damaged(tmp_path, content):
    (tmp_path / "file.tgz").write_bytes(content)
    with pytest.raises(DataError, match="file.tgz cannot be unpacked .*: delete it and fetch it again"):
        fetch(Source("http://127.0.0.1:9/file.tgz", None, "file.tgz", "cub"), tmp_path)


def test_an_archive_cannot_write_outside(server, tmp_path):
    Handler.content = archive(member="../escape.txt")
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(source(server, Handler.content, "cub"), tmp_path / "data")
    assert not list(tmp_path.rglob("escape.txt"))


def test_an_archive_without_the_folder(server, tmp_path):
    Handler.content = archive(name="other")
    with pytest.raises(DataError, match="does not hold a folder cub"):
        fetch(source(server, Handler.content, "cub"), tmp_path)
    assert not (tmp_path / "cub").exists()


def test_without_a_network_it_says_what_to_put_where(tmp_path):
    wanted = Source("http://127.0.0.1:9/ViT-B_16.npz", None, "weights/ViT-B_16.npz")
    with pytest.raises(DataError, match=r"cannot fetch http.*put the file at .*weights/ViT-B_16.npz"):
        fetch(wanted, tmp_path)
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / "ViT-B_16.npz").write_bytes(b"by hand")
    assert fetch(wanted, tmp_path).read_bytes() == b"by hand"


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(StorageError, match="cannot write below"):
        fetch(SOURCES["vit"], tmp_path / "data")


@pytest.fixture
def three(server, tmp_path, monkeypatch):
    """A project with three sources, the second of which cannot be fetched."""
    project_at(monkeypatch, tmp_path)
    Handler.content = b"fine"
    fine, wrong = source(server, b"fine"), source(server, b"another")
    sources = {"cub": fine, "vit": wrong._replace(path="v.npz"), "resnet": fine._replace(path="r.pth")}
    monkeypatch.setattr(download, "SOURCES", sources)
    return tmp_path / "data"


def test_one_or_all_are_fetched(three):
    assert fetch_all("resnet") == f"resnet: {three / 'r.pth'}" and not (three / "file.tgz").exists()
    (three / "v.npz").write_bytes(b"another")  # by hand
    assert fetch_all() == f"cub: {three / 'file.tgz'}\nvit: {three / 'v.npz'}\nresnet: {three / 'r.pth'}"


def test_what_fails_is_told_at_the_end(three):
    with pytest.raises(DataError, match=r"^cannot fetch .*v\.npz$") as failure:
        fetch_all()
    assert str(failure.value).count("\n") == 0 and (three / "r.pth").exists()
