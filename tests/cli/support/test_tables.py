"""Tables on a terminal."""

import pytest

from criproxy.cli.support.tables import print_table, without_alike

ROWS = [("TIME", "POD", "CODE", "NODE"), ("1", "-", "OK", "a"), ("2", "-", "OK", "b")]


@pytest.mark.parametrize(
    ("width", "header", "left_out"),
    [
        (80, ("TIME", "POD", "CODE", "NODE"), {}),
        (21, ("TIME", "POD", "CODE", "NODE"), {}),
        (20, ("TIME", "CODE", "NODE"), {"POD": "-"}),
        (15, ("TIME", "NODE"), {"POD": "-", "CODE": "OK"}),
        (5, ("TIME", "NODE"), {"POD": "-", "CODE": "OK"}),
    ],
)
def test_columns_that_are_left_out(
    width: int, header: tuple[str, ...], left_out: dict[str, str]
) -> None:
    """Until a table fits, empty columns go, then those in which all is the same."""
    rows, gone = without_alike(ROWS, width)
    assert rows[0] == header
    assert gone == left_out


def test_one_column_remains() -> None:
    """The last column stays, and a table without rows as well."""
    assert without_alike([("A", "B"), ("-", "x")], 0) == ([("B",), ("x",)], {"A": "-"})
    assert without_alike([("A", "B")], 0) == ([("A", "B")], {})


def test_long_cells(capsys: pytest.CaptureFixture[str]) -> None:
    """The widest cells are cut in the middle: paths and references differ at their ends."""
    print_table([("IMAGE", "N"), ("registry.example/shop/app:1.2.3", "1")], 18)
    assert (
        capsys.readouterr().out == "IMAGE            N\nregistr\N{HORIZONTAL ELLIPSIS}p:1.2.3  1\n"
    )
