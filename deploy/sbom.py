"""Writes the bill of materials of what is shipped, as SPDX 2.3: ``python deploy/sbom.py FILE...``.

``FILE.spdx.json`` is written beside each file, and its path printed:

- of a wheel: what it requires, in the versions of constraints.txt;
- of a Debian package: the Python packages that are in it;
- of a directory, the tree of an image: its Python packages, its Debian packages, and the
  interpreters that uv has installed.

The creation time is SOURCE_DATE_EPOCH if that is set, so that the same file gets the same bill.
A bill that is not valid SPDX is not written. Exit status 1: a bill is not valid; 2: a file cannot
be used.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from license_expression import ExpressionError, LicenseExpression, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from spdx_tools.spdx.model import (
    Actor,
    ActorType,
    Checksum,
    ChecksumAlgorithm,
    CreationInfo,
    Document,
    ExternalPackageRef,
    ExternalPackageRefCategory,
    Package,
    PackagePurpose,
    Relationship,
    RelationshipType,
    SpdxNoAssertion,
)
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from spdx_tools.spdx.writer.json.json_writer import write_document_to_file

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENT: Final = "SPDXRef-DOCUMENT"
SUBJECT: Final = "SPDXRef-Subject"
SUFFIX: Final = ".spdx.json"
CONTAINS: Final = RelationshipType.CONTAINS

_UNREADABLE: Final = (
    subprocess.CalledProcessError,
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError),
)
"""What dpkg-deb and zipfile fail with; the last is of an encrypted file, or one packed in another
way."""

EXTRA: Final = "otlp"
"""The extra that packages and the image install."""


class Component(NamedTuple):
    """Something that is shipped, or that is required."""

    kind: str
    """The type of its package URL, with the namespace: pypi, deb/debian or generic."""
    name: str
    version: str
    license: str | None = None
    requires: tuple[str, ...] = ()
    """Canonical names of Python packages."""
    qualifiers: str = ""
    """Of its package URL."""

    @property
    def purl(self) -> str:
        """Its package URL."""
        name, version = (quote(each, safe="") for each in (self.name, self.version))
        return f"pkg:{self.kind}/{name}@{version}{self.qualifiers}"

    @property
    def identifier(self) -> str:
        """Its identifier in the document."""
        return "SPDXRef-" + re.sub("[^A-Za-z0-9.-]+", "-", self.purl.removeprefix("pkg:"))


class Subject(NamedTuple):
    """What a bill is of."""

    path: Path
    name: str
    version: str
    components: Sequence[Component]
    relationship: RelationshipType
    """Of the subject to its components."""
    purpose: PackagePurpose


def main(arguments: Sequence[str]) -> int:
    """Write the bills; return the exit status."""
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: {sys.argv[0]} FILE...", file=sys.stderr)
        return 2
    for path in map(Path, arguments):
        try:
            document = document_of(subject_of(path))
        except (*_UNREADABLE, OSError, ValueError, KeyError) as error:
            print(f"{path}: no bill of materials can be made of it: {error}", file=sys.stderr)
            return 2
        faults = [each.validation_message for each in validate_full_spdx_document(document)]
        if faults:
            print(f"{path}: its bill is not valid SPDX: {faults[0]}", file=sys.stderr)
            return 1
        target = f"{path}{SUFFIX}"
        write_document_to_file(document, target, validate=False)
        print(target)
    return 0


def subject_of(path: Path) -> Subject:
    """Read a wheel, a Debian package or a tree. Raises ValueError if it is none of them."""
    if path.is_dir():
        found = [*_python_packages(path), *_debian_packages(path), *_interpreters(path)]
        components = list(dict.fromkeys(found))
        version = _criproxy(components).version
        return Subject(
            path, "criproxy-image", version, components, CONTAINS, PackagePurpose.CONTAINER
        )
    if path.suffix == ".whl":
        return _wheel(path)
    if path.suffix == ".deb":
        with tempfile.TemporaryDirectory(prefix="criproxy-sbom-") as directory:
            command = ("dpkg-deb", "--extract", str(path), directory)
            subprocess.run(command, check=True)
            found = list(_python_packages(Path(directory)))
        version = _criproxy(found).version
        return Subject(path, "criproxy", version, found, CONTAINS, PackagePurpose.INSTALL)
    raise ValueError("it is neither a wheel, a .deb, nor a directory")


def _criproxy(components: Iterable[Component]) -> Component:
    found = next((each for each in components if each.name == "criproxy"), None)
    if found is None:
        raise ValueError("criproxy is not in it")
    return found


def _wheel(path: Path) -> Subject:
    """Read a wheel: it contains criproxy alone, and names what it requires."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        own = _component(Parser().parsestr(archive.read(name).decode()), extra="")
    pinned = dict(
        line.partition("==")[::2]
        for line in (ROOT / "constraints.txt").read_text().split()
        if "==" in line
    )
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    components = [Component("pypi", name, versions[name]) for name in own.requires]
    purpose = PackagePurpose.INSTALL
    return Subject(path, own.name, own.version, components, RelationshipType.DEPENDS_ON, purpose)


