"""A bundle is data of a stranger: it runs only what is listed, and reads nothing outside itself."""

import ast
import os
from pathlib import Path

import onnxruntime
import pytest

from stream_app.adapters.onnx_session import onnx_session
from stream_app.core.errors import BundleError, ConfigurationError
from stream_app.files.bundle import open_bundle
from stream_app.files.registry import Registry
from tests.bundles import make_bundle
from tests.chaos.bad_bundles import edit_manifest, put

REPOSITORY = Path(__file__).parents[2]

NAMES = (
    "../secret",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\x00b",
    "x" * 300,
    "line\nbreak",
    "\x1b[2J",
)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    directory = make_bundle(tmp_path)
    (tmp_path / "secret").write_text("secret")
    files = open_bundle(directory).manifest.files
    edit_manifest(directory, files={**files, name: "0" * 64})
    with pytest.raises(BundleError, match="no file of the bundle's own directory") as caught:
        open_bundle(directory)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "step.onnx", "vocabulary.json"])
def test_a_link_a_pipe_and_a_device_are_refused_unread(tmp_path: Path, name: str) -> None:
    directory = make_bundle(tmp_path)
    (directory / name).rename(tmp_path / name)
    for make in (
        lambda path: path.symlink_to(tmp_path / name),
        lambda path: path.symlink_to("/dev/zero"),
        os.mkfifo,
        Path.mkdir,
    ):
        make(directory / name)
        with pytest.raises(BundleError):
            open_bundle(directory)
        path = directory / name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_manifest_may_be_no_book_and_list_no_library(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    files = open_bundle(directory).manifest.files
    edit_manifest(directory, files={**files, **{f"f{n}": "0" * 64 for n in range(40)}})
    with pytest.raises(BundleError, match="lists 45 files"):
        open_bundle(directory)
    edit_manifest(directory, architecture="x" * 2**22)
    with pytest.raises(BundleError, match="more than 4194304"):
        open_bundle(directory)


def test_a_graph_in_onnx_runtimes_own_format_is_refused(tmp_path: Path) -> None:
    """A file can be both: an ONNX model to those who check it, another one to those who run it."""
    bundle = open_bundle(make_bundle(tmp_path))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "step.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(bundle.step, options, providers=["CPUExecutionProvider"])
    with pytest.raises(BundleError):
        onnx_session(bundle.directory, (tmp_path / "step.ort").read_bytes())


def test_nobody_loads_operators_from_a_library() -> None:
    for name, tree in sources():
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not called & {"register_custom_ops_library", "register_custom_ops"}, name


def test_nothing_unpickles_or_runs_what_it_reads() -> None:
    """No pickle, joblib, dill, marshal, shelve, yaml, eval, exec; torch.load only with weights_only."""
    forbidden = {"pickle", "cPickle", "cloudpickle", "joblib", "dill", "marshal", "shelve", "yaml"}
    looked_at = 0
    for name, tree in sources():
        for node in ast.walk(tree):
            looked_at += 1
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name.partition(".")[0] for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in forbidden, name
            elif isinstance(node, ast.Call):
                assert not _runs_code(node), f"{name}:{node.lineno}"
    assert looked_at > 10_000


def _runs_code(call: ast.Call) -> bool:
    given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    if given.get("allow_pickle") or given.get("shell"):
        return True
    match call.func:
        case ast.Name(id="eval" | "exec" | "compile" | "__import__"):
            return True
        case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen"):
            return True
        case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
            return given.get("weights_only") is not True
    return False


def sources() -> list[tuple[str, ast.Module]]:
    found = [
        path
        for package in ("stream_app", "models", "export")
        for path in (REPOSITORY / package).rglob("*.py")
    ]
    return [(str(path.relative_to(REPOSITORY)), ast.parse(path.read_text())) for path in found]


def test_models_of_a_remote_registry_are_kept_where_nobody_else_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shared temporary directory somebody may wait with a directory of the name that we will use."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    version = make_bundle(tmp_path / "remote").name
    url = f"local://{tmp_path}/remote"
    registry = Registry(url)
    monkeypatch.setattr(registry, "_local", None)  # as if it were remote: the driver is the same
    previous = os.umask(0)
    try:
        directory = registry.fetch(version)
    finally:
        os.umask(previous)
    assert directory.parent.stat().st_mode & 0o777 == 0o700
    directory.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="is not ours alone"):
        registry.fetch(version)


def test_a_hash_that_fits_does_not_make_a_pickle_a_model(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path)
    put(directory, "weights.safetensors", b"\x80\x04cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(BundleError, match="is no safetensors file"):
        open_bundle(directory)
