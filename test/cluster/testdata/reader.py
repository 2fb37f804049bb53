"""Reads values as a consumer of a schema registry does, with nothing but Python's own library: a zero
byte, four bytes of schema id, and Avro's binary encoding by the schema that the registry has under the id.

usage: reader.py REGISTRY < values in hexadecimal, one a line > the same as JSON
"""
import json
import sys
import urllib.parse
import urllib.request

registry = sys.argv[1]


def get(path):
    with urllib.request.urlopen(registry + path, timeout=60) as answer:
        return json.load(answer)


def names(answer, known):
    """Adds the schemas that one refers to, by their names, and returns its own."""
    for ref in answer.get("references") or []:
        names(get("/subjects/%s/versions/%d" % (urllib.parse.quote(ref["subject"], safe=""), ref["version"])), known)
    schema = json.loads(answer["schema"])
    if isinstance(schema, dict) and "name" in schema:
        known[schema["name"]] = schema
    return schema


def number(data):
    """An int or a long: variable length, zigzag (Avro 1.11, "Binary Encoding")."""
    n, shift = 0, 0
    while True:
        b = next(data)
        n |= (b & 0x7F) << shift
        shift += 7
        if b < 0x80:
            return (n >> 1) ^ -(n & 1)


def decode(schema, known, data):
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "record":
        return {f["name"]: decode(f["type"], known, data) for f in schema["fields"]}
    if kind == "string":
        return bytes(next(data) for _ in range(number(data))).decode()
    if kind in ("int", "long"):
        return number(data)
    return decode(known[kind], known, data)


schemas = {}
for line in sys.stdin:
    value = bytes.fromhex(line)
    if value[0] != 0:
        sys.exit("a value without a schema id")
    id = int.from_bytes(value[1:5], "big")
    if id not in schemas:
        known = {}
        schemas[id] = (names(get("/schemas/ids/%d" % id), known), known)
    data = iter(value[5:])
    print(json.dumps(decode(*schemas[id], data)))
    if next(data, None) is not None:
        sys.exit("bytes are left behind a value")
