"""Downloads: whole and checked or not at all, resumed where cut off, and never needed twice."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from onceforall.errors import ZooError
from onceforall.zoo.download import cache_folder, cached, download, fetch, git_blob_sha1
from onceforall.zoo.entries import RemoteFile
from tests.zoo.server import Site, serving

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA1 = hashlib.sha1(b"blob 1048576\0" + BODY).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        site.files["/weights"] = BODY
        yield site


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONCEFORALL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def remote(site: Site, *, sha1: str | None = SHA1) -> RemoteFile:
    return RemoteFile(
        name="weights", url=f"{site.address}/weights", cache_path="nets/w", git_blob_sha1=sha1
    )


def test_the_hash_is_gits(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"what is up, doc?")  # the example of the Pro Git book, section 10.2
    assert git_blob_sha1(path) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ONCEFORALL_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "onceforall" / "zoo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "onceforall" / "zoo"
    monkeypatch.setenv("ONCEFORALL_HOME", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "zoo"


def test_a_file_is_downloaded_once_and_then_answers_alone(site: Site, home: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(remote(site), progress=lambda have, total: seen.append((have, total)))
    assert path == home / "zoo" / "nets" / "w"
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)
    assert fetch(remote(site)) == path
    assert len(site.requests) == 1
    assert {p.name for p in path.parent.iterdir()} == {"w", ".lock"}


def test_a_file_put_there_by_hand_answers_without_the_network(home: Path) -> None:
    path = home / "zoo" / "nets" / "w"
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    file = RemoteFile(
        name="weights", url="http://127.0.0.1:9/w", cache_path="nets/w", git_blob_sha1=SHA1
    )
    assert fetch(file) == cached(file) == path


def test_a_damaged_file_in_the_cache_is_named(home: Path) -> None:
    path = home / "zoo" / "nets" / "w"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    file = RemoteFile(
        name="weights", url="http://127.0.0.1:9/w", cache_path="nets/w", git_blob_sha1=SHA1
    )
    with pytest.raises(ZooError, match=r"nets/w has git hash \w{40} where \w{40} is published; "):
        fetch(file)
    assert path.exists()


def test_a_connection_that_breaks_is_resumed_within_the_call(site: Site, tmp_path: Path) -> None:
    site.cut_after = 300_000
    download(f"{site.address}/weights", tmp_path / "w", git_blob_sha1=SHA1, pause_s=0)
    assert (tmp_path / "w").read_bytes() == BODY
    assert [asked for _, asked in site.requests] == [None, "bytes=300000-"]


def test_a_connection_that_keeps_breaking_is_resumed_by_the_next_call(
    site: Site, tmp_path: Path
) -> None:
    site.cut_after, site.cuts = 200_000, 2
    url = f"{site.address}/weights"
    with pytest.raises(ZooError, match="connection ended after 400000 of 1048576 bytes"):
        download(url, tmp_path / "w", git_blob_sha1=SHA1, attempts=2, pause_s=0)
    assert not (tmp_path / "w").exists()
    download(url, tmp_path / "w", git_blob_sha1=SHA1)
    assert (tmp_path / "w").read_bytes() == BODY
    assert [asked for _, asked in site.requests] == [None, "bytes=200000-", "bytes=400000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(
    site: Site, tmp_path: Path
) -> None:
    site.cut_after = 200_000
    url = f"{site.address}/weights"
    with pytest.raises(ZooError):
        download(url, tmp_path / "w", attempts=1)
    site.files["/weights"] = BODY[::-1]
    site.etag = '"2"'
    download(url, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", ["", '"1"', 'W/"1"'])
def test_a_server_without_ranges_or_versions_starts_over(
    site: Site, tmp_path: Path, etag: str
) -> None:
    site.cut_after, site.etag, site.ranges = 200_000, etag, False
    download(f"{site.address}/weights", tmp_path / "w", git_blob_sha1=SHA1, pause_s=0)
    assert (tmp_path / "w").read_bytes() == BODY
    assert {asked for _, asked in site.requests} <= {None, "bytes=200000-"}


def test_a_part_as_long_as_the_file_is_dropped(site: Site, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(b"x" * len(BODY))
    (tmp_path / "w.part.etag").write_text(site.etag)
    download(f"{site.address}/weights", tmp_path / "w", git_blob_sha1=SHA1, pause_s=0)
    assert (tmp_path / "w").read_bytes() == BODY


def test_other_content_than_published_is_refused(site: Site, home: Path) -> None:
    site.files["/weights"] = b"version https://git-lfs.github.com/spec/v1"
    with pytest.raises(ZooError) as caught:
        fetch(remote(site))
    message = str(caught.value)
    assert f"cannot download {site.address}/weights: the content has git hash" in message
    assert f"{SHA1} is published" in message
    assert f"put it at {home / 'zoo' / 'nets' / 'w'}" in message
    assert not list((home / "zoo" / "nets").glob("w*"))


def test_a_missing_file_is_one_line_with_the_address_and_the_place(site: Site, home: Path) -> None:
    site.files.clear()
    with pytest.raises(ZooError) as caught:
        fetch(remote(site))
    message = str(caught.value)
    assert "\n" not in message
    assert f"{site.address}/weights: HTTP 404 Not Found" in message
    assert str(home / "zoo" / "nets" / "w") in message
    assert len(site.requests) == 1  # not tried again


def test_no_network_is_one_line_with_the_address_and_the_place(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/w"
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    file = RemoteFile(name="weights", url=url, cache_path="nets/w", git_blob_sha1=SHA1)
    with pytest.raises(ZooError) as caught:
        fetch(file)
    message = str(caught.value)
    assert "\n" not in message
    assert url in message
    assert "refused" in message
    assert f"put it at {home / 'zoo' / 'nets' / 'w'}" in message


def test_only_web_addresses_are_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    with pytest.raises(ZooError, match="only http and https addresses"):
        download(f"file://{secret}", tmp_path / "copy")


def test_several_processes_or_threads_download_once(site: Site, home: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(remote(site)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert paths[0].read_bytes() == BODY
    assert len(site.requests) == 1
