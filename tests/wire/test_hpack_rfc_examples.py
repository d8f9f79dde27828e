"""The examples of RFC 7541, appendix C: blocks in a row, with the table after each."""

from typing import NamedTuple

import pytest

from criproxy.wire.hpack.decoder import Decoder
from tests.support.wire import Header


class Step(NamedTuple):
    block: str
    headers: list[Header]
    table: list[Header]


def fields(text: str) -> list[Header]:
    """Fields, one a line: the name, a blank, the value."""
    pairs = (line.strip().partition(" ") for line in text.strip().splitlines())
    return [(name.encode(), value.encode()) for name, _, value in pairs]


REQUEST_1 = fields(""":method GET\n:scheme http\n:path /\n:authority www.example.com""")
REQUEST_2 = [*REQUEST_1, (b"cache-control", b"no-cache")]
REQUEST_3 = fields(
    """:method GET\n:scheme https\n:path /index.html\n:authority www.example.com
    custom-key custom-value"""
)
REQUEST_TABLES = [
    fields(":authority www.example.com"),
    fields("cache-control no-cache\n:authority www.example.com"),
    fields("custom-key custom-value\ncache-control no-cache\n:authority www.example.com"),
]
DATE_1, DATE_2 = "date Mon, 21 Oct 2013 20:13:21 GMT", "date Mon, 21 Oct 2013 20:13:22 GMT"
LOCATION = "location https://www.example.com"
COOKIE = "set-cookie foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
RESPONSE_HEADERS = [
    fields(f":status 302\ncache-control private\n{DATE_1}\n{LOCATION}"),
    fields(f":status 307\ncache-control private\n{DATE_1}\n{LOCATION}"),
    fields(
        f":status 200\ncache-control private\n{DATE_2}\n{LOCATION}\ncontent-encoding gzip\n{COOKIE}"
    ),
]
RESPONSE_TABLES = [
    fields(f"{LOCATION}\n{DATE_1}\ncache-control private\n:status 302"),
    fields(f":status 307\n{LOCATION}\n{DATE_1}\ncache-control private"),
    fields(f"{COOKIE}\ncontent-encoding gzip\n{DATE_2}"),
]


def steps(blocks: list[str], headers: list[list[Header]], tables: list[list[Header]]) -> list[Step]:
    return [Step(*parts) for parts in zip(blocks, headers, tables, strict=True)]


EXAMPLES: dict[str, tuple[int, list[Step]]] = {
    "C.2.1": (
        4096,
        [
            Step(
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                fields("custom-key custom-header"),
                fields("custom-key custom-header"),
            )
        ],
    ),
    "C.2.2": (
        4096,
        [Step("040c 2f73 616d 706c 652f 7061 7468", fields(":path /sample/path"), [])],
    ),
    "C.2.3": (
        4096,
        [Step("1008 7061 7373 776f 7264 0673 6563 7265 74", fields("password secret"), [])],
    ),
    "C.2.4": (4096, [Step("82", fields(":method GET"), [])]),
    "C.3": (
        4096,
        steps(
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [REQUEST_1, REQUEST_2, REQUEST_3],
            REQUEST_TABLES,
        ),
    ),
    "C.4": (
        4096,
        steps(
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
            [REQUEST_1, REQUEST_2, REQUEST_3],
            REQUEST_TABLES,
        ),
    ),
    "C.5": (
        256,
        steps(
            [
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133"
                "2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70"
                "6c65 2e63 6f6d",
                "4803 3330 37c1 c0bf",
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d"
                "54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049"
                "5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e"
                "3d31",
            ],
            RESPONSE_HEADERS,
            RESPONSE_TABLES,
        ),
    ),
    "C.6": (
        256,
        steps(
            [
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6"
                "2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                "4883 640e ffc1 c0bf",
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab"
                "77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f"
                "9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            ],
            RESPONSE_HEADERS,
            RESPONSE_TABLES,
        ),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    """Each block gives the headers and the table that the appendix prints."""
    size, blocks = EXAMPLES[name]
    decoder = Decoder()
    if size < 4096:  # the example's table is smaller than the default: announce that first
        decoder.decode(bytes((0x3F, (size - 31) & 0x7F | 0x80, (size - 31) >> 7)))
    for step in blocks:
        assert decoder.decode(bytes.fromhex(step.block)) == step.headers
        assert list(decoder.table) == step.table
