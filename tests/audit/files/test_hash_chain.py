"""The hash chain: which changes it detects, and which lines are no break."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.audit.files.hash_chain import (
    GENESIS,
    START,
    ChainLink,
    check,
    digest,
    link,
    link_after,
)


def chained(count: int, after: ChainLink = START) -> list[bytes]:
    lines = []
    for number in range(count):
        line, after = link(json.dumps({"auditID": f"{after.sequence}-{number}"}).encode(), after)
        lines.append(line)
    return lines


def broken(lines: Sequence[bytes]) -> tuple[str, int]:
    found = check(lines).broken
    assert found is not None
    return found.kind, found.line


def test_a_chain_as_written_holds_and_says_its_last_hash() -> None:
    """Unchanged lines form a chain from 64 zeros to a last hash."""
    lines = chained(5)

    verdict = check(line + b"\n" for line in lines)

    assert verdict.broken is None
    assert (verdict.records, verdict.first, verdict.torn) == (5, GENESIS, ())
    assert verdict.last == ChainLink(5, digest(lines[-1]))


def test_each_line_has_the_hash_of_all_of_the_line_before() -> None:
    """``previous`` is the SHA-256 of the previous line without its newline."""
    first, second = chained(2)

    assert json.loads(first)["previous"] == "0" * 64
    assert json.loads(second)["previous"] == digest(first)


def test_an_empty_object_can_be_linked() -> None:
    """An empty object is valid JSON after it is linked."""
    assert json.loads(link(b"{}", START)[0]) == {"sequence": 1, "previous": GENESIS}


@pytest.mark.parametrize("at", range(4))
def test_a_changed_record_is_named(at: int) -> None:
    """The report names the line of a changed record, unless it is the last."""
    lines = chained(5)
    lines[at] = lines[at].replace(b"auditID", b"auditId")

    assert broken(lines) == ("changed", at + 1)


def test_a_changed_hash_is_the_fault_of_the_record_that_carries_it() -> None:
    """A change of ``previous`` is reported for its own record, not for the previous one."""
    lines = chained(5)
    lines[2] = lines[2].replace(digest(lines[1]).encode(), b"f" * 64)

    assert broken(lines) == ("changed", 3)


def test_removed_records_are_named_by_the_one_behind_them() -> None:
    """For removed records the report names the line after the gap and their sequence numbers."""
    lines = chained(6)
    verdict = check(lines[:2] + lines[4:])

    assert verdict.broken is not None
    assert (verdict.broken.kind, verdict.broken.line) == ("removed", 3)
    assert "records 3 to 4" in verdict.broken.message


@pytest.mark.parametrize("sequence", [2**63, 2**64, 10**40])
def test_a_sequence_may_be_any_number(sequence: int) -> None:
    """A forged sequence that fits no machine integer is a break like others."""
    forged, _ = link(b"{}", ChainLink(sequence - 1, "f" * 64))

    assert broken([*chained(2), forged]) == ("removed", 3)


def test_swapped_records_are_reordered_and_not_removed() -> None:
    """A missing record that appears later is reported as moved."""
    lines = chained(6)
    lines[2], lines[3] = lines[3], lines[2]

    assert broken(lines) == ("reordered", 3)


def test_an_inserted_record_is_named() -> None:
    """A forged record breaks the chain to the next line."""
    lines = chained(4)
    forged, _ = link(b'{"auditID":"forged"}', ChainLink(2, digest(lines[1])))
    lines.insert(2, forged)

    assert broken(lines) == ("inserted", 3)


def test_an_inserted_line_without_a_hash_is_named() -> None:
    """An unchained record within a chain is a break."""
    lines = chained(4)
    lines.insert(2, b'{"auditID":"forged"}')

    assert broken(lines) == ("inserted", 3)


def test_a_repeated_record_is_named() -> None:
    """A duplicated record is a break."""
    lines = chained(4)
    lines.insert(2, lines[1])

    assert broken(lines)[0] == "inserted"


def test_a_chain_that_begins_anew_is_named() -> None:
    """A new chain after an existing one is a break."""
    assert broken(chained(3) + chained(3)) == ("restarted", 4)


def test_a_torn_line_is_no_tampering() -> None:
    """After a torn line the chain continues from the last whole line."""
    lines = chained(4)
    lines.insert(2, lines[2][:20])

    verdict = check(lines)

    assert verdict.broken is None
    assert (verdict.records, verdict.torn) == (4, (3,))


def test_a_record_made_unreadable_is_changed_and_not_torn() -> None:
    """A torn line in place of a record is a break: the next line has that record's hash."""
    lines = chained(4)
    lines[1] = lines[1][:-5]

    assert broken(lines) == ("changed", 2)


def test_a_chain_whose_beginning_is_gone_holds_but_says_so() -> None:
    """If old files were removed, the chain of the others holds without beginning with zeros."""
    lines = chained(6)
    verdict = check(lines[3:])

    assert verdict.broken is None
    assert verdict.first == digest(lines[2])


def test_lines_from_before_there_was_a_chain_are_counted() -> None:
    """Of the unchained lines before a chain, the chain covers the last one only."""
    before = [b'{"auditID":"a"}', b'{"auditID":"b"}']
    after = link_after(before[-1])
    assert after is not None
    lines = before + chained(3, after)

    assert (check(lines).broken, check(lines).unchained) == (None, 2)
    lines[1] = b'{"auditID":"c"}'
    assert broken(lines) == ("changed", 2)


def test_what_no_chain_can_show_is_not_claimed() -> None:
    """A truncated log has no break; only a last hash stored elsewhere reveals it."""
    lines = chained(5)
    verdict = check(lines[:3])

    assert verdict.broken is None
    assert verdict.last != check(lines).last


@given(st.integers(3, 12), st.data())
def test_whatever_is_done_to_any_line_but_the_last_shows(count: int, data: st.DataObject) -> None:
    """Changing, removing or moving any lines but the last breaks the chain."""
    lines = chained(count)
    at = data.draw(st.integers(0, count - 2), label="line")
    match data.draw(st.sampled_from(["flip", "remove", "move"]), label="what"):
        case "flip":
            byte = data.draw(st.integers(0, len(lines[at]) - 1), label="byte")
            changed = bytearray(lines[at])
            changed[byte] ^= data.draw(st.integers(1, 255), label="bits")
            if b"\n" in changed or b"\r" in changed:
                return
            lines[at] = bytes(changed)
        case "remove" if at > 0:
            del lines[at]
        case _:
            lines.append(lines.pop(at))

    assert check(lines).broken is not None or check(lines).first != GENESIS
