package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
)

var update = flag.Bool("update", false, "write testdata anew")

// A vector is a golden stream: testdata/<name>.kbk, and the same to read in
// testdata/<name>.diag.
type vector struct {
	name  string
	about string
	bytes []byte
	err   error // what a reader reports, for a bad vector
	frame int64 // and of which frame
}

var (
	header    = unhex("d9d9f7 83 636b626b 01 a1 67636f6e74656e74 677265636f726473")
	batches   = unhex("d9d9f7 83 636b626b 01 a1 67636f6e74656e74 6762617463686573")
	segments  = unhex("d9d9f7 83 636b626b 01 a1 67636f6e74656e74 687365676d656e7473")
	end       = unhex("82 63656e64 a1 677265636f726473 01")
	aRec      = unhex("88 63726563 666f7264657273 00 00 1b0000018bcfe56800 f6 427b7d 80")
	aMark     = unhex("85 646d61726b 666f7264657273 00 00 a0")
	failed    = unhex("82 646661696c a2 626279 696b626b2d6665746368 63776879 6a6e6f2062726f6b6572")
	deepArray = append(bytes.Repeat([]byte{0x81}, maxDepth+1), 0)
)

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// with is a stream of one frame, in hexadecimal.
func with(frame string) []byte { return cat(header, unhex(frame), end) }

// records are those of good/records, in order.
var records = []*Record{
	{Topic: "orders", Offset: 0, Timestamp: 1_700_000_000_000, Key: []byte("k"), Value: []byte(`{"n":1}`), Headers: []RecordHeader{
		{[]byte("trace"), []byte{0, 1}}, {[]byte("trace"), nil}, {[]byte(""), []byte{}}, {[]byte{0xff, 0xfe}, []byte("not UTF-8")}, {[]byte("é"), nil},
	}},
	{Topic: "orders", Offset: 1, Timestamp: 1_700_000_000_001, Key: []byte("k")}, // a tombstone
	{Topic: "orders", Offset: 2, Timestamp: -1, Key: []byte{}, Value: []byte{}},
	{Topic: "orders", Offset: 7, Timestamp: 1_700_000_000_002, Value: bytes.Repeat([]byte("x"), 256), Attributes: LogAppendTime},
	{Topic: "orders", Partition: 1<<31 - 1, Offset: 1<<63 - 1, Timestamp: -1 << 63},
}

// packed is a stream as zstd, in two frames of one raw block each (RFC 8878,
// section 3.1.1): bytes that no release of a compressor changes.
func packed(stream []byte) []byte {
	var out []byte
	for _, part := range [][]byte{stream[:len(stream)/2], stream[len(stream)/2:]} {
		n := len(part)
		out = append(out, 0x28, 0xb5, 0x2f, 0xfd, 0x20, byte(n), byte(n<<3|1), byte(n>>5), 0)
		out = append(out, part...)
	}
	return out
}

// rawBatch is a record batch of three records, uncompressed, at an offset: record i has
// the timestamp 1_700_000_000_000 + i, no key, and the value "i".
func rawBatch(first int64) []byte {
	const body = "0e 00 00 00 01 02 30 00" + "0e 00 02 02 01 02 31 00" + "0e 00 04 04 01 02 32 00"
	b := unhex("ffffffff 02 00000000 0000 00000002 0000018bcfe56800 0000018bcfe56802 ffffffffffffffff ffff ffffffff 00000003" + body)
	binary.BigEndian.PutUint32(b[5:], crc32.Checksum(b[9:], crc32.MakeTable(crc32.Castagnoli)))
	head := binary.BigEndian.AppendUint64(nil, uint64(first))
	return append(binary.BigEndian.AppendUint32(head, uint32(len(b))), b...)
}

// inside is the stream of the segment in good/segments.
func inside(t testing.TB) []byte {
	return cat(header, frames(t, &Topic{Name: "orders", Partitions: 1, ReplicationFactor: 1}), frames(t, &Mark{Topic: "orders"}),
		aRec, frames(t, &Mark{Topic: "orders", Next: 3}, &End{Records: 1}))
}

// insideBatches is the stream of the segment in good/batch-segments.
func insideBatches(t testing.TB) []byte {
	return cat(batches, frames(t, &Topic{Name: "orders", Partitions: 1, ReplicationFactor: 1}, &Mark{Topic: "orders", Next: 10},
		&Batch{"orders", 0, 10, 12, 1_700_000_000_002, 3, rawBatch(10), ""}), AppendRecord(nil, &Record{Topic: "orders", Offset: 14, Timestamp: -1}), frames(t,
		&Batch{"orders", 0, 20, 22, 1_700_000_000_002, 3, rawBatch(20), "lz4"},
		&Mark{Topic: "orders", Next: 25}, &End{Records: 7}))
}

