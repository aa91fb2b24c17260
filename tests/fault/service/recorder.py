"""A process that keeps what others tell it, so that a verdict does not rest on their word.

``python -m tests.fault.service.recorder SOCKET FILE``: each datagram, ``kind id``, becomes a line
of the file, which is on the disk before the next batch is read. ``end`` ends it; datagrams sent
before that are in the file then, whatever has become of their sender.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

BATCH = 256


def main() -> None:
    path, file = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox, Path(file).open("ab") as kept:
        inbox.bind(path)
        print("ready", flush=True)
        while True:
            inbox.setblocking(True)
            batch = [inbox.recv(65536)]
            inbox.setblocking(False)
            try:
                while len(batch) < BATCH:
                    batch.append(inbox.recv(65536))
            except BlockingIOError:
                pass
            ended = b"end" in batch
            kept.write(b"".join(line + b"\n" for line in batch if line != b"end"))
            kept.flush()
            os.fsync(kept.fileno())
            if ended:
                return


if __name__ == "__main__":
    main()
