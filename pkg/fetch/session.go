package fetch

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A session is what a broker knows of what it is asked for (a fetch session, KIP-227): a
// request names only the partitions of which something has changed since the one before,
// and the answer only those of which there is something to say. So thousands of partitions
// that are idle cost next to nothing. It belongs to the broker's goroutine.
type session struct {
	id    int32 // 0: there is none
	epoch int32 // of the next request
	known map[*partition]*asked
	byKey map[sessionKey]*asked // the same
	order int64                 // counts the orders
}

// An asked is a partition that the broker knows, as it was asked for.
type asked struct {
	orderPart
	bytes int32
	order int64 // the last that named it
}

// A sessionKey is how a broker names a partition: by the topic's id, or by its name where
// it knows no ids.
type sessionKey struct {
	id    [16]byte
	topic string
	num   int32
}

func (p *orderPart) key() sessionKey {
	if p.id == [16]byte{} {
		return sessionKey{topic: p.topic, num: p.num}
	}
	return sessionKey{id: p.id, num: p.num}
}

func newSession() *session {
	return &session{known: make(map[*partition]*asked), byKey: make(map[sessionKey]*asked)}
}

// end forgets the session. The next request names everything, and lets the broker forget it
// too.
func (s *session) end() { s.epoch = 0 }

// ask takes an order, and returns what of it the broker does not know yet, and what it is
// to forget. The slices are for one request.
func (s *session) ask(o *order, bytes int32) (changed []*asked, forgotten []orderPart) {
	s.order++
	all := s.epoch == 0
	for i := range o.parts {
		p := &o.parts[i]
		a := s.known[p.p]
		if a == nil {
			a = new(asked)
			s.known[p.p], s.byKey[p.key()] = a, a
		} else if !all && a.same(p) && a.bytes == bytes {
			a.order = s.order
			continue
		}
		a.orderPart, a.bytes, a.order = *p, bytes, s.order
		changed = append(changed, a)
	}
	if len(s.known) == len(o.parts) {
		return changed, nil
	}
	for p, a := range s.known {
		if a.order == s.order {
			continue
		}
		delete(s.known, p)
		if s.byKey[a.key()] == a { // and not of another partition of that name
			delete(s.byKey, a.key())
		}
		if !all {
			forgotten = append(forgotten, a.orderPart)
		}
	}
	return changed, forgotten
}

// same tells whether the broker would be asked in the same way.
func (p *orderPart) same(q *orderPart) bool {
	return p.from.offset == q.from.offset && p.from.epoch == q.from.epoch && p.epoch == q.epoch
}

// answered takes note of an answer.
func (s *session) answered(resp *kmsg.FetchResponse) {
	switch {
	case resp.SessionID == 0:
		s.id, s.epoch = 0, 0
	case resp.SessionID != s.id:
		s.id, s.epoch = resp.SessionID, 1
	case s.epoch == math.MaxInt32:
		s.epoch = 1
	default:
		s.epoch++
	}
}

// sessionOver tells whether an error means that the broker does not know the session any more.
func sessionOver(err error) bool {
	for _, e := range []error{kerr.FetchSessionIDNotFound, kerr.InvalidFetchSessionEpoch, kerr.FetchSessionTopicIDError} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// request makes the request of an order. Without a session of its own the order stands
// alone, and the broker tells all that it is asked for.
func (s *session) request(o *order, cfg Config) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.MaxWaitMillis = int32(cfg.FetchWait.Milliseconds())
	req.MinBytes = 1
	req.MaxBytes = cfg.FetchBytes
	if rate := cfg.MaxRate; rate > 0 { // no more than a second's worth
		req.MaxBytes = int32(min(int64(req.MaxBytes), rate))
	}
	if !cfg.Uncommitted {
		req.IsolationLevel = 1 // IsolationLevel.READ_COMMITTED
	}
	// In powers of two, so that it is not another for all when there is one more of them.
	bytes := max(cfg.FetchPartitionBytes, req.MaxBytes>>bits.Len32(uint32(len(o.parts)-1)))
	if !o.session {
		req.SessionEpoch = -1
		for i := range o.parts {
			addPartition(req, &o.parts[i], bytes)
		}
		return req
	}
	req.SessionID, req.SessionEpoch = s.id, s.epoch
	changed, forgotten := s.ask(o, bytes)
	for _, a := range changed {
		addPartition(req, &a.orderPart, bytes)
	}
	for i := range forgotten {
		forgetPartition(req, &forgotten[i])
	}
	return req
}

// addPartition adds a partition to a request, in which those of a topic come one after
// another.
func addPartition(req *kmsg.FetchRequest, p *orderPart, bytes int32) {
	last := len(req.Topics) - 1
	if last < 0 || req.Topics[last].TopicID != p.id || req.Topics[last].Topic != p.topic {
		t := kmsg.NewFetchRequestTopic()
		t.Topic, t.TopicID = p.topic, p.id
		req.Topics = append(req.Topics, t)
		last++
	}
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = p.num, p.from.offset, p.epoch, p.from.epoch
	rp.PartitionMaxBytes = bytes
	req.Topics[last].Partitions = append(req.Topics[last].Partitions, rp)
}

func forgetPartition(req *kmsg.FetchRequest, p *orderPart) {
	t := kmsg.NewFetchRequestForgottenTopic()
	t.Topic, t.TopicID, t.Partitions = p.topic, p.id, []int32{p.num}
	req.ForgottenTopics = append(req.ForgottenTopics, t)
}

// parts finds the partitions that a response tells of, among those of its order or of the
// session.
func (s *session) parts(o *order, resp *kmsg.FetchResponse) func(topic *kmsg.FetchResponseTopic, num int32) (*orderPart, error) {
	find := func(k sessionKey) *orderPart {
		if a := s.byKey[k]; a != nil {
			return &a.orderPart
		}
		return nil
	}
	if !o.session {
		all := make(map[sessionKey]*orderPart, len(o.parts))
		for i := range o.parts {
			all[o.parts[i].key()] = &o.parts[i]
		}
		find = func(k sessionKey) *orderPart { return all[k] }
	}
	names := make(map[string][16]byte) // before version 13 there are names, and ids may be known all the same
	if resp.Version < 13 {
		for i := range o.parts {
			names[o.parts[i].topic] = o.parts[i].id
		}
	}
	return func(topic *kmsg.FetchResponseTopic, num int32) (*orderPart, error) {
		k := sessionKey{id: topic.TopicID, num: num}
		if resp.Version < 13 {
			if k.id = names[topic.Topic]; k.id == [16]byte{} {
				k.topic = topic.Topic
			}
		}
		if p := find(k); p != nil {
			return p, nil
		}
		return nil, fmt.Errorf("it answered for %s/%d, which it was not asked for", topic.Topic, num)
	}
}
