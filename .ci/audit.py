"""`make check`'s look at known vulnerabilities of what requirements.txt pins, by pip-audit.

Found ones fail. Where no database of vulnerabilities answers, one line says that nothing was audited, and nothing
fails: a check must work without a network. A database is believed if it knows what everybody knows of PROOF: a mirror
of PyPI that leaves the vulnerabilities out looks like one without any.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 30  # for each database
DATABASES = ("pypi", "osv")
PROOF = ("django", "3.2")  # CVE-2021-31542 and many more


def asked(database: str) -> tuple[dict | None, str]:
    """(pip-audit's report, why there is none)."""
    with tempfile.TemporaryDirectory() as folder:
        proof = Path(folder) / "proof.txt"
        proof.write_text(f"{'=='.join(PROOF)} --hash=sha256:{'0' * 64}\n")
        command = [sys.executable, "-m", "pip_audit", "-r", "requirements.txt", "-r", str(proof), "--require-hashes"]
        command += ["--disable-pip", "-s", database, "-f", "json", "--progress-spinner", "off", "--timeout", "5"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return None, f"{database}: no answer in {SECONDS} seconds"
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        return None, f"{database}: {(done.stderr.strip().splitlines() or ['no words'])[-1][:100]}"
    proofs = [one for one in report["dependencies"] if one["name"] == PROOF[0]]
    report["dependencies"] = [one for one in report["dependencies"] if one["name"] != PROOF[0]]
    if not any(one.get("vulns") for one in proofs) and any("vulns" in one for one in report["dependencies"]):
        return None, f"{database}: knows nothing bad even of {' '.join(PROOF)}"
    return report, ""


def verdict(report: dict) -> tuple[list[str], int] | None:
    """(lines to print, exit status) of a report; None where the database knew none of the packages."""
    audited = [one for one in report["dependencies"] if "skip_reason" not in one]
    if not audited:
        return None
    found = [
        f"audit: {one['name']} {one['version']}: {known['id']}, mended in {', '.join(known['fix_versions']) or 'none'}"
        for one in audited
        for known in one["vulns"]
    ]
    left_out = len(report["dependencies"]) - len(audited)
    rest = f"; {left_out} not known to the database" if left_out else ""
    return [*found, f"audit: {len(audited)} packages, {len(found)} known vulnerabilities{rest}"], int(bool(found))


def main() -> int:
    reasons = []
    for database in DATABASES:
        report, reason = asked(database)
        if report is not None and (result := verdict(report)):
            print(*result[0], sep="\n")
            return result[1]
        reasons.append(reason or f"{database}: knows none of the packages here")
    print(f"audit: NOT DONE, no database of vulnerabilities can be reached ({'; '.join(reasons)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
