"""What `make servers` says and does before and while it builds, with programs of our own in the place of Go and Cargo.

The real builds take minutes and a network: they are what CI runs before the tests marked `servers`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ninjait_pipelines.local.stack.engines import postgres_identity
from ninjait_pipelines.paths import ROOT

# `go install` writes what the last argument names, as the real one does.
GO = """#!/bin/sh
case $1 in
    version) echo "go version go1.26.0 linux/amd64" ;;
    env) echo "$CACHE" ;;
    install)
        shift; for last; do :; done; last=${last%%@*}
        echo "installing $last"
        : > "$GOBIN/${last##*/}"
        [ "${last##*/}" = pkg-config ] || /bin/chmod 755 "$GOBIN/${last##*/}" ;;
esac
"""


class Clone:
    """A clone of the repository as far as the builder needs it, with a PATH that the test fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "servers", folder / "servers")
        self.path = folder / "path"
        self.path.mkdir()
        (folder / "cache").mkdir()

    def have(self, name: str, text: str = "#!/bin/sh\n") -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def have_everything(self, go: str = GO) -> None:
        for name in ("cc", "rustup"):
            self.have(name)
        self.have("cargo", "#!/bin/sh\necho cargo 1.95.0\n")
        self.have("go", go)
        self.have_packages()

    def have_packages(self) -> None:
        programs = self.folder / ".servers" / "bin"
        programs.mkdir(parents=True)
        for name in ("rabbitmq-server", "collectd"):
            (programs / name).touch()

    def build(self, *prefix: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path), "HOME": str(self.folder), "CACHE": str(self.folder / "cache" / "go")}
        command = [*prefix, sys.executable, str(self.folder / "servers" / "build.py")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")

    def noted(self) -> dict[str, dict[str, object]]:
        versions: dict[str, dict[str, object]] = json.loads((self.folder / ".servers" / "versions.json").read_text())
        return versions


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "a clone")


def test_everything_that_is_missing_is_named_before_anything_is_built(clone: Clone) -> None:
    clone.have("go", "#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    done = clone.build()
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "make servers cannot begin:"
    assert [line.split()[1] for line in lines[1:]] == ["rabbitmq-server", "Go", "Cargo", "A"]
    for part in ("dpkg is not here", "found 1.19", "https://rustup.rs; it is not on the PATH", "apt-get install gcc"):
        assert part in done.stderr
    assert not (clone.folder / ".servers").exists()


@pytest.mark.skipif(os.getuid() == 0 and not postgres_identity().prefix, reason="root cannot become somebody else here")
def test_the_command_that_needs_root_is_given_whole(clone: Clone) -> None:
    clone.have_everything()
    shutil.rmtree(clone.folder / ".servers")
    clone.have("dpkg-query", "#!/bin/sh\nexit 1\n")
    clone.have("apt-get")
    unshare = shutil.which("unshare") or "unshare"
    prefix = [unshare, *postgres_identity().prefix[1:]] if os.getuid() == 0 else []
    done = clone.build(*prefix)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "make servers again: sudo sh servers/packages.sh rabbitmq-server collectd-core librabbitmq4 libyajl2\n"
    )
    assert not (clone.folder / ".servers").exists()


def test_it_builds_notes_what_it_built_and_then_does_nothing(clone: Clone) -> None:
    clone.have_everything()
    done = clone.build()
    assert (done.returncode, done.stderr) == (0, "")
    assert "influxd 2.7.12, about four minutes the first time ..." in done.stdout
    assert {name: entry["version"] for name, entry in clone.noted().items()} == {
        "versitygw": "1.8.0",
        "influxd": "2.7.12",
        "telegraf": "1.37.2",
    }
    shutil.rmtree(clone.path)
    began = time.monotonic()
    assert clone.build().stdout.startswith("The servers are in .servers/bin: ")
    assert time.monotonic() - began < 1


def test_what_was_not_noted_as_built_is_built_again_and_the_rest_is_left(clone: Clone) -> None:
    """A killed build may leave a program behind; only what is noted is whole."""
    clone.have_everything()
    clone.build()
    noted = clone.noted()
    del noted["telegraf"]
    noted["influxd"]["recipe"] = ["an older one"]
    (clone.folder / ".servers" / "versions.json").write_text(json.dumps(noted))
    said = clone.build().stdout
    assert "versitygw" not in said
    assert "influxd" in said
    assert "telegraf" in said
    assert len(clone.noted()) == 3


def test_without_a_network_the_end_of_the_log_and_the_advice_are_said(clone: Clone) -> None:
    words = "dial tcp: lookup proxy.example: no such host"
    clone.have_everything(GO.replace("shift;", f'echo "{words}"; exit 1;'))
    done = clone.build()
    assert done.returncode == 1
    assert f"versitygw failed; the end of .servers/logs/versitygw.log:\n    {words}" in done.stderr
    assert done.stderr.endswith("Is there a network, and do Go's module proxy, crates.io and apt answer?\n")


def test_a_go_cache_with_a_half_built_flux_does_not_stop_it_for_ever(clone: Clone) -> None:
    """A build killed while it copied Flux's source left half of it in Go's cache; every later build failed on it."""
    poisoned = 'case "$*" in *cmd/influxd*) [ -n "$GOCACHE" ] || { echo "no Cargo.toml"; exit 1; } ;; esac; shift;'
    clone.have_everything(GO.replace("shift;", poisoned))
    done = clone.build()
    assert done.returncode == 0, done.stderr
    assert "no Cargo.toml\nOnce more, with an empty Go cache:" in done.stdout
    assert list((clone.folder / "cache").iterdir()) == []
    assert clone.noted()["influxd"]["version"] == "2.7.12"
