"""Downloads against a local server that can cut off, ignore ranges, change the file and send garbage."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading

import pytest

from sparse4d_core.checkpoint import download as download_module
from sparse4d_core.checkpoint import published
from sparse4d_core.checkpoint.download import DownloadError, IntegrityError, download
from sparse4d_core.checkpoint.published import PUBLIC_FILES, fetch, public_file
from sparse4d_core.config import PRESETS


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `content` under every path. `cuts`: bytes after which each of the next answers breaks off."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = os.urandom(300_000)
        self.etag: str | None = '"one"'
        self.ranges = True
        self.cuts: list[int] = []
        self.status: int | None = None
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.status is not None:
            self.send_error(server.status)
            return
        start, total = 0, len(server.content)
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(total - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else total
        self.wfile.write(server.content[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_whole_file(server, tmp_path):
    result = download(server.url + "/a.pth", tmp_path / "deep" / "a.pth", digest(server.content), len(server.content))
    assert result.path.read_bytes() == server.content
    assert (result.size, result.sha256) == (len(server.content), digest(server.content))
    assert [p.name for p in result.path.parent.iterdir()] == ["a.pth"]


def test_truncated_transfers_are_taken_up_where_they_stopped(server, tmp_path):
    server.cuts = [100_000, 50_000, 1]
    result = download(server.url + "/a.pth", tmp_path / "a.pth")
    assert result.path.read_bytes() == server.content
    assert [request.get("Range") for request in server.requests] == [
        None, "bytes=100000-", "bytes=150000-", "bytes=150001-",
    ]  # fmt: skip


def test_interrupted_command_goes_on_in_the_next_one(server, tmp_path):
    server.cuts = [120_000] + [0] * download_module.ATTEMPTS
    with pytest.raises(DownloadError, match="120000 bytes are kept"):
        download(server.url + "/a.pth", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()
    result = download(server.url + "/a.pth", tmp_path / "a.pth")
    assert result.resumed_from == 120_000
    assert result.path.read_bytes() == server.content
    assert server.requests[-1]["Range"] == "bytes=120000-"


def test_complete_part_is_not_fetched_again(server, tmp_path):
    server.cuts = [100_000] + [0] * download_module.ATTEMPTS
    with pytest.raises(DownloadError):
        download(server.url + "/a.pth", tmp_path / "a.pth")
    (tmp_path / "a.pth.part").write_bytes(server.content)
    assert download(server.url + "/a.pth", tmp_path / "a.pth").path.read_bytes() == server.content


def test_file_that_changed_meanwhile_is_not_glued_together(server, tmp_path):
    server.cuts = [100_000] + [0] * download_module.ATTEMPTS
    with pytest.raises(DownloadError):
        download(server.url + "/a.pth", tmp_path / "a.pth")
    server.content, server.etag = os.urandom(250_000), '"two"'
    assert download(server.url + "/a.pth", tmp_path / "a.pth").path.read_bytes() == server.content


@pytest.mark.parametrize("notes", [b"", bytes(27), b"[]", b"{}", b'{"validator": 1}', b"\xff"], ids=repr)
def test_without_notes_that_can_be_read_the_download_starts_again(server, tmp_path, notes):
    """As a power loss leaves them: whether what is there belongs to the server's file is not known."""
    (tmp_path / "a.pth.part").write_bytes(b"the beginning of something")
    (tmp_path / "a.pth.part.json").write_bytes(notes)
    assert download(server.url + "/a.pth", tmp_path / "a.pth").path.read_bytes() == server.content
    assert [request.get("Range") for request in server.requests] == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("etag", ['"one"', None])
def test_server_without_ranges_starts_again(server, tmp_path, etag):
    server.ranges, server.etag, server.cuts = False, etag, [100_000]
    assert download(server.url + "/a.pth", tmp_path / "a.pth").path.read_bytes() == server.content


def test_wrong_hash_leaves_nothing(server, tmp_path):
    with pytest.raises(IntegrityError, match="expected sha256 00ff"):
        download(server.url + "/a.pth", tmp_path / "a.pth", sha256="00ff")
    assert list(tmp_path.iterdir()) == []


def test_wrong_size_is_noticed_before_the_transfer(server, tmp_path):
    with pytest.raises(IntegrityError, match=r"expected 7 bytes.*offers 300000"):
        download(server.url + "/a.pth", tmp_path / "a.pth", size=7)
    assert not (tmp_path / "a.pth").exists()


def test_refusal_names_the_status(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match="404"):
        download(server.url + "/a.pth", tmp_path / "a.pth")


def test_unreachable_server(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="refused"):
        download(url + "/a.pth", tmp_path / "a.pth")


def test_only_web_addresses(tmp_path):
    with pytest.raises(ValueError, match="http"):
        download("file:///etc/passwd", tmp_path / "a.pth")


# --- The catalogue ----------------------------------------------------------------------------------------------------


def test_first_download_records_the_hash_and_later_ones_check_it(server, tmp_path):
    get = functools.partial(fetch, "v2_r50", tmp_path, mirror=server.url)
    result, source = get()
    assert result.path.name == "sparse4dv2_r50_HInf_256x704.pth"
    assert "no hash is known" in source
    assert (tmp_path / f"{result.path.name}.sha256").read_text().split() == [digest(server.content), result.path.name]
    requests = len(server.requests)
    assert "first download" in get()[1]
    assert len(server.requests) == requests, "the file is there: nothing to ask the server"
    result.path.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="delete it"):
        get()
    result.path.unlink()
    server.content = b"another file under the same name"
    with pytest.raises(IntegrityError, match="expected sha256"):
        get()


def test_a_file_that_is_there_is_checked_in_a_folder_for_reading_only(server, tmp_path, monkeypatch):
    """With its record, without one where the digest is known, and where it is not."""

    def refused(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    result, _ = fetch("v2_r50", tmp_path, mirror=server.url)
    monkeypatch.setattr(published, "write_text", refused)
    assert "recorded at the first download" in fetch("v2_r50", tmp_path)[1]
    result.path.with_name(f"{result.path.name}.sha256").unlink()
    assert fetch("v2_r50", tmp_path, sha256=result.sha256)[1] == "given by the caller"
    checked = fetch("v2_r50", tmp_path)[1]
    assert checked == "nothing: no hash is known. It cannot be recorded: Permission denied"


def test_known_hash_is_insisted_on(server, tmp_path):
    with pytest.raises(IntegrityError, match="expected sha256 5beed4d4"):
        fetch("v3_r50", tmp_path, mirror=server.url)
    result, source = fetch("v3_r50", tmp_path, sha256=digest(server.content).upper(), mirror=server.url)
    assert result.size == len(server.content)
    assert source == "given by the caller"


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'v9'.*v3_r50.*fcos3d\.pth"):
        public_file("v9")
    with pytest.raises(ValueError, match=r"v3_vov99: no weights were ever published.*v3_r50"):
        public_file("v3_vov99")


def test_every_checkpoint_of_a_preset_is_in_the_catalogue():
    named = [config.published.checkpoint for config in PRESETS.values() if config.published.checkpoint]
    assert named
    assert set(named) <= set(PUBLIC_FILES)
    for file in PUBLIC_FILES.values():
        assert file.url.startswith("https://")
        assert file.sha256 is None or file.sha256 == file.sha256.lower()
    assert published.default_folder().is_absolute()
