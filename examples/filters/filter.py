#!/usr/bin/env python3
"""filter.py PREFIX HEADER: drops records whose key begins with PREFIX, and headers named HEADER."""
import hashlib, sys, cbor2

prefix, name = sys.argv[1].encode(), sys.argv[2]
me = "filter.py:" + hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:8]  # what it was told to do
stdin, stdout, end = cbor2.CBORDecoder(sys.stdin.buffer), sys.stdout.buffer, None
try:
    header = stdin.decode()  # cbor2 takes the tag off
    if list(header[:2]) != ["kbk", 1] or header[2].get("content") != "records":  # in others there are records that it would not see
        sys.exit(print("filter.py: error: standard input is not a stream of records: leave out --batches, or put kbk-pack -d before it", file=sys.stderr) or 2)
    info = dict(header[2], filters=[*header[2].get("filters", []), me])
    stdout.write(cbor2.dumps(cbor2.CBORTag(55799, [*header[:2], info, *header[3:]]), canonical=True))
    while (frame := stdin.decode())[0] != "end":
        if frame[0] == "rec":
            if (frame[5] or b"").startswith(prefix):
                continue
            frame[7] = [h for h in frame[7] if h[0] != name]
        stdout.write(cbor2.dumps(frame))  # kinds that it does not know, too
    end = frame
    raise cbor2.CBORDecodeError(f"{stdin.decode()[0]} frame after the end frame")
except cbor2.CBORDecodeError as err:
    if end is None or not isinstance(err, cbor2.CBORDecodeEOF):
        sys.exit(print("filter.py: error: did the command upstream fail?", err, file=sys.stderr) or 3)
stdout.write(cbor2.dumps(end))  # only now: an end says that the whole input was read