def _python_packages(tree: Path) -> Iterator[Component]:
    """Read the metadata of the Python packages below a directory, but not of Debian's own."""
    for path in sorted(tree.glob("opt/**/site-packages/*.dist-info/METADATA")):
        yield _component(Parser().parsestr(path.read_text()))


def _component(metadata: Message, extra: str = EXTRA) -> Component:
    return Component(
        "pypi",
        canonicalize_name(_field(metadata, "Name")),
        _field(metadata, "Version"),
        metadata["License-Expression"] or metadata["License"],
        tuple(dict.fromkeys(_required(metadata.get_all("Requires-Dist") or (), extra))),
    )


def _field(fields: Message, name: str) -> str:
    """Return a field that has to be there. Raises ValueError."""
    value = fields[name]
    if value is None:
        raise ValueError(f"{name} is missing in {fields.as_string()[:100]!r}")
    return str(value)


def _required(lines: Iterable[str], extra: str) -> Iterator[str]:
    """Return the names of what is required on a platform as this, with an extra."""
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield canonicalize_name(requirement.name)


def _debian_packages(tree: Path) -> Iterator[Component]:
    """Read dpkg's list of what is installed in a tree; there may be none."""
    status = tree / "var/lib/dpkg/status"
    paragraphs = status.read_text().split("\n\n") if status.exists() else ()
    for paragraph in filter(str.strip, paragraphs):
        fields = Parser().parsestr(paragraph.lstrip())
        if _field(fields, "Status").endswith(" installed"):
            name, version, architecture = (
                _field(fields, k) for k in ("Package", "Version", "Architecture")
            )
            yield Component("deb/debian", name, version, qualifiers=f"?arch={architecture}")


def _interpreters(tree: Path) -> Iterator[Component]:
    """Name the interpreters that uv has installed, by their directories."""
    for path in sorted(tree.glob("opt/criproxy/*/python/cpython-*")):
        found = re.match(r"cpython-(\d+\.\d+\.\d+)", path.name)
        if found and not path.is_symlink():
            yield Component("generic", "cpython", found[1], "Python-2.0")


def document_of(subject: Subject) -> Document:
    """Return the bill of materials of what was read."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    time = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    checksum = _checksum(subject)
    # Each bill has a namespace of its own: that of the bytes that it describes.
    namespace = f"https://spdx.org/spdxdocs/{quote(subject.path.name)}-{checksum.value}"
    creation = CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id=DOCUMENT,
        name=subject.path.name,
        document_namespace=namespace,
        creators=[Actor(ActorType.TOOL, "criproxy-deploy-sbom")],
        created=time.replace(microsecond=0, tzinfo=None),
    )
    packages = [_subject_package(subject, checksum), *map(_package, subject.components)]
    by_name = {each.name: each.identifier for each in subject.components if each.kind == "pypi"}
    relationships = [
        Relationship(DOCUMENT, RelationshipType.DESCRIBES, SUBJECT),
        *(
            Relationship(SUBJECT, subject.relationship, each.identifier)
            for each in subject.components
        ),
        *(
            Relationship(each.identifier, RelationshipType.DEPENDS_ON, by_name[name])
            for each in subject.components
            for name in each.requires
            if name in by_name
        ),
    ]
    return Document(creation, packages=packages, relationships=relationships)


def _checksum(subject: Subject) -> Checksum:
    """Return the hash of a file; of a tree, that of the list of what is in it."""
    if subject.path.is_file():
        content = subject.path.read_bytes()
    else:
        content = "\n".join(sorted(each.purl for each in subject.components)).encode()
    return Checksum(ChecksumAlgorithm.SHA256, hashlib.sha256(content).hexdigest())


def _subject_package(subject: Subject, checksum: Checksum) -> Package:
    return Package(
        spdx_id=SUBJECT,
        name=subject.name,
        version=subject.version,
        download_location=SpdxNoAssertion(),
        file_name=subject.path.name,
        files_analyzed=False,
        checksums=[checksum] if subject.path.is_file() else [],
        license_declared=_license("Apache-2.0"),
        license_concluded=SpdxNoAssertion(),
        copyright_text=SpdxNoAssertion(),
        primary_package_purpose=subject.purpose,
    )


def _package(component: Component) -> Package:
    reference = ExternalPackageRef(
        ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", component.purl
    )
    return Package(
        spdx_id=component.identifier,
        name=component.name,
        version=component.version,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        license_declared=_license(component.license),
        license_concluded=SpdxNoAssertion(),
        copyright_text=SpdxNoAssertion(),
        external_references=[reference],
    )


def _license(text: str | None) -> LicenseExpression | SpdxNoAssertion:
    """Return a license as SPDX writes it; what is not an SPDX expression is not asserted."""
    try:
        found = get_spdx_licensing().parse(text, validate=True)
    except ExpressionError:
        found = None
    return SpdxNoAssertion() if found is None else found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
