"""A certificate of 127.0.0.1 that openssl makes."""

import shutil
import subprocess
from pathlib import Path

from tests.support.requirements import require


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Return the files of a key and of its certificate; skips the test without openssl."""
    require([] if shutil.which("openssl") else ["openssl (apt install openssl)"])
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1000"
    command += (
        f" -subj /CN=test -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return key, certificate
