"""Puts the real servers into .servers/bin: RabbitMQ, InfluxDB 2, S3 (versitygw), and Telegraf and collectd as clients.

`make servers` runs it, with any Python from 3.11 and nothing else. Go builds what has no package, Debian's packages are
linked. What is missing is named before anything is built; what is there already is left alone. With names (`build.py
telegraf`) it takes care of those only.
"""

# ruff: noqa: T201 -- printing is what it does
from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "servers"
FOLDER = ROOT / ".servers"
BIN, TOOLS, LOGS, VERSIONS = FOLDER / "bin", FOLDER / "tools", FOLDER / "logs", FOLDER / "versions.json"

GO = (1, 24)
RUST = (1, 72)
FREE_BYTES = 6 << 30
SIGN_OF_LIFE_SECONDS = 15.0
LINES_OF_LOG = 15

INFLUXDB, VERSITYGW, TELEGRAF = "2.7.12", "1.8.0", "1.37.2"
# The plugins that the tests and the comparison use; all of them would take ten times as long.
TELEGRAF_PLUGINS = (
    *("inputs.amqp_consumer", "inputs.cpu", "inputs.mem", "inputs.disk", "inputs.net"),
    *("outputs.amqp", "outputs.influxdb_v2", "outputs.discard"),
    *("parsers.json_v2", "parsers.influx", "serializers.influx", "serializers.json"),
)
NETWORK = re.compile(
    r"dial tcp|no such host|proxyconnect|i/o timeout|TLS handshake|connection (refused|reset|timed out)|network error"
    r"|could not resolve|temporary failure resolving|failed to fetch|failed to download|unexpected EOF",
    re.IGNORECASE,
)


class BuildError(Exception):
    """What went wrong and what to do, for the person at the terminal."""


class NetworkError(BuildError):
    """The same, where a second try can only help later."""


@dataclass(frozen=True)
class Program:
    """One program in .servers/bin; what its `recipe` was when it was built is noted beside its version."""

    name: str
    version: str
    recipe: tuple[str, ...]
    minutes: str


@dataclass(frozen=True)
class Package:
    """A program of Debian's, linked into .servers/bin."""

    name: str
    path: Path
    packages: tuple[str, ...]


PROGRAMS = (
    Program(
        "versitygw",
        VERSITYGW,
        (f"-ldflags=-X main.Version=v{VERSITYGW}", f"github.com/versity/versitygw/cmd/versitygw@v{VERSITYGW}"),
        "a minute",
    ),
    Program(
        "influxd",
        INFLUXDB,
        (f"-ldflags=-X main.version=v{INFLUXDB}", "github.com/influxdata/influxdb/v2/cmd/influxd"),
        "four minutes",
    ),
    Program(
        "telegraf",
        TELEGRAF,
        (
            f"-tags=custom,{','.join(TELEGRAF_PLUGINS)}",
            f"-ldflags=-X github.com/influxdata/telegraf/internal.Version={TELEGRAF}",
            f"github.com/influxdata/telegraf/cmd/telegraf@v{TELEGRAF}",
        ),
        "half a minute",
    ),
)
# Debian's /usr/sbin/rabbitmq-server wants to be root; the one below does not.
PACKAGES = (
    Package("rabbitmq-server", Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), ("rabbitmq-server",)),
    Package("collectd", Path("/usr/sbin/collectd"), ("collectd-core", "librabbitmq4", "libyajl2")),
)


