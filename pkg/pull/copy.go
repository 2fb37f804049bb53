package pull

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// copyMoments gathers the frames that give a copy the backup's restore points, as far as
// they speak of what is read.
func (b *backup) copyMoments(ctx context.Context, cfg Config, sel *selection) error {
	if len(b.state.Points()) == 0 {
		return nil
	}
	err := b.gatherMoments(ctx, cfg, sel)
	if store.IsDamage(err) && !cfg.SkipDamaged { // or somebody has compacted the backup since the log was read
		if err = b.load(ctx, slog.New(slog.DiscardHandler)); err == nil {
			err = b.gatherMoments(ctx, cfg, sel)
		}
	}
	return err
}

func (b *backup) gatherMoments(ctx context.Context, cfg Config, sel *selection) error {
	reads := make(map[[2]string]map[int32]*commitlog.Plan)
	reread := make(map[*commitlog.Plan]bool)
	for i := range sel.plans {
		p := &sel.plans[i]
		key := [2]string{p.Topic, p.TopicID}
		if reads[key] == nil {
			reads[key] = make(map[int32]*commitlog.Plan)
		}
		reads[key][p.Partition] = p
		reread[p] = p.Reread()
	}
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	left := 0
	err = b.store.EachMoment(ctx, b.state, func(err error) error {
		if !cfg.SkipDamaged {
			return err
		}
		sel.losses = append(sel.losses, "restore points of a run: "+err.Error())
		return nil
	}, func(m *commitlog.Moment) error {
		some := len(m.Topics) == 0
		var lacks lackList
		kept := m.Keep(func(topic, id string, partition int32) bool {
			plan := reads[[2]string{topic, id}][partition]
			if plan == nil { // it is not copied
				return false
			}
			why := b.lacksOf(plan, reread[plan], m)
			if why != "" {
				lacks.add(topic, partition, why)
			}
			some = some || why == ""
			return why == ""
		})
		if !some && len(lacks) == 0 {
			left++
			return nil
		}
		moment := momentFrame(kept)
		moment.Lacks = lacks.sorted()
		frame, err := moment.AppendFrame(nil)
		if err != nil {
			return fmt.Errorf("restore point %s: %w", m.Entry, err)
		}
		_, err = z.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
		return err
	})
	if err != nil {
		return err
	}
	if left > 0 {
		sel.notes = append(sel.notes, command.Count(int64(left), "restore point")+" of the backup include nothing that is read")
	}
	err = z.Close()
	sel.moments = buf.Bytes()
	return err
}

// Why a copy of a partition lacks records that a restore point has.
const (
	lackCutOff    = "Kafka cut the log off below the point, and other records took the place of the old ones"
	lackCompacted = "a later run has read the same offsets again, and Kafka may have compacted records away before that"
)

// lacksOf tells why the plan for a partition may lack records that a moment has of it; "" where it
// has all of them.
func (b *backup) lacksOf(plan *commitlog.Plan, reread bool, m *commitlog.Moment) string {
	branch := b.state.BranchAt(plan.Topic, plan.TopicID, plan.Partition, m)
	cut := b.state.CutOf(plan.Topic, plan.TopicID, plan.Partition, branch)
	for _, t := range m.Topics {
		at, ok := t.Partitions[plan.Partition]
		if !ok || t.Name != plan.Topic || t.ID != plan.TopicID {
			continue
		}
		if at[1] > cut {
			return lackCutOff
		}
		then := *plan // the topic may have been compacted only then
		then.Compacted = plan.Compacted || t.Topic != nil && t.Topic.Compacted()
		if reread && !then.HasAllBelow(at[1]) {
			return lackCompacted
		}
	}
	return ""
}

// A lackList is what a restore point lacks in a copy.
type lackList []format.MomentLack

func (l *lackList) add(topic string, partition int32, why string) {
	for i := range *l {
		if have := &(*l)[i]; have.Topic == topic && have.Why == why {
			have.Partitions = append(have.Partitions, partition)
			return
		}
	}
	*l = append(*l, format.MomentLack{Topic: topic, Partitions: []int32{partition}, Why: why})
}

// sorted is the list in an order that does not change from run to run.
func (l lackList) sorted() []format.MomentLack {
	for i := range l {
		slices.Sort(l[i].Partitions)
	}
	slices.SortFunc(l, func(a, b format.MomentLack) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), strings.Compare(a.Why, b.Why))
	})
	return l
}

func momentFrame(m *commitlog.Moment) *format.Moment {
	f := &format.Moment{Point: m.Points[0].Frame, MomentInfo: format.MomentInfo{ID: m.Entry, Run: m.Run}}
	for _, t := range m.Topics {
		topic := format.MomentTopic{Name: t.Name, ID: t.ID, Partitions: t.Partitions}
		if t.Topic != nil {
			topic.Frame = t.Topic.Frame
		}
		f.Topics = append(f.Topics, topic)
	}
	groups, lists, others := commitlog.MergeMoments([]*commitlog.Moment{m}, func(topic string) string {
		t, _ := m.Topic(topic)
		return t.ID
	})
	for _, l := range lists {
		f.Frames = append(f.Frames, l.Frame)
	}
	for _, g := range groups {
		f.Frames = append(f.Frames, g.Frame)
	}
	f.Frames = slices.Concat(f.Frames, others)
	return f
}

// writeMoments writes the frames that copyMoments has gathered.
func writeMoments(w *format.Writer, packed []byte) error {
	if len(packed) == 0 {
		return nil
	}
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(z, size[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(z, frame); err != nil {
			return err
		}
		if err := w.WriteRaw(frame); err != nil {
			return err
		}
	}
}
