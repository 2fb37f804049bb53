package histories

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A usage is what a process takes at a moment.
type usage struct {
	at           time.Duration
	rss          float64 // MiB
	threads, fds float64
}

// usageOf asks Linux what a process takes.
func usageOf(pid int, at time.Duration) (u usage, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return u, err
	}
	u = usage{at: at, fds: float64(len(fds))}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch name {
		case "VmRSS":
			u.rss = n / 1024
		case "Threads":
			u.threads = n
		}
	}
	return u, nil
}

// slope is by how much a value grows in an hour, as a straight line through all has it
// (least squares).
func slope(all []usage, value func(usage) float64) float64 {
	var n, sx, sy, sxx, sxy float64
	for _, u := range all {
		x, y := u.at.Hours(), value(u)
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	if d := n*sxx - sx*sx; d != 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}

// withoutBeginning leaves out the beginning, in which memory, threads and connections come to what a
// process needs.
func withoutBeginning(all []usage) []usage { return all[len(all)/4:] }

func average(all []usage, value func(usage) float64) (sum float64) {
	for _, u := range all {
		sum += value(u)
	}
	return sum / float64(max(1, len(all)))
}

func rss(u usage) float64     { return u.rss }
func threads(u usage) float64 { return u.threads }
func fds(u usage) float64     { return u.fds }

// flat wants nothing to grow by more than a part of what it is while it was looked at: a
// leak of one goroutine or file a minute, or of a hundred bytes a record, is more.
func flat(name string, all []usage) error {
	all = withoutBeginning(all)
	if len(all) < 2 {
		return fmt.Errorf("%s: not looked at often enough", name)
	}
	hours := (all[len(all)-1].at - all[0].at).Hours()
	for _, v := range []struct {
		name    string
		value   func(usage) float64
		atLeast float64
	}{{"MiB of memory", rss, 16}, {"threads", threads, 4}, {"open files", fds, 4}} {
		grown, most := slope(all, v.value)*hours, max(v.atLeast, average(all, v.value)/5)
		if grown > most {
			return fmt.Errorf("%s: it has grown by %.1f %s from %.1f in %.1f hours", name, grown, v.name, average(all, v.value), hours)
		}
	}
	return nil
}

func TestFlat(t *testing.T) {
	var steady, leaks []usage
	for i := range 100 {
		u := usage{at: time.Duration(i) * time.Minute, rss: 100 + float64(i%7), threads: 10, fds: 12 + float64(i%2)}
		steady = append(steady, u)
		u.fds += float64(i) / 2
		leaks = append(leaks, u)
	}
	if err := flat("steady", steady); err != nil {
		t.Error(err)
	}
	if err := flat("leaks", leaks); err == nil || !strings.Contains(err.Error(), "open files") {
		t.Errorf("leaks: %v", err)
	}
	if got := slope(leaks, fds); got < 29 || got > 31 {
		t.Errorf("half a file a minute is %f in an hour", got)
	}
}
