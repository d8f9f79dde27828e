"""Bills of materials: SPDX that its own library finds valid, with what is shipped."""

import json
import runpy
import zipfile
from pathlib import Path
from types import FunctionType

import pytest
from spdx_tools.spdx.parser.json.json_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

SBOM = Path(__file__).parents[2] / "deploy/sbom.py"

CRIPROXY = """\
Metadata-Version: 2.4
Name: criproxy
Version: 1.2.3
License-Expression: Apache-2.0 AND MIT
Requires-Dist: click>=8.1
Requires-Dist: opentelemetry-proto; extra == 'otlp'
Requires-Dist: pywin32; sys_platform == 'win32'
"""
CLICK = """\
Metadata-Version: 2.1
Name: Click
Version: 8.5.1
License: free for all
"""
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2:2.36-9+deb12u14

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


@pytest.fixture(scope="module")
def sbom() -> FunctionType:
    """The program's main function."""
    main: FunctionType = runpy.run_path(str(SBOM))["main"]
    return main


def wheel(path: Path, metadata: str = CRIPROXY) -> Path:
    """Write a wheel that has metadata alone."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("criproxy-1.2.3.dist-info/METADATA", metadata)
    return path


def image(tree: Path) -> Path:
    """Write what is read of an image's tree."""
    home = tree / "opt/criproxy/1.2.3"
    for name, metadata in (("criproxy", CRIPROXY), ("click", CLICK)):
        directory = home / f"lib/python3.12/site-packages/{name}-1.dist-info"
        directory.mkdir(parents=True)
        (directory / "METADATA").write_text(metadata)
    (home / "python/cpython-3.12.9-linux-x86_64-gnu").mkdir(parents=True)
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").write_text(STATUS)
    return tree


def bill(path: Path) -> tuple[dict[str, str], set[tuple[str, str, str]]]:
    """Read a bill by the library, which has to find it valid: packages, and relationships."""
    document = JsonLikeDictParser().parse(json.loads(Path(f"{path}.spdx.json").read_text()))
    assert validate_full_spdx_document(document) == []
    names = {each.spdx_id: each.name for each in document.packages}
    urls = {
        each.name: reference.locator
        for each in document.packages
        for reference in each.external_references
    }
    related = {
        (
            names.get(each.spdx_element_id, "document"),
            each.relationship_type.name,
            names[str(each.related_spdx_element_id)],
        )
        for each in document.relationships
    }
    return urls, related


def test_wheel(sbom: FunctionType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel needs what it requires here, without extras, in the versions of constraints.txt; two
    bills of it are the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    path = wheel(tmp_path / "criproxy-1.2.3-py3-none-any.whl")
    assert sbom([str(path)]) == 0
    urls, related = bill(path)
    constraints = SBOM.parents[1] / "constraints.txt"
    (pinned,) = (each for each in constraints.read_text().split() if each.startswith("click=="))
    assert urls == {"click": f"pkg:pypi/click@{pinned.removeprefix('click==')}"}
    assert related == {
        ("document", "DESCRIBES", "criproxy"),
        ("criproxy", "DEPENDS_ON", "click"),
    }
    target = Path(f"{path}.spdx.json")
    first = target.read_bytes()
    assert b"2023-11-14T22:13:20Z" in first
    assert sbom([str(path)]) == 0
    assert target.read_bytes() == first


def test_image(sbom: FunctionType, tmp_path: Path) -> None:
    """An image contains its Python packages, the interpreter, and Debian's installed packages."""
    tree = image(tmp_path / "tree")
    assert sbom([str(tree)]) == 0
    written = json.loads(Path(f"{tree}.spdx.json").read_text())["packages"]
    licenses = {each["name"]: each["licenseDeclared"] for each in written}
    assert licenses["criproxy"] == "Apache-2.0 AND MIT"
    assert licenses["click"] == "NOASSERTION"  # what it says is not SPDX
    urls, related = bill(tree)
    assert urls == {
        "criproxy": "pkg:pypi/criproxy@1.2.3",
        "click": "pkg:pypi/click@8.5.1",
        "cpython": "pkg:generic/cpython@3.12.9",
        "libc6": "pkg:deb/debian/libc6@2%3A2.36-9%2Bdeb12u14?arch=amd64",
    }
    assert related == {
        ("document", "DESCRIBES", "criproxy-image"),
        *(("criproxy-image", "CONTAINS", name) for name in urls),
        ("criproxy", "DEPENDS_ON", "click"),
    }


def test_packages_of_several_architectures(sbom: FunctionType, tmp_path: Path) -> None:
    """A package of two architectures is two, and a name is escaped in its URL."""
    tree = image(tmp_path / "tree")
    status = "".join(
        f"\n\nPackage: libstdc++6\nStatus: install ok installed\nArchitecture: {each}\n"
        "Version: 12\n"
        for each in ("amd64", "i386")
    )
    (tree / "var/lib/dpkg/status").write_text(status)
    assert sbom([str(tree)]) == 0
    bill(tree)
    written = json.loads(Path(f"{tree}.spdx.json").read_text())["packages"]
    assert {
        reference["referenceLocator"]
        for each in written
        if each["name"] == "libstdc++6"
        for reference in each["externalRefs"]
    } == {f"pkg:deb/debian/libstdc%2B%2B6@12?arch={each}" for each in ("amd64", "i386")}


def test_what_has_no_bill(
    sbom: FunctionType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the file that no bill can be made of, and why."""
    other = tmp_path / "file.txt"
    other.touch()
    unpinned = wheel(tmp_path / "criproxy-1.2.3-py3-none-any.whl", CRIPROXY + "Requires-Dist: xyz")
    empty = tmp_path / "tree"
    empty.mkdir()
    no_zip = tmp_path / "no_zip.whl"
    no_zip.write_bytes(b"PK")
    corrupt = wheel(tmp_path / "corrupt.whl", CRIPROXY * 10)
    corrupt.write_bytes(corrupt.read_bytes().replace(b"Name: criproxy", b"Name: CRIPROXY"))
    nameless = wheel(tmp_path / "nameless.whl", CRIPROXY.replace("Name: criproxy\n", ""))
    unmarked = image(tmp_path / "unmarked")
    (unmarked / "var/lib/dpkg/status").write_text("Package: x\n")
    for path, why in (
        (other, "neither a wheel"),
        (unpinned, "xyz"),
        (empty, "criproxy is not in"),
        (no_zip, "not a zip file"),
        (corrupt, "Bad CRC-32"),
        (nameless, "Name is missing in 'Metadata-Version: 2.4"),
        (unmarked, "Status is missing in 'Package: x"),
    ):
        assert sbom([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"{path}: no bill of materials can be made of it: ")
        assert why in error


def test_what_is_not_valid_is_not_written(
    sbom: FunctionType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bill that the library finds invalid is not written."""
    path = wheel(tmp_path / "criproxy-1.2.3-py3-none-any.whl")
    monkeypatch.setitem(sbom.__globals__, "SUBJECT", "no identifier")
    assert sbom([str(path)]) == 1
    assert f"{path}: its bill is not valid SPDX: " in capsys.readouterr().err
    assert not Path(f"{path}.spdx.json").exists()