// insideSnapshot is the stream of the snapshot in good/snapshot.
func insideSnapshot(t testing.TB) []byte {
	return cat(header, frames(t,
		&Cluster{"9f86d081884c7d65", 1_700_000_000_000, ClusterInfo{Cluster: "lkc-1", Kinds: []string{ClusterUsers}, LeftOut: []string{"user alice: its password, which Kafka does not give away"}}},
		&User{"alice", []Credential{{"SCRAM-SHA-512", 8192}}}, &End{}))
}

func goodVectors(t testing.TB) []vector {
	var recs []byte
	for _, r := range records {
		recs = AppendRecord(recs, r)
	}
	raw := inside(t)
	data := packed(raw)
	sum := sha256.Sum256(data)
	seg, err := appendDataHead(nil, "seg", &Segment{
		Topic: "orders", Next: 3, Records: 1, MinTimestamp: 1_700_000_000_000, MaxTimestamp: 1_700_000_000_000,
		Codec: "zstd", RawSize: int64(len(raw)), Size: int64(len(data)), SHA256: sum[:],
	}, len(data))
	if err != nil {
		t.Fatal(err)
	}
	rawBatches := insideBatches(t)
	ofBatches := packed(rawBatches)
	sumOfBatches := sha256.Sum256(ofBatches)
	batchSeg, err := appendDataHead(nil, "seg", &Segment{
		Topic: "orders", From: 10, Next: 25, First: 10, Last: 22, Records: 7, MinTimestamp: -1, MaxTimestamp: 1_700_000_000_002,
		Content: ContentBatches, Codec: "zstd", RawSize: int64(len(rawBatches)), Size: int64(len(ofBatches)), SHA256: sumOfBatches[:],
	}, len(ofBatches))
	if err != nil {
		t.Fatal(err)
	}
	rawCluster := insideSnapshot(t)
	ofCluster := packed(rawCluster)
	sumOfCluster := sha256.Sum256(ofCluster)
	snapshot, err := appendDataHead(nil, "snapshot", &Snapshot{
		ID: "9f86d081884c7d65", Time: 1_700_000_000_000, Cluster: "lkc-1", Frames: map[string]int64{"user": 1}, Kinds: []string{ClusterUsers}, LeftOut: 1,
		Codec: "zstd", RawSize: int64(len(rawCluster)), Size: int64(len(ofCluster)), SHA256: sumOfCluster[:],
	}, len(ofCluster))
	if err != nil {
		t.Fatal(err)
	}
	full, err := (&Header{ID: "20261120T220000Z-1", Created: 1_700_000_000_000, Content: ContentRecords,
		Source: &Source{Cluster: "lkc-1", Tool: "kbk-fetch 1.0", Isolation: "read_committed"}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	following, err := (&Header{ID: "0a1b2c3d4e5f6071", Created: 1_700_000_000_000, Content: ContentRecords, Follow: true,
		Source: &Source{Cluster: "lkc-1", Tool: "kbk-fetch 1.0", Isolation: "read_committed"}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	working, err := (&Header{ID: "0a1b2c3d4e5f6072", Created: 1_700_000_000_000, Content: ContentRecords, Follow: true,
		Source: &Source{Cluster: "lkc-1", Tool: "kbk-fetch 1.0", Isolation: "read_committed", Group: "kbk-backup"}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	totalled, err := (&Header{Created: 1_700_000_000_000, Content: ContentSegments, Total: &Total{Offsets: 3, Records: 1, Bytes: int64(len(data))}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return []vector{
		{name: "empty", about: "nothing but a header and an end", bytes: cat(header, frames(t, &End{}))},
		{name: "small", about: "the example of SPEC.md", bytes: cat(full, aMark, aRec, frames(t, &Mark{Topic: "orders", Next: 1}), end)},
		{name: "records", about: "records: null and empty, headers of all sorts, extremes, a gap in the offsets", bytes: cat(header,
			frames(t, &Topic{Name: "orders", Partitions: 1<<31 - 1, ReplicationFactor: 3}, &Mark{Topic: "orders"}),
			recs, frames(t, &Mark{Topic: "orders", Next: 10}, &End{Records: int64(len(records))}))},
		{name: "kinds", about: "every kind but rec, batch, seg, fail and those of a cluster", bytes: cat(header, frames(t,
			&Topic{"orders", "vPeOCWypqUOSepEvx0cbog", 12, 3, map[string]string{"cleanup.policy": "compact", "retention.ms": "-1"}},
			&Topic{Name: "audit"},
			&Mark{"orders", 11, 7, MarkInfo{TopicID: "vPeOCWypqUOSepEvx0cbog", LeaderEpoch: ptr(int32(4)), LogStart: ptr(int64(7)), End: ptr(int64(1 << 40)), Lost: [][2]int64{{0, 3}, {4, 7}}}},
			&Mark{Topic: "orders", Partition: 11, Next: 1 << 40},
			&Group{ID: "billing", Offsets: map[string]map[int32]GroupOffset{
				"audit":  {},
				"orders": {0: {Offset: 5}, 11: {Offset: 1<<63 - 1, LeaderEpoch: ptr(int32(3)), Metadata: ptr("")}},
			}},
			&Point{Time: 1_700_000_000_000},
			&Map{"orders", 11, 100, "orders-2", 2, 0, 1000},
			&End{Records: 5, Segments: 6, Interrupted: true, Lost: true}))},
		{name: "batches", about: "record batches, a record between them, and one that a stage has decompressed", bytes: cat(batches, frames(t,
			&Mark{Topic: "orders", Next: 10},
			&Batch{"orders", 0, 10, 12, 1_700_000_000_002, 3, rawBatch(10), ""}), AppendRecord(nil, &Record{Topic: "orders", Offset: 14, Timestamp: -1}), frames(t,
			&Batch{"orders", 0, 20, 22, 1_700_000_000_002, 3, rawBatch(20), "lz4"},
			&Mark{Topic: "orders", Next: 23}, &End{Records: 7}))},
		{name: "worker", about: "a worker of a group: a source that goes on and makes no points", bytes: cat(working, aMark, aRec, frames(t, &Mark{Topic: "orders", Next: 1}, &End{Records: 1, Interrupted: true}))},
		{name: "follow", about: "a source that goes on: a point in the middle, with the offsets of a group", bytes: cat(following, aMark, aRec, frames(t,
			&Groups{[]string{"billing"}, GroupsInfo{Include: []string{"^"}, Topics: map[string]string{"orders": ""}}},
			&Group{ID: "billing", Offsets: map[string]map[int32]GroupOffset{"orders": {0: {Offset: 1}}}},
			&Mark{Topic: "orders", Next: 1}, &Point{Time: 1_700_000_000_000}, &Mark{Topic: "orders", Next: 1}, &End{Records: 1, Interrupted: true}))},
		{name: "segments", about: "a segment, whose bytes are two zstd frames; in them is a complete stream", bytes: cat(segments, seg, data, frames(t, &End{Records: 1, Segments: 1}))},
		{name: "total", about: "a header that says how much is to come", bytes: cat(totalled, seg, data, frames(t, &End{Records: 1, Segments: 1}))},
		{name: "batch-segments", about: "a segment of batches, and a record between them", bytes: cat(segments, batchSeg, ofBatches, frames(t, &End{Records: 7, Segments: 1}))},
		{name: "cluster", about: "a snapshot of a cluster: a frame of each kind, and what could not be had", bytes: cat(header, frames(t,
			&Cluster{"9f86d081884c7d65", 1_700_000_000_000, ClusterInfo{Cluster: "lkc-1", Tool: "kbk-cluster 1.0", Kinds: ClusterKinds, Registry: "http://registry:8081", Connect: "http://connect:8083",
				Features: map[string]int64{"metadata.version": 29}, LeftOut: []string{"user alice: its password, which Kafka does not give away"}}},
			&ACL{"TOPIC", "orders", "PREFIXED", "User:alice", "*", "READ", "ALLOW"},
			&Quota{[]QuotaEntity{{Type: "client-id"}, {Type: "user", Name: ptr("alice")}}, map[string]float64{"producer_byte_rate": 1048576.5}},
			&User{"alice", []Credential{{"SCRAM-SHA-512", 8192}}},
			&Config{"broker", "1", map[string]*string{"log.cleaner.threads": ptr("2"), "ssl.keystore.password": nil}, ConfigInfo{}},
			&Config{"topic", "orders", map[string]*string{"retention.ms": ptr("-1")}, ConfigInfo{12, 3}},
			&Subject{"orders-value", SubjectInfo{Compatibility: "FULL", Mode: "READWRITE", Config: `{"compatibilityLevel":"FULL"}`}},
			&Schema{"orders-value", 1, SchemaInfo{ID: 7, Schema: `"string"`, References: []SchemaReference{{"money", "money", 2}}, Deleted: true, Metadata: `{"owner":"x"}`, Rules: `{}`}},
			&Connector{"files", map[string]string{"connector.class": "FileStreamSource"}, ConnectorInfo{"RUNNING", `{"offsets":[]}`}},
			&End{}))},
		{name: "snapshot", about: "a packed snapshot of a cluster", bytes: cat(segments, snapshot, ofCluster, frames(t, &End{}))},
		{name: "coverage", about: "what was lost, hidden, filtered, cut off and deleted; which groups were asked for; what partitions became", bytes: cat(header, frames(t,
			&Mark{"orders", 0, 20, MarkInfo{Begins: true, Branch: true}},
			&Mark{"orders", 0, 40, MarkInfo{Filters: []string{"kbk-filter:1a2b3c4d", "window"}, Open: &[2]int64{40, 63}}},
			&Mark{"audit", 3, 9, MarkInfo{Deleted: true}},
			&Group{ID: "billing", Offsets: map[string]map[int32]GroupOffset{"orders": {0: {Offset: 5}}},
				GroupInfo: GroupInfo{Topics: map[string]string{"orders": "vPeOCWypqUOSepEvx0cbog", "audit": ""}}},
			&Groups{[]string{"billing"}, GroupsInfo{[]string{"^b"}, []string{"basket"}, map[string]string{"orders": "vPeOCWypqUOSepEvx0cbog", "audit": ""}}},
			&Groups{},
			&Point{1_700_000_000_000, map[string][]int32{"audit": {3}}},
			&Moment{[]byte("\x83\x65point\x1b\x00\x00\x01\x8b\xcf\xe5\x68\x00\xa0"), MomentInfo{"20231114T221320.000Z-0a1b2c3d-000001", "0a1b2c3d",
				[]MomentTopic{{"orders", "vPeOCWypqUOSepEvx0cbog", nil, map[int32][2]int64{0: {5, 40}}}}, nil,
				[]MomentLack{{"audit", []int32{0, 3}, "other records took the place of its last ones"}}}},
			&Target{"orders", 0, "orders-2", 7, TargetInfo{"vPeOCWypqUOSepEvx0cbog", []int64{0, 1000}}},
			&Target{"orders", 1, "orders-2", -1, TargetInfo{}},
			&End{Lost: true, Losses: []string{"audit/3: the topic was deleted while it was read"}}))},
		{name: "later", about: "what a later version may add: keys of maps, elements behind the known ones, an unknown kind", bytes: cat(
			unhex("d9d9f7 84 636b626b 01 a2 636e6577 f5 67636f6e74656e74 677265636f726473 f6"),
			unhex("82 656c61746572 a1 00 9f01ff"),
			unhex("87 646d61726b 666f7264657273 00 00 a1 636e6577 01 6161 6162"),
			unhex("8b 63726563 666f7264657273 00 00 00 f6 f6 80 00 6161 bf0001ff"),
			unhex("83 63656e64 a2 636e6577 01 677265636f726473 01 00"))},
		{name: "tolerant", about: "one record, in encodings that are valid but not deterministic", bytes: cat(
			unhex("d9d9f7 9f 7f 626b62 616b ff 1801 bf 67636f6e74656e74 677265636f726473 ff ff"),
			aRec,
			unhex("9f 63726563 666f7264657273 00 00 1b0000018bcfe56800 f6 427b7d 80 ff"),
			unhex("98 08 7803726563 7900066f7264657273 1800 190000 1b0000018bcfe56800 f6 5a00000002 7b7d 9b0000000000000000"),
			unhex("89 63726563 7f 636f7264 60 63657273 ff 1a00000000 1b0000000000000000 1b0000018bcfe56800 f6 5f 417b 40 417d ff 9fff 00"),
			unhex("9f 63656e64 bf 677265636f726473 1804 ff ff"))},
	}
}

func badVectors(t testing.TB) []vector {
	good := cat(header, aMark, aRec, end)
	return []vector{
		{"no-bytes", "not one byte", nil, ErrEmpty, 0},
		{"cut-in-tag", "ends within the tag", header[:2], ErrTruncated, 0},
		{"cut-in-header", "ends within the header", header[:20], ErrTruncated, 0},
		{"cut-in-record", "ends within a record", good[:len(cat(header, aMark))+9], ErrTruncated, 2},
		{"no-end", "ends between two frames", cat(header, aMark, aRec), ErrTruncated, 3},
		{"cut-in-end", "ends within the end frame", good[:len(good)-1], ErrTruncated, 3},

		{"fail", "the source says that it failed, instead of an end", cat(header, aMark, aRec, failed), ErrTruncated, 3},
		{"fail-end", "an end behind a fail frame", cat(header, aMark, failed, end), ErrCorrupt, 2},
		{"fail-null", "a fail frame with null for its map", cat(header, unhex("82 646661696c f6")), ErrCorrupt, 1},
		{"header-total", "a total that is a number", cat(magic, unhex("83 636b626b 01 a2 65746f74616c 01 67636f6e74656e74 677265636f726473"), end), ErrCorrupt, 0},

		{"trailing-byte", "a byte behind the end frame", cat(good, []byte{0}), ErrTrailing, 4},
		{"trailing-record", "a record behind the end frame", cat(good, aRec), ErrTrailing, 4},
		{"trailing-stream", "a second stream behind the end frame", cat(good, good), ErrTrailing, 4},

		{"not-cbor", "text", []byte("offset,key,value\n"), ErrNotStream, 0},
		{"not-tagged", "a header without tag 55799", cat(header[3:], end), ErrNotStream, 0},
		{"not-array", "tag 55799 around something else", cat(magic, unhex("a0"), end), ErrNotStream, 0},
		{"not-kbk", "a header of another name", cat(magic, unhex("83 6378796d 01 a0"), end), ErrNotStream, 0},

		{"version-2", "a header of version 2", cat(magic, unhex("83 636b626b 02 a0"), end), ErrVersion, 0},
		{"version-0", "a header of version 0", cat(magic, unhex("83 636b626b 00 a0"), end), ErrVersion, 0},

		{"header-no-map", "a header of two elements", cat(magic, unhex("82 636b626b 01"), end), ErrCorrupt, 0},
		{"header-null", "a header with null for its map", cat(magic, unhex("83 636b626b 01 f6"), end), ErrCorrupt, 0},
		{"header-twice-key", "a header that says its content twice", cat(magic, unhex("83 636b626b 01 a2 67636f6e74656e74 60 67636f6e74656e74 60"), end), ErrCorrupt, 0},
		{"header-again", "a second header", cat(header, header, end), ErrCorrupt, 1},

		{"frame-map", "a frame that is a map", with("a1 63726563 00"), ErrCorrupt, 1},
		{"frame-empty", "a frame of no elements", with("80"), ErrCorrupt, 1},
		{"frame-kind", "a frame whose kind is a number", with("82 01 00"), ErrCorrupt, 1},
		{"frame-reserved", "a reserved initial byte, 0x1c", with("82 6178 1c"), ErrCorrupt, 1},
		{"frame-break", "a break in an array of definite length", with("82 6178 ff"), ErrCorrupt, 1},
		{"frame-chunk", "a chunk of text in a byte string", with("82 6178 5f 6161 ff"), ErrCorrupt, 1},
		{"frame-utf8", "text that is not UTF-8", with("82 6178 61ff"), ErrCorrupt, 1},
		{"frame-odd-map", "a map that ends behind a key", with("82 6178 bf 00 ff"), ErrCorrupt, 1},
		{"frame-depth", "arrays nested too deep", cat(header, unhex("82 6178"), deepArray, end), ErrCorrupt, 1},

		{"large-bytes", "a claim of 4 GiB - 1", with("82 6178 5affffffff"), ErrTooLarge, 1},
		{"large-array", "a claim of 2^63 - 1 elements", with("9b7fffffffffffffff 6178"), ErrTooLarge, 1},
		{"large-map", "a claim of 2^63 pairs", with("82 6178 bb8000000000000000"), ErrTooLarge, 1},

		{"rec-short", "a rec of seven elements", with("87 63726563 6174 00 00 00 f6 f6"), ErrCorrupt, 1},
		{"rec-long", "a rec of 24 elements", with("9818 63726563 6174 00 00 00 f6 f6 80 00" + strings.Repeat("00", 15)), ErrCorrupt, 1},
		{"rec-topic", "a topic that is bytes", with("88 63726563 4174 00 00 00 f6 f6 80"), ErrCorrupt, 1},
		{"rec-partition", "partition -1", with("88 63726563 6174 20 00 00 f6 f6 80"), ErrCorrupt, 1},
		{"rec-offset", "offset 2^63", with("88 63726563 6174 00 1b8000000000000000 00 f6 f6 80"), ErrCorrupt, 1},
		{"rec-timestamp", "a timestamp that is a float", with("88 63726563 6174 00 00 f90000 f6 f6 80"), ErrCorrupt, 1},
		{"rec-key", "a key that is text", with("88 63726563 6174 00 00 00 616b f6 80"), ErrCorrupt, 1},
		{"rec-value", "a value that is undefined", with("88 63726563 6174 00 00 00 f6 f7 80"), ErrCorrupt, 1},
		{"rec-headers", "headers that are null", with("88 63726563 6174 00 00 00 f6 f6 f6"), ErrCorrupt, 1},
		{"rec-header", "a header of three elements", with("88 63726563 6174 00 00 00 f6 f6 81 83 616e f6 f6"), ErrCorrupt, 1},
		{"rec-header-name", "a header name that is not UTF-8 as text", with("88 63726563 6174 00 00 00 f6 f6 81 82 61ff f6"), ErrCorrupt, 1},
		{"rec-attributes", "attributes that are negative", with("89 63726563 6174 00 00 00 f6 f6 80 20"), ErrCorrupt, 1},

		{"mark-lost", "a lost range that ends above the mark", cat(header, frames(t, &Mark{Topic: "t", Next: 5, MarkInfo: MarkInfo{Lost: [][2]int64{{0, 6}}}}), end), ErrCorrupt, 1},
		{"mark-open", "an open range that is empty", cat(header, frames(t, &Mark{Topic: "t", Next: 5, MarkInfo: MarkInfo{Open: &[2]int64{5, 5}}}), end), ErrCorrupt, 1},
		{"mark-branch", "a branch that begins nowhere", cat(header, frames(t, &Mark{Topic: "t", Next: 5, MarkInfo: MarkInfo{Branch: true}}), end), ErrCorrupt, 1},
		{"point-without", "a point without partition -1", cat(header, frames(t, &Point{1, map[string][]int32{"t": {-1}}}), end), ErrCorrupt, 1},
		{"target-partition", "a target of partition -2", cat(header, frames(t, &Target{Topic: "t", TargetTopic: "t", TargetPartition: -2}), end), ErrCorrupt, 1},
		{"mark-null", "a mark whose offset is null", with("85 646d61726b 6174 00 f6 a0"), ErrCorrupt, 1},
		{"map-count", "a run of no records", cat(header, frames(t, &Map{Topic: "t", TargetTopic: "t"}), end), ErrCorrupt, 1},
		{"group-offset", "a committed offset of -1", with("84 6567726f7570 6167 a1 6174 a1 00 a1 666f6666736574 20 a0"), ErrCorrupt, 1},
		{"snapshot-bare", "a packed snapshot of which nothing is known", with("83 68736e617073686f74 a0 40"), ErrCorrupt, 1},
		{"acl-bare", "an ACL of nothing", with("82 6361636c a0"), ErrCorrupt, 1},
		{"seg-bare", "a segment of which nothing is known", with("83 63736567 a0 40"), ErrCorrupt, 1},
		{"end-null", "an end frame with null for its map", cat(header, unhex("82 63656e64 f6")), ErrCorrupt, 1},
	}
}

// diagnose writes a vector in diagnostic notation (RFC 8949 section 8), one
// frame a line; what is no CBOR is left in hexadecimal.
func diagnose(t testing.TB, v vector) []byte {
	mode, err := cbor.DiagOptions{}.DiagMode()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "/ %s /\n", v.about)
	if v.err != nil {
		fmt.Fprintf(&out, "/ frame %d: %v /\n", v.frame, v.err)
	}
	for rest := v.bytes; len(rest) > 0; {
		at := len(v.bytes) - len(rest)
		text, next, err := mode.DiagnoseFirst(rest)
		if err != nil {
			fmt.Fprintf(&out, "/ byte %d, not read / %x\n", at, rest)
			break
		}
		fmt.Fprintf(&out, "/ byte %d / %s\n", at, text)
		rest = next
	}
	return out.Bytes()
}

func TestVectors(t *testing.T) {
	want := make(map[string][]byte)
	for dir, vs := range map[string][]vector{"good": goodVectors(t), "bad": badVectors(t)} {
		for _, v := range vs {
			want[filepath.Join("testdata", dir, v.name+".kbk")] = v.bytes
			want[filepath.Join("testdata", dir, v.name+".diag")] = diagnose(t, v)
		}
	}
	if *update {
		if err := os.RemoveAll("testdata/good"); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll("testdata/bad"); err != nil {
			t.Fatal(err)
		}
		for name, b := range want {
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, b := range want {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s is not what the test makes (%v): a change of the format, or run go test -update", name, err)
		}
	}
	err := filepath.WalkDir("testdata", func(name string, d fs.DirEntry, err error) error {
		if _, ok := want[name]; !ok && err == nil && !d.IsDir() && !strings.HasPrefix(name, filepath.Join("testdata", "fuzz")) {
			t.Errorf("%s: no test makes this", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestGoodVectors(t *testing.T) {
	for _, v := range goodVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			if _, err := readAll(bytes.NewReader(v.bytes), 0); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestBadVectors(t *testing.T) {
	for _, v := range badVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			for _, size := range []int{1, 1 << 20} {
				n := int64(-1) // of the last frame that is read
				d := NewReader(&chunks{b: v.bytes, size: func() int { return size }}, 0)
				_, err := d.Header()
				for err == nil {
					n++
					var f *Frame
					if f, err = d.Next(); err == nil {
						err = decodeAny(f)
						if err != nil {
							n++
						}
					}
				}
				if !isOnly(err, v.err) {
					t.Errorf("reads of %d: %v, want %v", size, err, v.err)
				}
				var pos *PositionError
				if errors.As(err, &pos) {
					n = pos.Frame
				}
				if n != v.frame {
					t.Errorf("reads of %d: frame %d, want %d", size, n, v.frame)
				}
			}
		})
	}
}

// TestGoodVectorsAreDeterministic: decoded and encoded again, every frame is
// what it was, but for those that are meant not to be.
func TestGoodVectorsAreDeterministic(t *testing.T) {
	for _, v := range goodVectors(t) {
		if v.name == "later" || v.name == "tolerant" {
			continue
		}
		var b bytes.Buffer
		w := NewWriter(&b)
		d := NewReader(bytes.NewReader(v.bytes), 0)
		h, err := d.Header()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			var f *Frame
			if f, err = d.Next(); err != nil {
				break
			}
			var r Record
			switch e, _ := decodeEncoder(f); {
			case f.Kind == KindRec:
				err = errors.Join(f.Record(&r), w.WriteRecord(&r))
			case f.Kind == KindSeg:
				s, data, derr := DecodeSegment(f.Raw)
				err = errors.Join(derr, w.WriteSegment(s, data))
			case f.Kind == KindSnapshot:
				s, data, derr := DecodeSnapshot(f.Raw)
				err = errors.Join(derr, w.WriteSnapshot(s, data))
			case f.Kind == KindEnd:
				err = w.Close(e.(*End))
			case e != nil:
				err = w.Write(e)
			}
		}
		if err != io.EOF {
			t.Fatal(v.name, err)
		}
		if !bytes.Equal(b.Bytes(), v.bytes) {
			t.Errorf("%s: got\n%x, want\n%x", v.name, b.Bytes(), v.bytes)
		}
	}
}

func readVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".kbk"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectorRecords(t *testing.T) {
	d := NewReader(bytes.NewReader(readVector(t, "good/records")), 0)
	var got []*Record
	for {
		f, err := d.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == KindRec {
			d.Own()
			r := new(Record)
			if err := f.Record(r); err != nil {
				t.Fatal(err)
			}
			got = append(got, r)
		}
	}
	if !slices.EqualFunc(got, records, sameRecord) {
		t.Errorf("got %+v", got)
	}
}

func TestVectorTolerant(t *testing.T) {
	raws, err := readAll(bytes.NewReader(readVector(t, "good/tolerant")), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(raws) != 5 {
		t.Fatalf("%d frames", len(raws))
	}
	for i, raw := range raws[:4] {
		if !bytes.Equal(raw, aRec) {
			t.Errorf("record %d became %x", i, raw)
		}
	}
}

func TestVectorLater(t *testing.T) {
	b := readVector(t, "good/later")
	raws, err := readAll(bytes.NewReader(b), 0)
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewReader(bytes.NewReader(b), 0).Header()
	if err != nil {
		t.Fatal(err)
	}
	head, err := h.Append(nil)
	if err != nil || !bytes.Equal(cat(head, cat(raws...)), b) {
		t.Errorf("%x became %x, %x, %v", b, head, raws, err)
	}
}

func TestVectorSegments(t *testing.T) {
	raws, err := readAll(bytes.NewReader(readVector(t, "good/segments")), 0)
	if err != nil {
		t.Fatal(err)
	}
	s, data, err := DecodeSegment(raws[0])
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); !bytes.Equal(s.SHA256, sum[:]) || s.Size != int64(len(data)) {
		t.Error("sha256 or size")
	}
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil || s.RawSize != int64(len(raw)) {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	if _, err := readAll(bytes.NewReader(raw), 0); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(raw, inside(t)) {
		t.Error("another stream inside")
	}
}

// TestCutEverywhere: a stream that is cut is truncated, wherever it is cut.
func TestCutEverywhere(t *testing.T) {
	for _, v := range goodVectors(t) {
		for n := range v.bytes {
			d := NewReader(bytes.NewReader(v.bytes[:n]), 0)
			var err error
			for err == nil {
				_, err = d.Next()
			}
			var pos *PositionError
			if !isOnly(err, ErrTruncated) || !errors.As(err, &pos) || pos.Byte > int64(n) {
				t.Errorf("%s cut to %d of %d bytes: %v", v.name, n, len(v.bytes), err)
			}
			if (n == 0) != errors.Is(err, ErrEmpty) {
				t.Errorf("%s cut to %d bytes: %v", v.name, n, err)
			}
		}
	}
}

// TestFlipEveryBit: what a flipped bit makes of a stream may be as good a
// stream, but never a panic, a lot of memory or an error without its place.
func TestFlipEveryBit(t *testing.T) {
	for _, v := range goodVectors(t) {
		bits := 8 * len(v.bytes)
		n := allocated(func() {
			for i := range bits {
				b := bytes.Clone(v.bytes)
				b[i/8] ^= 1 << (i % 8)
				d := smallReader(b)
				var r Record
				f, err := d.Next()
				for ; err == nil; f, err = d.Next() {
					var derr error
					if f.Kind == KindRec {
						derr = f.Record(&r)
					} else {
						derr = decodeAny(f)
					}
					if derr != nil && !errors.Is(derr, ErrCorrupt) {
						t.Errorf("%s, bit %d: %v", v.name, i, derr)
					}
				}
				var pos *PositionError
				if err != io.EOF && !errors.As(err, &pos) {
					t.Errorf("%s, bit %d: %v", v.name, i, err)
				}
				if len(d.buf) > smallBuffer {
					t.Errorf("%s, bit %d: the buffer grew to %d bytes", v.name, i, len(d.buf))
				}
			}
		})
		if n > uint64(bits)*4*smallBuffer {
			t.Errorf("%s: allocated %d bytes a flip", v.name, n/uint64(bits))
		}
	}
}

const smallBuffer = 16 << 10

// smallReader is a Reader that does not begin with a buffer of 1 MiB.
func smallReader(b []byte) *Reader {
	return &Reader{src: bytes.NewReader(b), maxFrame: DefaultMaxFrame, buf: make([]byte, smallBuffer), topics: make(map[string]string)}
}

// TestSpecExample: the annotated bytes in SPEC.md are good/small.
func TestSpecExample(t *testing.T) {
	spec, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(spec), "```hex\n")
	text, _, ok := strings.Cut(text, "```")
	if !ok {
		t.Fatal("no example")
	}
	text = regexp.MustCompile(`#.*`).ReplaceAllString(text, "")
	if got, want := unhex(text), readVector(t, "good/small"); !bytes.Equal(got, want) {
		t.Errorf("SPEC.md has\n%x, good/small is\n%x", got, want)
	}
}

// TestMoveBatch changes nothing but the topic and the partition, whatever else a frame has
// and however it is encoded.
func TestMoveBatch(t *testing.T) {
	data := rawBatch(10)
	for _, codec := range []string{"", "lz4"} {
		from, want := &Batch{"orders", 0, 10, 12, 1_700_000_000_002, 3, data, codec}, &Batch{"a", 1000, 10, 12, 1_700_000_000_002, 3, data, codec}
		got, err := MoveBatch([]byte("before"), frames(t, from), "a", 1000)
		if err != nil || !bytes.Equal(got, append([]byte("before"), frames(t, want)...)) {
			t.Errorf("%q: %x, %v", codec, got, err)
		}
	}
	later := unhex("9f 65 6261746368 61 74 1b0000000000000007 00 00 00 01 5f 41 00 ff 60 f6 6178 ff") // ["batch", "t", 7, 0, 0, 0, 1, h'00', "", null, "x"]
	if got, err := MoveBatch(nil, later, "uv", 8); err != nil || !bytes.Equal(got, unhex("9f 65 6261746368 62 7576 08 00 00 00 01 5f 41 00 ff 60 f6 6178 ff")) {
		t.Errorf("got %x, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"another kind": frames(t, &Topic{Name: "t"}), "short": unhex("82 65 6261746368 60"), "no array": {0xa0}, "nothing": {},
	} {
		if got, err := MoveBatch(nil, bad, "t", 0); !errors.Is(err, ErrCorrupt) || len(got) > 0 {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if _, err := MoveBatch(nil, later, "\xff", 0); err == nil {
		t.Error("a topic that is not UTF-8")
	}
}
