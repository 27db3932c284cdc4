"""CelebA's archive of images, and its download: complete or not at all, from torchvision's list of files."""

import os
import shutil
import zipfile

import fake_celeba
import fake_mnist
import pytest
import torch
import torchvision

from multipyro.data import load_dataset
from multipyro.data.sets import load_celeba


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder, and nothing else to be found."""
    fake_mnist.no_data(monkeypatch, tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def packed(root, **members):
    """The folder of the original with its images in the archive alone, and what else that holds."""
    folder = fake_celeba.write_original(root)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for path in (folder / "img_align_celeba").iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")
        for name, content in members.items():
            archive.writestr(name, content)
    shutil.rmtree(folder / "img_align_celeba")
    return folder


def test_images_in_their_archive(root, tmp_path):
    fake_celeba.write_original(tmp_path / "other")
    folder = packed(root)
    splits = load_celeba(root)
    whole = load_celeba(tmp_path / "other")
    assert splits.train.content_hash == whole.train.content_hash
    assert sorted(os.listdir(folder)) == ["img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"]
    (pictures,) = (tmp_path / "cache" / "multipyro" / "CelebA").glob("img_align_celeba-*")
    assert len(os.listdir(pictures)) == 12
    # unpacked once, for any crop
    before = pictures.stat().st_mtime_ns
    load_celeba(root, crop="pooled")
    assert pictures.stat().st_mtime_ns == before
    assert len([*pictures.parent.glob("img_align_celeba-*")]) == 1


def test_an_archive_that_is_truncated_or_damaged(root):
    path = packed(root) / "img_align_celeba.zip"
    content = path.read_bytes()
    path.write_bytes(content[:-500])
    with pytest.raises(ValueError, match=f"{path} is damaged or not the archive of CelebA's images"):
        load_celeba(root)
    path.write_bytes(content[:3_000] + b"?" + content[3_001:])
    with pytest.raises(ValueError, match=rf"img_align_celeba/.*.jpg in {path} is damaged \("):
        load_celeba(root)
    path.write_bytes(content)
    assert len(load_celeba(root).train) == 4


def fake_drive(monkeypatch, source, fails=None):
    """Stand in for the download from Google Drive, without a network; the names that were asked for."""
    asked = []

    def download(number, folder, name, md5):
        asked.append(name)
        assert len(md5) == 32
        if name == fails:
            (folder / name).write_text("half")
            raise RuntimeError("File not found or corrupted.")
        shutil.copy(source / name, folder / name)

    monkeypatch.setattr(torchvision.datasets.utils, "download_file_from_google_drive", download)
    return asked


def test_missing_files_are_downloaded_once(root, tmp_path, monkeypatch):
    source = packed(tmp_path / "drive")
    asked = fake_drive(monkeypatch, source)
    splits = load_dataset("celeba", root)
    # the gray levels of the images tell their rows
    levels = (splits.train.x["image"].float().mean((1, 2, 3)) - 20) / 15
    assert torch.equal(levels.round(), torch.arange(0.0, 12, 3))
    needed = ["img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"]
    assert asked == needed
    assert sorted(os.listdir(tmp_path / "cache" / "multipyro" / "celeba")) == needed
    assert load_celeba(root).test.content_hash == splits.test.content_hash
    assert asked == needed
    assert os.listdir(root) == []


@pytest.mark.parametrize("fails", ["img_align_celeba.zip", "list_eval_partition.txt"])
def test_a_download_that_fails_leaves_nothing(root, tmp_path, monkeypatch, fails):
    source = packed(tmp_path / "drive")
    with monkeypatch.context() as patched:
        fake_drive(patched, source, fails)
        with pytest.raises(FileNotFoundError, match=r"CelebA is missing: put .*download failed: File not found or c"):
            load_celeba(root)
    assert os.listdir(tmp_path / "cache" / "multipyro") == []
    fake_drive(monkeypatch, source)
    assert len(load_celeba(root).train) == 4


def test_a_partial_folder_is_not_completed_by_a_download(root, tmp_path, monkeypatch):
    asked = fake_drive(monkeypatch, packed(tmp_path / "drive"))
    folder = packed(root)
    (folder / "list_attr_celeba.txt").unlink()
    said = f"CelebA is incomplete; {folder} exists, but has no list_attr_celeba.txt: put"
    with pytest.raises(FileNotFoundError, match=said):
        load_celeba(root)
    (folder / "img_align_celeba.zip").unlink()
    said = "but has no list_attr_celeba.txt and no img_align_celeba/ or img_align_celeba.zip: put"
    with pytest.raises(FileNotFoundError, match=said):
        load_celeba(root, download=False)
    assert asked == []
