"""The audit of dependencies says what it found, and never looks green where it could not look."""

import importlib.util
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

from ninjait_pipelines.paths import ROOT


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOUND = {"name": "msgspec", "version": "0.22", "vulns": []}
WEAK = {"name": "jinja2", "version": "3.1.2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.3"]}]}
SKIPPED = {"name": "pika", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ([SOUND], 0, "1 packages, 0 known vulnerabilities"),
        ([SOUND, WEAK], 1, "jinja2 3.1.2: PYSEC-1, mended in 3.1.3"),
        ([SOUND, SKIPPED], 0, "1 not known to the database"),
        ([SKIPPED], 0, "NOT DONE"),
        (None, 0, "NOT DONE.*a reason"),
    ],
)
def test_what_is_said(
    audit: ModuleType,
    found: list[dict[str, Any]] | None,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pip-audit itself says "no known vulnerabilities" where its database knows none of the packages."""
    report = None if found is None else {"dependencies": found}
    monkeypatch.setattr(audit, "asked", lambda database: (report, "" if report else "a reason"))
    assert audit.main() == status
    assert re.search(words, capsys.readouterr().out)


# What a database answers to a question: (host, path, the question) -> status and body.
Answer = Callable[[str, str, Any], tuple[int, str]]
PINS = {"jinja2": "3.1.2", "msgspec": "0.22.0"}
ID, MENDED = "GHSA-h5c8-rqwp-cp95", "3.1.3"


class Databases(ThreadingHTTPServer):
    """A proxy behind which pypi.org and api.osv.dev are, as far as pip-audit can tell."""

    daemon_threads = True
    answer: Answer
    context: ssl.SSLContext


class Tunnel(BaseHTTPRequestHandler):
    server: Databases

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError), self.server.context.wrap_socket(self.connection, server_side=True) as inner:
            asked = inner.makefile("rb")
            while line := asked.readline().split():
                headers = dict(one.lower().split(b":", 1) for one in iter(asked.readline, b"\r\n"))
                question = asked.read(int(headers.get(b"content-length", 0)))
                status, body = self.server.answer(
                    self.path.split(":")[0], line[1].decode(), json.loads(question or "0")
                )
                head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(body.encode())}"
                inner.sendall(f"{head}\r\n\r\n{body}".encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Callable[[Answer | None], tuple[int, str]]]:
    """Runs .ci/audit.py, as `make check` does, on PINS: its exit status and what it prints. None: nobody answers."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file := str(tmp_path / "ca.pem"))
    server = Databases(("127.0.0.1", 0), Tunnel)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("pypi.org", "api.osv.dev").configure_cert(server.context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pins = [f"{name}=={version} --hash=sha256:{'0' * 64}" for name, version in PINS.items()]
    (tmp_path / "requirements.txt").write_text("\n".join(pins))

    def run(answer: Answer | None) -> tuple[int, str]:
        if answer:
            server.answer = answer
        port = server.server_port if answer else 9
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "REQUESTS_CA_BUNDLE": ca_file}
        environment |= {name: str(tmp_path / "cache") for name in ("XDG_CACHE_HOME", "PIP_CACHE_DIR")}
        command = [sys.executable, str(ROOT / ".ci" / "audit.py")]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert not done.stderr
        return done.returncode, done.stdout

    yield run
    server.shutdown()
    server.server_close()


def pypi(vulnerable: bool, withdrawn: str | None = None) -> Answer:
    """As PyPI documents its JSON API; OSV is away."""

    def answer(host: str, path: str, _: Any) -> tuple[int, str]:
        known = {"aliases": [], "details": "x", "summary": None, "fixed_in": [MENDED], "link": "", "source": "osv"}
        known |= {"id": ID, "withdrawn": withdrawn if "jinja2" in path else None}
        wrong = (vulnerable and path == "/pypi/jinja2/3.1.2/json") or path == "/pypi/django/3.2/json"
        document = {"info": {}, "last_serial": 1, "urls": [], "vulnerabilities": [known] if wrong else []}
        return (200, json.dumps(document)) if host == "pypi.org" else (503, "")

    return answer


def osv(vulnerable: bool) -> Answer:
    """As OSV documents its API; PyPI knows none of the packages."""

    def answer(host: str, _: str, question: Any) -> tuple[int, str]:
        if host == "pypi.org":
            return 404, '{"message": "Not Found"}'
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": MENDED}]}]
        name, version = question["package"]["name"], question["version"]
        affected = [{"package": question["package"], "ranges": ranges, "versions": [version]}]
        known = {"id": ID, "summary": "x", "schema_version": "1.6.0", "affected": affected}
        wrong = (vulnerable and (name, version) == ("jinja2", "3.1.2")) or (name, version) == ("django", "3.2")
        assert question["package"]["ecosystem"] == "PyPI"
        return 200, json.dumps({"vulns": [known]} if wrong else {})

    return answer


@pytest.mark.parametrize("database", [pypi, osv])
def test_a_database_that_answers(
    database: Callable[[bool], Answer], audited: Callable[[Answer | None], tuple[int, str]]
) -> None:
    """pip-audit itself, and both databases as they are documented."""
    words = f"audit: jinja2 3.1.2: {ID}, mended in {MENDED}\naudit: 2 packages, 1 known vulnerabilities\n"
    assert audited(database(True)) == (1, words)


@pytest.mark.parametrize("database", [pypi, osv])
def test_a_database_that_knows_nothing_bad(
    database: Callable[[bool], Answer], audited: Callable[[Answer | None], tuple[int, str]]
) -> None:
    assert audited(database(False)) == (0, "audit: 2 packages, 0 known vulnerabilities\n")


def test_what_was_withdrawn_is_none(audited: Callable[[Answer | None], tuple[int, str]]) -> None:
    assert audited(pypi(True, "2026-01-01T00:00:00Z")) == (0, "audit: 2 packages, 0 known vulnerabilities\n")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<html>log in</html>"), (200, "[]"), (200, '{"vulns": 7}'), (200, '{"info": {}}'), (500, "{}"), (429, "")],
)
def test_an_answer_that_is_none_is_said(
    status: int, body: str, audited: Callable[[Answer | None], tuple[int, str]]
) -> None:
    """Never "0 known vulnerabilities". A mirror of PyPI that leaves them out looked as if there were none."""
    code, said = audited(lambda *_: (status, body))
    assert code == 0
    assert said.startswith("audit: NOT DONE, no database of vulnerabilities can be reached (pypi: ")
    assert "; osv: " in said


def test_where_nobody_answers(audited: Callable[[Answer | None], tuple[int, str]]) -> None:
    code, said = audited(None)
    assert code == 0
    assert re.search(r"^audit: NOT DONE.*pypi: .*osv: .*\)\n$", said)
