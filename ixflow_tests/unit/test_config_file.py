"""Finding and reading a configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ixflow.errors import ConfigError, FlowError, NoConfiguration
from ixflow.pipeline.config_file import found_config, read_attrs, read_config
from ixflow.pipeline.config_schema import Place


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Give a home directory and a working directory without any configuration."""
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    for name in ("home", "work/project/deep"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work/project/deep")
    return Path(tmp_path) / "home"


def written(path: Path, text: str = "name: x") -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_nearest_file_is_found_first_and_the_home_directory_last(home):
    last = written(home / "pipedag.yml")
    assert found_config() == last
    above = written(Path.cwd().parent / "pipedag.yml")
    assert found_config() == above
    here = written(Path.cwd() / "pipedag.yml")
    assert found_config() == here
    preferred = written(Path.cwd() / "pipedag.yaml")
    assert found_config() == preferred


@pytest.mark.parametrize("name", ["pipedag.yaml", "pipedag.yml"])
def test_the_environment_variable_names_a_file_or_a_directory(home, monkeypatch, name):
    written(Path.cwd() / "pipedag.yaml")
    file = written(home / name)
    for named in (file, home):
        monkeypatch.setenv("PIPEDAG_CONFIG", str(named))
        assert found_config() == file


def test_a_wrong_environment_variable_is_not_passed_over(home, monkeypatch):
    written(Path.cwd() / "pipedag.yaml")
    monkeypatch.setenv("PIPEDAG_CONFIG", str(home / "nothing"))
    with pytest.raises(NoConfiguration, match=r"PIPEDAG_CONFIG is .*nothing"):
        found_config()


def test_without_a_file_the_error_says_how_to_give_a_configuration(home):
    with pytest.raises(NoConfiguration, match="create_basic_pipedag_config") as raised:
        found_config()
    assert isinstance(raised.value, FlowError)
    assert isinstance(raised.value, LookupError)
    assert isinstance(raised.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "no valid YAML: .*line 1"),
        ("a: 1\na: 2", "the key 'a' is there twice in line 2"),
        ("a: 2026-13-41", "no valid YAML: a value is wrong"),
        ("- a", "holds no mapping"),
        ("", "holds no mapping"),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_place(tmp_path, text, said):
    path = written(tmp_path / "pipedag.yaml", text)
    with pytest.raises(ConfigError, match=f"pipedag.yaml.*{said}"):
        read_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "url: postgresql://u:s3cret@h/x\n  b: 1",
        "password: *s3cret",
        "password: !s3cret x",
        "password: s3cret: s3cret",
        "password: '\x01s3cret'",
        "password: [s3cret",
    ],
)
def test_an_error_of_yaml_quotes_nothing_of_the_file(tmp_path, text):
    path = written(tmp_path / "pipedag.yaml", text)
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.yaml: No such file"):
        read_config(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config(tmp_path)


def test_yaml_may_share_mappings_by_anchors(tmp_path):
    text = "base: &b {x: 1, y: 2}\nmore: &m {<<: *b, y: 3}\nlast: {<<: *m, z: 4}"
    found = read_config(written(tmp_path / "f.yaml", text))
    assert found["last"] == {"x": 1, "y": 3, "z": 4}


def test_values_for_a_url_are_taken_as_they_are_written(tmp_path):
    path = written(tmp_path / "attrs.yaml", "password: 0123\nport: 5432\nflag: yes")
    assert read_attrs(path, Place("f")) == {"password": "0123", "port": "5432", "flag": "yes"}
    with pytest.raises(ConfigError, match=r"attrs.yaml: password must be a text"):
        read_attrs(written(path, "password: [s3cret]"), Place("f"))
