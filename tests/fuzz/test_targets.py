"""The fuzz targets, run on their initial cases and on the bytes of attacks."""

import random
from itertools import islice

import pytest

from criproxy.wire.reading.connection import Side
from tests.attacks.inputs import ATTACKS, Attack
from tests.fuzz.targets import TARGETS, chunks, corpus, frames, interception
from tests.support import wire

MUTATIONS = 4


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_and_its_mutations(name: str) -> None:
    """No case that a target begins with is a finding, nor is one of a few mutations of each."""
    generator = random.Random(7)
    for case in corpus(name):
        TARGETS[name](case)
        for _ in range(MUTATIONS if len(case) < 20_000 else 1):
            mutated = bytearray(case)
            for _ in range(generator.randint(1, 4)):
                mutated[generator.randrange(len(mutated))] = generator.randrange(256)
            TARGETS[name](bytes(mutated))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_inputs_of_attacks(attack: Attack) -> None:
    """The chunks of an attack are no finding for the targets that read connections."""
    sent = b"".join(islice(attack.chunks("v1"), 30))[:200_000]
    opening = [(Side.CLIENT, wire.PREFACE + wire.settings()), (Side.RUNTIME, wire.settings())]
    parts = [(Side.CLIENT, sent[at : at + 60_000]) for at in range(0, len(sent), 60_000)]
    case = b"".join(
        bytes((side,)) + len(data).to_bytes(2, "big") + data for side, data in [*opening, *parts]
    )
    assert len(list(chunks(case))) == len(opening) + len(parts)
    frames(case)
    interception(case)
