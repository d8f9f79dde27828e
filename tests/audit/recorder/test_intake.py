"""Intake: each listener has an equal share of the encoder."""

import threading

from criproxy.audit.recorder.intake import Intake, WaitingItem
from tests.support.audit_lines import RecordedProgress, item


def _put(intake: Intake, listener: str, count: int, size: int = 0) -> None:
    for number in range(count):
        intake.put(
            listener, WaitingItem(RecordedProgress(), lambda number=number: item(number), size)
        )


def test_a_busy_listener_delays_another_by_one_turn() -> None:
    """However many items one listener has waiting, another's are taken in the next turn."""
    intake = Intake()
    _put(intake, "agent", 10_000)
    _put(intake, "kubelet", 3)
    turns = [intake.take(), intake.take()]
    assert [turn.listener for turn in turns if turn] == ["agent", "kubelet"]
    assert [len(turn.items) for turn in turns if turn] == [64, 3]


def test_shares_are_equal_in_bytes() -> None:
    """A listener with large items gets no more bytes taken than one with small items."""
    intake = Intake()
    _put(intake, "large", 400, 30_000)
    _put(intake, "small", 20_000, 10)
    bytes_taken = {"large": 0, "small": 0}
    for _ in range(200):
        turn = intake.take()
        assert turn is not None
        bytes_taken[turn.listener] += sum(each.size + 1024 for each in turn.items)
    assert abs(bytes_taken["large"] - bytes_taken["small"]) <= 64 << 10


def test_an_item_larger_than_a_turn_is_taken() -> None:
    """An item of many quanta is taken once its listener has saved them up."""
    intake = Intake()
    _put(intake, "large", 1, 16 << 20)
    turn = intake.take()
    assert turn is not None
    assert len(turn.items) == 1


def test_closing_lets_the_rest_be_taken() -> None:
    """A closed intake returns its items, then None; a waiting ``take`` returns."""
    intake = Intake()
    ended = threading.Thread(target=intake.take)
    ended.start()
    intake.close()
    ended.join()
    _put(intake, "agent", 1)
    assert intake.take() is not None
    assert intake.take() is None
