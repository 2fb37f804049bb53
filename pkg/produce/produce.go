package produce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/metrics/clientprom"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/statusline"
)

func connect(ctx context.Context, cfg *Config) (*kgo.Client, error) {
	return kafka.NewClient(ctx, cfg.Kafka, append(clientprom.Opts(ctx),
		// The client looks for a topic that was created a moment ago; by default it
		// would sit out seconds before it looks again.
		kgo.MetadataMinAge(100*time.Millisecond),
		kgo.BrokerMaxWriteBytes(maxRequest))...)
}

// maxRequest is the largest request: as large as a broker can be made to take.
const maxRequest = 1 << 30

// Release puts back the configs that runs which were killed have suspended.
func Release(ctx context.Context, cfg Config, env *command.Env) error {
	cl, err := connect(ctx, &cfg)
	if err != nil {
		return err
	}
	defer cl.Close()
	k := newKeeper(cl, env.Log, cfg.Timeout)
	if err := k.meet(ctx); err != nil {
		return err
	}
	n, err := k.release(ctx)
	if err == nil && n == 0 {
		env.Log.Info("no killed run has left configs suspended")
	}
	return err
}

// Run produces the records that it reads from in, and writes to out, as a stream of
// map frames, what became of their offsets.
func Run(ctx context.Context, cfg Config, env *command.Env, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	count := &env.Counters
	r := format.NewReader(command.Interruptible(ctx, count.Input.Reader(in, &count.BytesIn)), int(cfg.MaxFrame))
	display := env.NewDisplay(nil, statusline.Plan{
		Flow:  []statusline.Size{{Of: statusline.In, Name: "read"}, {Of: statusline.Stored, Name: "written"}},
		Input: "the input", Output: "the cluster",
	})
	defer display.Close()
	display.Doing("waiting for the input to begin")
	h, err := r.Header()
	if err != nil {
		return command.Input(err)
	}
	display.Expect(h)
	if err := command.Takes(h, "standard input", format.ContentRecords, format.ContentBatches); err != nil {
		return err
	}
	display.Doing("connecting to " + strings.Join(cfg.Kafka.Brokers, ", "))
	cl, err := connect(ctx, &cfg)
	if err != nil {
		return err
	}
	defer cl.Close()
	logs := partitionlog.New(ctx, cl, env.Log, cfg.Timeout)
	logs.CountRetries(&count.Retries)
	targets, err := newTargets(&cfg, env.Log, cl, logs)
	if err != nil {
		return err
	}
	w := command.NewWriter(out)
	if err := w.WriteHeader(&format.Header{ID: h.ID, Created: time.Now().UnixMilli(), Content: format.ContentRecords, Source: h.Source}); err != nil {
		return err
	}
	p := newProducer(&cfg, env, targets, logs, w)
	p.fail, p.batches = cancel, h.Content == format.ContentBatches
	if h.Follow && cfg.Exact {
		p.mirror = newMirror(p, h.Source)
	}
	count.Ready()
	display.Kept(func() string {
		if count.Committed.Load() == 0 {
			return "no record went into the topics"
		}
		return command.Count(count.Committed.Load(), "record") + " went into the topics and stay there; the same line continues after them"
	})
	display.Doing("")
	return p.run(ctx, cancel, r)
}

