// Package receipt is what kbk-push says of each log entry that it has written: a line
// of JSON, for whoever has to know what is safe.
package receipt

// A Receipt tells of one entry of a backup's log.
type Receipt struct {
	Entry      string     `json:"entry"`  // its id
	SHA256     string     `json:"sha256"` // of the entry, in hexadecimal
	Segments   int        `json:"segments"`
	Partitions []Position `json:"partitions"` // that the run has gone on in
	Final      bool       `json:"final"`      // the stream ended with it
}

// A Position is how far a partition is stored.
type Position struct {
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id,omitempty"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"` // every offset below it that the run has read is in the backup
}
