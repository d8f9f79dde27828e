"""Runs ClickHouse's engine (chdb): ``python -m bench.fleet.engine DIRECTORY``.

Reads a statement a line, as a JSON string, and answers each with a line: ``{"text": ...}``, the
rows as JSONCompactEachRow, or ``{"error": ...}``. It is a process of its own because the engine has
many threads and a gigabyte of memory.
"""

import json
import os
import sys

from chdb.session import Session


def main(directory: str) -> None:
    """Answer statements until standard input ends."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever the engine prints is no answer
        session = Session(directory)
        for line in sys.stdin:
            try:
                answer = {"text": str(session.query(json.loads(line), "JSONCompactEachRow"))}
            except RuntimeError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), file=answers, flush=True)
        session.close()


if __name__ == "__main__":
    main(sys.argv[1])
