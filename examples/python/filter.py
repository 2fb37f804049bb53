#!/usr/bin/env python3
"""filter.py TOPIC TEXT: keeps TOPIC's records that have TEXT in their value, and all frames but records."""
import sys, cbor2

topic, text = sys.argv[1], sys.argv[2].encode()
stdin, stdout, end = cbor2.CBORDecoder(sys.stdin.buffer), sys.stdout.buffer, None
try:
    header = stdin.decode()  # cbor2 takes the tag off
    if list(header[:2]) != ["kbk", 1] or header[2]["content"] != "records":
        sys.exit("filter.py: error: standard input is not a stream of records")
    stdout.write(cbor2.dumps(cbor2.CBORTag(55799, header)))
    while (frame := stdin.decode())[0] != "end":
        if frame[0] != "rec" or frame[1] == topic and text in (frame[6] or b""):
            stdout.write(cbor2.dumps(frame))
    end = frame
    raise cbor2.CBORDecodeError(f"{stdin.decode()[0]} frame after the end frame")
except cbor2.CBORDecodeError as err:
    if end is None or not isinstance(err, cbor2.CBORDecodeEOF):
        sys.exit(print("filter.py: error: did the command upstream fail?", err, file=sys.stderr) or 3)
stdout.write(cbor2.dumps(end))  # only now: an end says that the whole input was read
