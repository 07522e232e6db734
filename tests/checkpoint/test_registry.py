"""Pretrained models are found by name wherever they are, and are what the registry promises."""

import subprocess
import sys
import textwrap
import threading
import types
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from anemone.checkpoint import registry
from anemone.checkpoint.archive import Archive, read_archive, write_archive
from anemone.checkpoint.fit import load_part
from anemone.checkpoint.registry import ASSETS, fingerprint, pretrained, resolve
from anemone.errors import ArchiveError, ConfigError


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A model in a folder, with a cache of its own beside it."""
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    path = tmp_path / "lab" / "m.anemone"
    write_archive(path, Archive({"a": 1}, {"encoder.weight": torch.ones(2, 3)}, {}))
    return path


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Writes a registry of one's own with one model."""

    def write(path: Path, **fields: object) -> None:
        size, sha256 = fingerprint(path) if path.exists() else (1, "0" * 64)
        tree = {
            "task": "classification",
            "language": ["en", "de"],
            "licence": "apache-2.0",
            "size": size,
            "sha256": sha256,
        }
        (tmp_path / "lab" / "registry.yaml").write_text(yaml.safe_dump({"tiny-words": {**tree, **fields}}))
        monkeypatch.setenv("ANEMONE_REGISTRY", str(tmp_path / "lab" / "registry.yaml"))

    return write


