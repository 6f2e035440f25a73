"""Settings of the service: flags win over variables, and what makes no sense is one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmembed.errors import SettingsError
from mmembed.service.settings import Settings, is_loopback, read_settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MMEMBED_") and not name.startswith("MMEMBED_TEST_")]:
        monkeypatch.delenv(name)


def test_defaults() -> None:
    """With nothing said it listens on loopback, at 8600, and chooses its store itself."""
    settings = read_settings()
    assert (settings.host, settings.port, settings.store, settings.encoder) == ("127.0.0.1", 8600, None, ())


def test_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over its variable, in both directions for a switch, and a flag that is not given leaves it."""
    monkeypatch.setenv("MMEMBED_PORT", "9000")
    monkeypatch.setenv("MMEMBED_GRPC", "true")
    monkeypatch.setenv("MMEMBED_MAX_WAIT_MS", "2.5")
    settings = read_settings(port=9001, grpc=False, max_wait_ms=None)
    assert (settings.port, settings.grpc, settings.max_wait_ms) == (9001, False, 2.5)


def test_lists_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is a list is parted by white space, as are lines; names with commas and colons stay whole."""
    monkeypatch.setenv("MMEMBED_ENCODER", "minilm  open_clip:ViT-B-32/laion2b\nbge-m3?output=sparse")
    monkeypatch.setenv("MMEMBED_KEY", "one:search,index two")
    settings = read_settings()
    assert settings.encoder == ("minilm", "open_clip:ViT-B-32/laion2b", "bge-m3?output=sparse")
    assert settings.key == ("one:search,index", "two")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MMEMBED_PROT", "1", "the variable MMEMBED_PROT is no setting: did you mean MMEMBED_PORT?"),
        ("mmembed_prot", "1", "the variable mmembed_prot is no setting"),
        ("MMEMBED_WWWWWWWWWWWW", "1", "docs/reference.md lists those there are"),
        ("MMEMBED_PORT", "many", "port: 'many' cannot be used, input should be a valid integer"),
        ("MMEMBED_PORT", "-1", "port: '-1' cannot be used, "),
        ("MMEMBED_MAX_BODY_MB", "0", "max_body_mb: "),
        ("MMEMBED_MAX_BODY_MB", "inf", "max_body_mb: "),
        ("MMEMBED_RATE", "nan", "rate: "),
        ("MMEMBED_ALLOW_ORIGIN", "shop.example", "allow_origin: 'shop.example' is no origin"),
        ("MMEMBED_ALLOW_ORIGIN", "https://shop.example/path", "is no origin"),
        ("MMEMBED_MAX_QUEUE", "10", "max_queue (10) must hold one request of max_inputs (1024)"),
        ("MMEMBED_HOST", "192.0.2.1", "needs keys"),
    ],
)
def test_what_makes_no_sense(variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown variable and a value that cannot be are one sentence that names it."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert said in str(caught.value)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that are empty, as `${NAME:-}` of Compose makes those that are missing, leave the defaults."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"MMEMBED_{name}".upper(), "")
    assert read_settings() == Settings.model_construct()


@pytest.mark.parametrize("name", ["MMEMBED_API_KEYS", "MMEMBED_DEBUG", "MMEMBED_TEST_QDRANT_URL"])
def test_variables_of_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that other commands and the tests read are not in the way."""
    monkeypatch.setenv(name, "x")
    assert read_settings() == Settings()


def test_another_host_needs_keys(tmp_path: Path) -> None:
    """A host that others can reach is taken with a key or a key file, and not without."""
    with pytest.raises(SettingsError, match="needs keys"):
        read_settings(host="0.0.0.0")
    assert read_settings(host="0.0.0.0", key=["secret"]).has_keys
    assert read_settings(host="::", key_file=tmp_path / "keys").has_keys


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, loopback: bool) -> None:
    """This computer's own names and no others."""
    assert is_loopback(host) is loopback


def test_secrets_are_not_shown() -> None:
    """What is printed of settings holds no key."""
    settings = Settings(key=("secret-abc",), qdrant_api_key="secret-def")
    assert "secret-" not in repr(settings)


def test_origins_are_written_alike() -> None:
    """An origin is compared in the form that browsers send: lower case and without a slash at its end."""
    assert Settings(allow_origin=("https://Shop.example/", "*")).allow_origin == ("https://shop.example", "*")