def main(wanted: list[str]) -> int:
    began = time.monotonic()
    if unknown := set(wanted) - {one.name for one in (*PROGRAMS, *PACKAGES)}:
        raise BuildError(f"Nobody knows {', '.join(sorted(unknown))} here")
    programs, packages = missing_programs(wanted), missing_packages(wanted)
    if not programs and not packages:
        print(f"The servers are in .servers/bin: {', '.join(sorted(read_versions()))}")
        return 0
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *usual_places()])
    problems = [*package_problems(packages), *(build_problems(programs) if programs else [])]
    if problems:
        print("make servers cannot begin:\n" + "\n".join(f"- {problem}" for problem in problems), file=sys.stderr)
        return 1
    for folder in (BIN, TOOLS, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another make servers is at work in this folder; waiting for it ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        # that one may have done it all
        install_packages(missing_packages(wanted))
        for program in missing_programs(wanted):
            build(program)
    print(f"The servers are in .servers/bin, {time.monotonic() - began:.0f} s. Next: .venv/bin/ninjait up")
    return 0


def missing_programs(wanted: list[str]) -> list[Program]:
    noted = read_versions()
    return [
        program
        for program in PROGRAMS
        if (not wanted or program.name in wanted)
        and (not (BIN / program.name).exists() or noted.get(program.name, {}).get("recipe") != list(program.recipe))
    ]


def missing_packages(wanted: list[str]) -> list[Package]:
    return [
        package for package in PACKAGES if (not wanted or package.name in wanted) and not (BIN / package.name).exists()
    ]


def usual_places() -> list[str]:
    """Where Go and Cargo are put by their own installers, for a shell that was not told."""
    return ["/usr/local/go/bin", str(Path.home() / ".cargo" / "bin")]


def build_problems(programs: list[Program]) -> list[str]:
    problems = []
    go = "Go 1.24 or newer builds the servers: https://go.dev/dl, unpacked to /usr/local/go"
    found = version_of("go", "version")
    if found is None or found < GO:
        problems.append(f"{go}; {'it is not on the PATH' if found is None else f'found {dotted(found)}'}")
    if any(program.name == "influxd" for program in programs):
        cargo = "Cargo 1.72 or newer builds InfluxDB's query language: https://rustup.rs"
        found = version_of("cargo", "--version")
        if found is None or found < RUST:
            problems.append(f"{cargo}; {'it is not on the PATH' if found is None else f'found {dotted(found)}'}")
        if not any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc")):
            problems.append("A C compiler links InfluxDB: apt-get install gcc libc6-dev")
    free = shutil.disk_usage(ROOT).free
    if free < FREE_BYTES:
        problems.append(f"{FREE_BYTES >> 30} GiB of free disk are needed at most, {free / (1 << 30):.1f} are there")
    return problems


def package_problems(packages: list[Package]) -> list[str]:
    to_install = not_installed(packages)
    if packages and not shutil.which("dpkg-query"):
        names = " and ".join(package.name for package in packages)
        return [
            f"{names} come from packages of Debian or Ubuntu, and dpkg is not here: install them in this system's own "
            "way and link them: ln -s /path/to/rabbitmq-server/sbin/rabbitmq-server .servers/bin/rabbitmq-server, "
            "ln -s /path/to/collectd .servers/bin/collectd"
        ]
    if to_install and not shutil.which("apt-get"):
        return [f"apt-get is not here, and these packages are missing: {' '.join(to_install)}"]
    if to_install and root_prefix() is None:
        return [f"These packages need root. Run this, then make servers again: sudo {install_command(to_install)}"]
    return []


def not_installed(packages: list[Package]) -> list[str]:
    return [name for package in packages for name in package.packages if package_version(name) is None]


def package_version(name: str) -> str | None:
    answer = output("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", name)
    status, _, version = (answer or "").partition(" ")
    return version if status == "installed" else None


def root_prefix() -> list[str] | None:
    """How a command is run as root without being asked for a password; None if it cannot be."""
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if output("sudo", "-n", "true") is not None else None


def install_command(packages: list[str]) -> str:
    return shlex.join(["sh", "servers/packages.sh", *packages])


def install_packages(packages: list[Package]) -> None:
    to_install = not_installed(packages)
    if to_install:
        command = [*(root_prefix() or []), *shlex.split(install_command(to_install))]
        run("packages", f"Debian's packages {', '.join(to_install)}", command, dict(os.environ))
    for package in packages:
        if not package.path.exists():
            raise BuildError(f"{package.path} is not in Debian's package {package.packages[0]}")
        link = BIN / package.name
        link.unlink(missing_ok=True)
        link.symlink_to(package.path)
        note(package.name, package_version(package.packages[0]) or "", ())


def build(program: Program) -> None:
    what = f"{program.name} {program.version}, about {program.minutes} the first time"
    environment = dict(os.environ) | {"GOBIN": str(BIN), "GOWORK": "off"}
    command = ["go", "install", *program.recipe]
    if program.name != "influxd":
        run(program.name, what, command, environment)
    else:
        environment |= flux_environment(environment)
        try:
            run(program.name, what, command, environment)
        except NetworkError:
            raise
        except BuildError as error:
            # A killed or failed build leaves half a copy of Flux in Go's cache, and flags that Go goes on using. The
            # cache is the user's, with much else in it: an empty one beside it is free of both.
            print(f"{error}\nOnce more, with an empty Go cache:")
            cache = Path(str(output("go", "env", "GOCACHE")).strip())
            with tempfile.TemporaryDirectory(prefix="ninjait-go-build-", dir=cache.parent) as empty:
                run(program.name, what, command, environment | {"GOCACHE": empty})
    # Killed before this line: built again, from Go's cache.
    note(program.name, program.version, program.recipe)


def flux_environment(environment: dict[str, str]) -> dict[str, str]:
    """What building Flux's library takes, which is written in Rust: influxdata's pkg-config, found before any other,
    and a Cargo that is told to leave out what newer compilers refuse."""
    pkg_config = "github.com/influxdata/pkg-config"
    run("pkg-config", "pkg-config for InfluxDB", ["go", "install", pkg_config], environment | {"GOBIN": str(TOOLS)})
    cargo = TOOLS / "cargo-for-flux"
    # The default feature `strict` makes errors of a newer compiler's warnings; without `cffi` nothing is exported.
    text = (
        f'#!/bin/sh\nexec {shlex.quote(str(shutil.which("cargo")))} "$@" --no-default-features --features flux/cffi\n'
    )
    cargo.write_text(text)
    cargo.chmod(0o755)
    # Flux's folder names an old compiler, which rustup would fetch; the user's own does as well.
    toolchain = (output("rustup", "show", "active-toolchain") or "stable").split()[0]
    path = os.pathsep.join([str(TOOLS), environment["PATH"]])
    return {"PATH": path, "CARGO": str(cargo), "RUSTUP_TOOLCHAIN": toolchain}


def run(name: str, what: str, command: list[str], environment: dict[str, str]) -> None:
    """Runs a step with its output in a log, and says every few seconds that it is still at work."""
    log = LOGS / f"{name}.log"
    began = time.monotonic()
    print(f"{what} ...", flush=True)
    # Go takes the module from the folder it runs in; a program with its version in its path needs none.
    folder = ROOT if name == "packages" else HERE
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            while (code := wait(process)) is None:
                print(f"  {name}: {time.monotonic() - began:.0f} s", flush=True)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if code:
        raise failure(name, log)
    print(f"  {name}: done, {time.monotonic() - began:.0f} s", flush=True)


def wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(SIGN_OF_LIFE_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def failure(name: str, log: Path) -> BuildError:
    text = log.read_text(errors="replace")
    end = "\n".join(f"    {line}" for line in text.strip().splitlines()[-LINES_OF_LOG:])
    where = f"{name} failed; the end of {log.relative_to(ROOT)}:\n{end}"
    if NETWORK.search(text):
        return NetworkError(f"{where}\nIs there a network, and do Go's module proxy, crates.io and apt answer?")
    return BuildError(where)


def version_of(program: str, argument: str) -> tuple[int, int] | None:
    found = re.search(r"(\d+)\.(\d+)", output(program, argument) or "")
    return (int(found[1]), int(found[2])) if found else None


def dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def output(*command: str) -> str | None:
    """What a command prints; None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def read_versions() -> dict[str, dict[str, object]]:
    try:
        versions: dict[str, dict[str, object]] = json.loads(VERSIONS.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return versions


def note(name: str, version: str, recipe: tuple[str, ...]) -> None:
    versions = read_versions() | {name: {"version": version, "recipe": list(recipe)}}
    draft = VERSIONS.with_suffix(".tmp")
    draft.write_text(json.dumps(versions, indent=2) + "\n")
    draft.replace(VERSIONS)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BuildError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nStopped; make servers goes on from here.", file=sys.stderr)
        sys.exit(130)
