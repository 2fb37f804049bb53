package groups

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/pkg/kafka"
)

// Mirror is the group in which kbk-produce notes which topic of which cluster a topic is the
// mirror of: as the metadata of an offset committed for partition 0 of the topic. With the
// topic the note goes.
const Mirror = "kbk-mirror"

// An Origin is what a topic is the mirror of.
type Origin struct {
	Cluster string `json:"cluster"`
	Topic   string `json:"topic"`
	TopicID string `json:"topic_id"`
}

// An originNote names the topic that it is of: one of another topic of that name, as a
// backup of consumer groups may bring it along, is not believed.
type originNote struct {
	Version int    `json:"kbk_mirror"`
	Of      string `json:"of"`
	Origin
}

const originVersion = 1

// ReadOrigins returns of the topics, whose ids are given, those that are mirrors.
func ReadOrigins(ctx context.Context, adm *kadm.Client, ids map[string]string) (map[string]Origin, error) {
	var offsets kadm.OffsetResponses
	err := kafka.Retry(ctx, adm, kafka.Patience, func() (err error) { // the group may be the first of the cluster
		offsets, err = adm.FetchOffsets(ctx, Mirror)
		return err
	})
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("look for what topics are mirrors of, in group %s: %w", Mirror, err)
	}
	out := make(map[string]Origin)
	for name, parts := range offsets {
		var n originNote
		if json.Unmarshal([]byte(parts[0].Metadata), &n) == nil && n.Version == originVersion && ids[name] != "" && n.Of == ids[name] {
			out[name] = n.Origin
		}
	}
	return out, nil
}

// WriteOrigins notes what topics, whose ids are given, are mirrors of.
func WriteOrigins(ctx context.Context, adm *kadm.Client, origins map[string]Origin, ids map[string]string) error {
	var offsets kadm.Offsets
	for name, o := range origins {
		note, err := json.Marshal(originNote{originVersion, ids[name], o})
		if err != nil {
			return err
		}
		offsets.Add(kadm.Offset{Topic: name, Partition: 0, LeaderEpoch: -1, Metadata: string(note)})
	}
	if len(offsets) == 0 {
		return nil
	}
	err := kafka.Retry(ctx, adm, kafka.Patience, func() error { return adm.CommitAllOffsets(ctx, Mirror, offsets) })
	if err != nil {
		return fmt.Errorf("note what topics are mirrors of, in group %s: %w", Mirror, err)
	}
	return nil
}