@pytest.fixture
def served(model):
    """The address of the model's folder, and the paths that were asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(model.parent))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()
        thread.join()


def test_every_model_that_ships_is_there_and_is_what_was_promised():
    """Each entry of origin `shipped` has its file, size and hash, and reads; no model is shipped without an entry."""
    shipped = [entry for entry in pretrained() if entry.origin == "shipped"]
    for entry in shipped:
        archive = read_archive(resolve(entry.name))
        assert archive.tensors and archive.config["task"]["kind"] == entry.task and archive.card
        assert (ASSETS / entry.location).is_relative_to(ASSETS)
    there = {path.name for path in (ASSETS / "models").glob("*") if not path.name.startswith(".")}
    assert there == {Path(entry.location).relative_to("models").parts[0] for entry in shipped}


def test_a_path_is_itself(model):
    assert resolve(model) == model and resolve(str(model)) == model


def test_a_local_model_has_a_name(model, register):
    register(model, origin="file", location="m.anemone")
    assert resolve("tiny-words") == model
    [entry] = [entry for entry in pretrained() if entry.name == "tiny-words"]
    assert (entry.language, entry.task, entry.origin) == (("en", "de"), "classification", "file")


def test_a_part_is_loaded_by_name(model, register):
    register(model, origin="file", location="m.anemone")
    target = torch.nn.ModuleDict({"encoder": torch.nn.Linear(3, 2, bias=False)})
    load_part(target, "encoder", "tiny-words")
    assert target["encoder"].weight.sum() == 6


def test_a_folder_has_a_fingerprint_too(model, register, tmp_path):
    folder = tmp_path / "lab" / "folder"
    write_archive(folder, read_archive(model))
    register(folder, origin="file", location="folder")
    (folder / ".hidden").write_text("")
    assert resolve("tiny-words") == folder
    printed = subprocess.run(
        "find . -type f ! -name '.*' -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert fingerprint(folder)[1] == printed.stdout.split()[0]


def test_a_model_that_ships_is_found_below_assets(model, register, monkeypatch, tmp_path):
    register(model, origin="shipped", location="m.anemone")
    monkeypatch.setattr(registry, "TABLE", tmp_path / "lab" / "registry.yaml")
    monkeypatch.setattr(registry, "ASSETS", tmp_path / "lab")
    monkeypatch.delenv("ANEMONE_REGISTRY")
    assert resolve("tiny-words") == model


@pytest.mark.parametrize("change", [b"x", b""])
def test_a_model_that_was_changed_is_refused(model, register, change):
    register(model, origin="file", location="m.anemone")
    model.write_bytes(model.read_bytes()[:-1] + change)
    with pytest.raises(
        ArchiveError, match=r"`tiny-words` at `.*m.anemone` must have \d+ bytes with SHA-256 .* instead"
    ):
        resolve("tiny-words")


def test_a_model_that_is_gone_is_told(model, register):
    register(model, origin="file", location="m.anemone")
    model.unlink()
    with pytest.raises(ArchiveError, match=r"`tiny-words` should be at `.*m.anemone` \(file\), but nothing is there"):
        resolve("tiny-words")


def test_a_model_is_downloaded_once_and_then_found_offline(model, register, served, monkeypatch):
    url, asked = served
    register(model, origin="http", location=f"{url}/m.anemone")
    path = resolve("tiny-words")
    assert path.read_bytes() == model.read_bytes() and path.name == "m.anemone"
    monkeypatch.setenv("ANEMONE_OFFLINE", "1")
    assert resolve("tiny-words") == path
    assert asked == ["/m.anemone"]


def test_a_model_that_is_not_cached_says_so_offline(model, register, served, monkeypatch):
    register(model, origin="http", location=f"{served[0]}/m.anemone")
    monkeypatch.setenv("ANEMONE_OFFLINE", "1")
    with pytest.raises(ArchiveError, match=r"m.anemone` is not in the cache, and ANEMONE_OFFLINE is set"):
        resolve("tiny-words")
    assert served[1] == []


def test_a_download_of_other_content_is_refused(model, register, served, tmp_path):
    register(model, origin="http", location=f"{served[0]}/m.anemone", sha256="0" * 64)
    with pytest.raises(ArchiveError, match=r"must have \d+ bytes with SHA-256 0{64}, but"):
        resolve("tiny-words")
    assert not [p for p in (tmp_path / "cache").rglob("m*") if p.is_file()]


def test_several_processes_download_once(model, register, served, tmp_path):
    """As the ranks of one machine do."""
    register(model, origin="http", location=f"{served[0]}/m.anemone")
    command = [sys.executable, "-c", "from anemone.checkpoint.registry import resolve; print(resolve('tiny-words'))"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({child.communicate()[0] for child in children}) == 1
    assert [child.returncode for child in children] == [0, 0, 0]
    assert served[1] == ["/m.anemone"]


def hub(path: Path, calls: list[tuple[object, ...]]) -> types.ModuleType:
    """A stand-in for huggingface_hub that has one file."""
    module = types.ModuleType("huggingface_hub")

    def hf_hub_download(repo_id: str, filename: str, *, revision: str, local_files_only: bool) -> str:
        calls.append((repo_id, filename, revision, local_files_only))
        if local_files_only:
            raise FileNotFoundError("not in the local cache")
        return str(path)

    module.hf_hub_download = hf_hub_download
    return module


def test_a_model_comes_from_the_hub_at_a_fixed_revision(model, register, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(model, calls))
    register(model, origin="hub", location="lab/tiny@v1.0:m.anemone")
    assert resolve("tiny-words") == model
    monkeypatch.setenv("ANEMONE_OFFLINE", "1")
    with pytest.raises(ArchiveError, match=r"cannot be fetched from `lab/tiny@v1.0:m.anemone`: not in the local cache"):
        resolve("tiny-words")
    assert calls == [("lab/tiny", "m.anemone", "v1.0", False), ("lab/tiny", "m.anemone", "v1.0", True)]
    register(model, origin="hub", location="lab/tiny@v1.0:m.anemone", size=3)
    monkeypatch.delenv("ANEMONE_OFFLINE")
    with pytest.raises(ArchiveError, match=r"must have 3 bytes with SHA-256"):
        resolve("tiny-words")


def test_the_hub_is_an_extra(model, register, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    register(model, origin="hub", location="lab/tiny@v1.0:m.anemone")
    with pytest.raises(ArchiveError, match=r"`tiny-words` is on the Hugging Face Hub: pip install 'anemone\[hub\]'"):
        resolve("tiny-words")


def test_an_unknown_name_is_told_with_the_nearest(model, register):
    register(model, origin="file", location="m.anemone")
    fault = r"`tiny-word` is neither a file or folder that exists nor a pretrained model. Did you mean `tiny-words`\?"
    with pytest.raises(ArchiveError, match=fault + r" There are: .*tiny-words"):
        resolve("tiny-word")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            {"sha256": "ABC"},
            r"registry.yaml: tiny-words.sha256` must be 64 hexadecimal digits in lower case, but is 'ABC'",
        ),
        ({"size": 0}, r"tiny-words.size` must be a number of bytes above 0, but is 0"),
        ({"origin": "ftp"}, r"tiny-words.origin` must be one of \['shipped', 'file', 'http', 'hub'\], but is 'ftp'"),
        ({"licens": "x"}, r"tiny-words.licens` is not a setting of Entry. Did you mean `.*tiny-words.licence`\?"),
        ({"origin": "http", "location": "file:///x"}, r"tiny-words.location` must be http:// or https://"),
        ({"origin": "http", "location": "http://h/a/.."}, r"tiny-words.location` must be http:// or https://"),
        ({"origin": "shipped", "location": "../x"}, r"tiny-words.location` must be a path below assets/"),
        ({"origin": "shipped", "location": "/x"}, r"tiny-words.location` must be a path below assets/"),
        (
            {"origin": "hub", "location": "lab/tiny:m"},
            r"tiny-words.location` must be owner/repository@revision:filename",
        ),
    ],
)
def test_a_registry_that_is_wrong_names_the_field(model, register, fields, fault):
    register(model, **{"origin": "file", "location": "m.anemone", **fields})
    with pytest.raises(ConfigError, match=fault):
        pretrained()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [", r"registry.yaml` cannot be read as a registry"),
        ("- a", r"registry.yaml` must be a mapping from name to entry"),
        ("a: 3", r"registry.yaml: a` must be a group of settings"),
        ("a: !!python/name:os.system ''", r"registry.yaml` cannot be read as a registry"),
    ],
)
def test_a_registry_that_is_no_table_is_refused(tmp_path, monkeypatch, text, fault):
    (tmp_path / "registry.yaml").write_text(text)
    monkeypatch.setenv("ANEMONE_REGISTRY", str(tmp_path / "registry.yaml"))
    with pytest.raises(ConfigError, match=fault):
        pretrained()


def test_listing_models_loads_no_torch():
    script = """
        import sys
        from anemone.checkpoint.registry import pretrained
        pretrained()
        assert not {"torch", "numpy", "hydra"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
