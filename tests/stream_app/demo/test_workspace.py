"""The demo's directory and the settings its processes share."""

from pathlib import Path

import pytest

from stream_app.core.errors import ConfigurationError
from stream_app.demo.workspace import Workspace, environment_of_children
from stream_app.settings import Settings, load_settings


def base() -> Settings:
    return load_settings(
        {
            "serving.top_k": "7",
            "serving.event_types": 'view_item,odd "name"',
            "kafka.security_protocol": "SSL",
            "retrain.sessions_min": "33",
            "topics.clicks": "mine",
        },
        environment={},
    )


def test_children_read_the_very_settings_of_the_demo_from_its_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "demo", keep=False)
    settings = workspace.settings(base(), "127.0.0.1:1234", sessions_min=1500)
    assert load_settings({}, environment={}, file=workspace.settings_file) == settings
    assert settings.kafka.bootstrap_servers == "127.0.0.1:1234"
    assert settings.kafka.security_protocol == "PLAINTEXT", "our own broker, not the user's"
    assert settings.serving.event_types == ("view_item", 'odd "name"')
    assert settings.topics.clicks == "mine"
    assert settings.retrain.sessions_min == 33, "what the user sets is kept"
    assert settings.archive.flush_seconds == 10.0
    assert Path(settings.registry).parent == workspace.root


def test_the_environments_own_settings_do_not_reach_the_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:9092")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    env = environment_of_children()
    assert "NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS" not in env
    assert env["SOMETHING_ELSE"] == "1"


@pytest.mark.parametrize(
    ("named", "keep", "left"),
    [
        (False, False, None),
        (False, True, ["broker", "logs", "registry"]),
        (True, False, ["logs", "registry"]),
        (True, True, ["broker", "logs", "registry"]),
    ],
)
def test_only_what_was_asked_for_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool, keep: bool, left: list[str] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path / "mine" if named else None, keep=keep)
    workspace.broker.mkdir()
    (workspace.root / "registry").mkdir()
    said = workspace.clean_up()
    if left is None:
        assert not workspace.root.exists()
        assert said == ""
    else:
        assert sorted(path.name for path in workspace.root.iterdir()) == left
        assert str(workspace.root) in said


def test_a_directory_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        Workspace(tmp_path, keep=False)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Workspace(tmp_path / "file", keep=False)
