// Package format reads and writes the kbk stream, version 1: one CBOR sequence
// (RFC 8742) of frames that begins with a header and ends with an end frame.
// SPEC.md beside this file is the specification; this package is one
// implementation of it and imports nothing else of the project.
//
// A [Writer] takes a header, frames and an end. A [Reader] gives them back, and
// reports io.EOF only after an end frame with nothing behind it: any earlier end
// of the input is [ErrTruncated].
//
// Records are the hot path. [AppendRecord] and the scan inside [Reader.Next] are
// written by hand and allocate nothing; every other frame goes through
// github.com/fxamacker/cbor/v2. Tests and fuzzing hold the two equal.
package format

// Version is the version of the stream that this package writes, and the
// highest that it reads.
const Version = 1

// Limits that a [Reader] and the Decode functions apply to what they are given.
const (
	// DefaultMaxFrame is the largest frame in bytes that a [Reader] accepts unless
	// told otherwise.
	DefaultMaxFrame = 1 << 30

	// maxDepth bounds how deep arrays, maps, tags and strings of indefinite length
	// may nest in one frame. The deepest frame of the specification, group, needs 4.
	maxDepth = 16

	// maxElems bounds the elements of a header and of a rec: a head of one byte.
	maxElems = 23

	// maxMap bounds in bytes the header and every map that is decoded. A small
	// entry takes many times its size once it is in a Go map.
	maxMap = 16 << 20

	// maxTopics bounds the topic names that a Reader remembers, and maxTopicName
	// how long those are: Kafka allows 249 bytes (Topic.MAX_NAME_LENGTH).
	maxTopics    = 1 << 16
	maxTopicName = 249
)