// run takes the stream to its end: write, prove, put back.
func (p *producer) run(ctx context.Context, cancel context.CancelCauseFunc, r *format.Reader) error {
	began := time.Now()
	p.writer = p.logs.NewWriter(ctx)
	go p.linger(ctx)
	go p.targets.keeper.watch(ctx)
	if p.mirror != nil {
		go p.mirror.run(ctx)
	}
	end, err := p.follow(ctx, r)
	p.counters.Output.Begin() // all that is left to do
	defer p.counters.Output.End()
	if err == nil {
		if err = p.finish(ctx, end); err == nil && p.mirror != nil {
			err = p.mirror.end(ctx, end)
		}
	} else { // what came before is to be in the topics, and in the map
		err = errors.Join(err, p.drain(ctx))
	}
	if err == nil && !p.cfg.DryRun {
		err = p.prove(ctx, end)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(err)
	_ = p.workers.Wait() // they end with the context
	<-p.writer.Ended()
	if p.mirror != nil {
		<-p.mirror.ended
	}
	if backErr := p.putBack(ctx, end, err); err == nil || backErr != nil {
		err = errors.Join(err, backErr)
	}
	if mapErr := p.writeRuns(); err == nil {
		err = mapErr
	}
	if err != nil {
		if p.acked > 0 {
			err = command.WithKept(err, command.Count(p.acked, "record")+" went into the topics before this")
		}
		return errors.Join(err, p.maps.Flush())
	}
	return p.close(end, began)
}

// prove looks whether the target holds what it should, and notes in end what it does not.
func (p *producer) prove(ctx context.Context, end *format.End) error {
	if err := p.targets.same(ctx); err != nil {
		return err
	}
	if err := p.targets.keeper.check(ctx); err != nil { // before the logs' bounds, which tell what has come of it
		return err
	}
	names := sortedNames(p.targets.topics)
	if p.cfg.IfNotEmpty == appending { // others may write: their replicas are not waited for
		names = nil
	}
	ends, err := p.logs.Bounds(ctx, names)
	if err != nil {
		return err
	}
	for _, l := range p.lanes {
		if at, ok := ends[l.at]; ok {
			if err := p.proveBounds(l, at, end); err != nil {
				return err
			}
		}
	}
	if p.cfg.Exact {
		if err := p.proveExact(ctx, ends); err != nil {
			return err
		}
	}
	p.loseChanged(end)
	return nil
}

// proveBounds wants a log to begin where it did, and to have all that was acknowledged.
func (p *producer) proveBounds(l *lane, at partitionlog.Bounds, end *format.End) error {
	p.mu.Lock()
	due := l.due
	p.mu.Unlock()
	if at.End < due {
		return command.WithHint(fmt.Errorf("topic %s, partition %d: the log ends at offset %d, and this run has written up to %d: records that the broker had acknowledged are gone", l.target.name, l.num, at.End, due),
			cutOff+"; run the same line again to write them again")
	}
	first := l.bounds.Start
	if l.exact != nil {
		first = max(first, l.exact.first)
	}
	if at.Start > first && p.mirror == nil { // a mirror's retention is at work
		end.Lose(fmt.Sprintf("topic %s, partition %d: offsets %d to %d have been deleted while records were restored", l.target.name, l.num, first, at.Start-1))
	}
	return nil
}

// loseChanged notes what somebody who changed configs during the run may have done.
func (p *producer) loseChanged(end *format.End) {
	k := p.targets.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range sortedNames(k.changed) {
		if slices.Contains(k.changed[name], "cleanup.policy") {
			end.Lose(fmt.Sprintf("topic %s: its cleanup.policy was changed while records were restored: compaction may have taken some", name))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var stamped []string
	for l, r := range p.stamped {
		stamped = append(stamped, fmt.Sprintf("topic %s, partition %d: the broker replaced timestamps of records between offsets %d and %d: message.timestamp.type was LogAppendTime", l.target.name, l.num, r[0], r[1]-1))
	}
	slices.Sort(stamped)
	for _, what := range stamped {
		end.Lose(what)
	}
}

// putBack gives the topics their configs back. A retention that would delete at once what
// was restored stays off, after a run that failed too: the next one could not go on.
// After one that somebody has stopped, everything is put back.
func (p *producer) putBack(ctx context.Context, end *format.End, failed error) error {
	k := p.targets.keeper
	if p.cfg.DryRun {
		return nil
	}
	found := p.targets.eaten(time.Now())
	if p.mirror != nil { // its retention is at work anyway, and the next run goes on at the end
		found = nil
	}
	whole := failed == nil && end != nil && !end.Interrupted
	// Whoever stops a run wants nothing left behind.
	if stopped := p.stopped(); stopped || p.cfg.PutBackRetention {
		for _, name := range sortedNames(found) {
			for _, e := range found[name] {
				p.env.Log.Warn(e.line(name))
				if stopped && whole && !p.cfg.PutBackRetention {
					end.Lose(e.line(name))
				}
			}
		}
		return k.putBack(ctx, nil, false, p.unsure)
	}
	var lost, later []string
	for _, name := range sortedNames(found) {
		was := k.original(name)
		var off []eaten
		for _, e := range found[name] {
			if _, held := was[e.key]; held {
				off = append(off, e)
			} else { // with --keep-configs, or without the right to see them
				lost = append(lost, e.line(name))
			}
		}
		if len(off) > 0 {
			lost = append(lost, leftLine(name, off))
			later = append(later, fmt.Sprintf("topic %s: %s stays off, because it would delete what was restored: run the same line again, or kbk-produce --release", name, strings.Join(keys(found)[name], ", ")))
		}
	}
	if whole {
		for _, what := range lost {
			end.Lose(what)
		}
	} else {
		for _, what := range later {
			p.env.Log.Warn(what)
		}
	}
	return k.putBack(ctx, keys(found), !whole, p.unsure)
}

// stopped says whether a signal has told the run to stop.
func (p *producer) stopped() bool {
	select {
	case <-p.env.Stop:
		return true
	default:
		return false
	}
}

// close ends the map and says what was done.
func (p *producer) close(end *format.End, began time.Time) error {
	became := p.became()
	for i := range became {
		if err := p.maps.Write(&became[i]); err != nil {
			return fmt.Errorf("write the map: %w", err)
		}
	}
	done := *end
	done.Records, done.Segments = p.acked+p.there, 0
	if err := p.maps.Close(&done); err != nil {
		return fmt.Errorf("write the map: %w", err)
	}
	if p.cfg.DryRun {
		if err := p.report(time.Now()); err != nil {
			return err
		}
		return command.EndStatus(end, "more would be produced, but the input has no more")
	}
	var appended int64
	for _, t := range p.targets.topics {
		appended += t.appendTime
	}
	if appended > 0 {
		p.env.Log.Info(fmt.Sprintf("%s had the time of the broker that wrote them (LogAppendTime): they keep it, as CreateTime", command.Count(appended, "record")))
	}
	said := fmt.Sprintf("produced %s to %s", command.Count(p.acked, "record"), command.Count(int64(len(p.targets.topics)), "topic"))
	if p.there > 0 {
		said += fmt.Sprintf(", where %s were already", command.Count(p.there, "record"))
	}
	p.env.Log.Info(said, slog.Duration("in", since(began)))
	return command.EndStatus(end, "the topics have what was read, which is not everything")
}
