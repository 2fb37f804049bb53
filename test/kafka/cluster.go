// Package kafkatest runs real Apache Kafka brokers for tests, on loopback only.
//
// The brokers and Kafka's own command-line tools come from the jars that pom.xml
// names. The first [Start] on a machine lets Maven download them (about 55 MB)
// into a folder of their own, kafka-<hash of pom.xml>, under $KBK_TEST_CACHE or
// else under kbk-test in [os.UserCacheDir]. It then runs one broker for a moment
// so that the JVM can write down the classes a broker loads (50 MB), which halves
// the time that every later start takes: about 1 s for one broker, 4 s for three
// on two cores. Delete the folder to do both again, for instance to be as quick
// after the JVM was exchanged. Needed on the machine: java 17 or newer
// (from $JAVA_HOME or the path), mvn (for the first start only) and sh.
//
// Every broker is a KRaft node with the roles broker and controller. A broker
// does not outlive the process that started it, however that ends.
//
// The package is used from tests and from test/kafka/run. It runs on Unix.
package kafkatest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// startLimit is how long brokers may take until they serve. About 2 s is
	// usual; the rest is for machines that have other things to do.
	startLimit = 90 * time.Second

	// stopGrace is how long a broker has to end by itself after SIGTERM.
	stopGrace = 20 * time.Second

	// defaultHeapMB is the Java heap of one broker in MiB. The process takes
	// about 100 MiB more than that when it is full.
	defaultHeapMB = 256
)

// Options says what Start starts. The zero value is one broker that leaves
// nothing behind.
type Options struct {
	// Brokers is the number of brokers, 1 or 3; 0 means 1.
	Brokers int

	// Dir is the folder for data, configuration and logs. It is created if
	// need be and kept by Close; started again in it, a cluster has the same
	// ID and data. Empty means a temporary folder that Close removes.
	Dir string

	// Config is added to every broker's server.properties and wins over what
	// the package sets there.
	Config map[string]string

	// HeapMB is the Java heap of each broker in MiB; 0 means 256.
	HeapMB int

	// Version is a release of Kafka, from 3.9 on; empty means that of pom.xml. The first
	// start of each on a machine downloads it.
	Version string

	// Listeners are more ways to connect to every broker, besides the plain one.
	Listeners []Listener

	// TieredStorage lets topics with remote.storage.enable have their older segments in
	// a folder, by Kafka's own LocalTieredStorage. The first such start on a machine
	// downloads it.
	TieredStorage bool

	// JVM is flags for the brokers' JVM, such as -Djava.security.krb5.conf=….
	JVM []string

	// Controller returns the address by which one broker is told to reach another as a
	// controller, instead of the one where that listens; nil for none.
	Controller func(from, to int, addr string) (string, error)

	// Port is the client port of broker 0, the other brokers take the ones
	// after it; 0 means free ports.
	Port int
}

// A Listener is a listener of every broker. Its properties go into Options.Config under
// listener.name.<name in lower case>.
type Listener struct {
	Name     string
	Protocol string // SSL, SASL_PLAINTEXT or SASL_SSL
	// Each is a property of its own for every broker, by the broker's number; nil for
	// none.
	Each func(broker int) (key, value string)
	// OwnAddress gives every broker a loopback address of its own, 127.0.0.1 and on.
	OwnAddress bool
	// Advertised returns the address that clients are told instead of the one where the
	// broker listens: that of a proxy between them. nil for none.
	Advertised func(broker int, addr string) (string, error)
}

// A Cluster is a running Kafka cluster. Its brokers are numbered from 0, and
// that number is also their node.id. Its methods may be called from several
// goroutines, except that nothing may be called after Close.
type Cluster struct {
	// ID is the cluster id, generated for every new cluster.
	ID string

	kit     *kit
	dir     string
	temp    bool // dir is removed by Close
	heapMB  int
	jvm     []string
	brokers []*broker
}

// broker is one node and, while it runs, its process.
type broker struct {
	addr string            // client listener, host:port
	more map[string]string // the addresses of others, by name
	dir  string            // holds server.properties, broker.log, data and tmp

	mu   sync.Mutex
	proc *process // nil when stopped
}

// Start starts a cluster and returns when all its brokers serve clients. A
// broker that dies while starting fails Start at once, with the tail of its log
// in the error. ctx bounds only the start; the cluster runs until Close.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	k, err := install(ctx, o.Version)
	if err != nil {
		return nil, err
	}
	return k.start(ctx, o)
}

func (k *kit) start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Brokers == 0 {
		o.Brokers = 1
	}
	if o.Brokers != 1 && o.Brokers != 3 {
		return nil, fmt.Errorf("a test cluster has 1 or 3 brokers, not %d", o.Brokers)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	c := &Cluster{kit: k, heapMB: o.HeapMB, jvm: o.JVM, temp: o.Dir == ""}
	if c.heapMB == 0 {
		c.heapMB = defaultHeapMB
	}
	if err := c.run(ctx, o); err != nil {
		c.Close() // says once more that a broker has died
		return nil, err
	}
	return c, nil
}

// run does the work of start and leaves it to Close to clean up after a failure.
func (c *Cluster) run(ctx context.Context, o Options) (err error) {
	if c.temp {
		c.dir, err = os.MkdirTemp("", "kafkatest-")
	} else if c.dir, err = filepath.Abs(o.Dir); err == nil {
		err = os.MkdirAll(c.dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("creating the cluster's folder: %w", err)
	}
	if err := c.configure(ctx, o); err != nil {
		return fmt.Errorf("configuring brokers: %w", err)
	}
	if err := c.format(ctx); err != nil {
		return err
	}
	for i := range c.brokers {
		if err := c.launch(i); err != nil {
			return err
		}
	}
	return c.await(ctx)
}

// configure fills c.brokers and writes the configuration of each.
func (c *Cluster) configure(ctx context.Context, o Options) error {
	if err := os.WriteFile(c.logConfig(), log4jConfig, 0o644); err != nil {
		return err
	}
	ports, err := freePorts((2 + len(o.Listeners)) * o.Brokers)
	if err != nil {
		return err
	}
	more := ports[2*o.Brokers:]
	for i := range o.Brokers {
		if o.Port != 0 {
			ports[2*i] = o.Port + i
		}
		b := &broker{
			addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[2*i])),
			dir:  filepath.Join(c.dir, "broker-"+strconv.Itoa(i)),
			more: make(map[string]string),
		}
		c.brokers = append(c.brokers, b)
		if err := os.MkdirAll(filepath.Join(b.dir, "tmp"), 0o755); err != nil {
			return err
		}
		conf := testConfig(o.Brokers)
		conf["node.id"] = strconv.Itoa(i)
		conf["listeners"] = fmt.Sprintf("PLAINTEXT://%s,CONTROLLER://127.0.0.1:%d", b.addr, ports[2*i+1])
		conf["controller.quorum.voters"], err = o.voters(i, ports)
		if err != nil {
			return err
		}
		advertised := "PLAINTEXT://" + b.addr
		conf["log.dirs"] = filepath.Join(b.dir, "data")
		for _, l := range o.Listeners {
			host := "127.0.0.1"
			if l.OwnAddress {
				host = fmt.Sprintf("127.0.0.%d", i+1)
			}
			b.more[l.Name] = net.JoinHostPort(host, strconv.Itoa(more[0]))
			more = more[1:]
			conf["listeners"] += fmt.Sprintf(",%s://%s", l.Name, b.more[l.Name])
			if l.Advertised != nil {
				if b.more[l.Name], err = l.Advertised(i, b.more[l.Name]); err != nil {
					return err
				}
			}
			advertised += fmt.Sprintf(",%s://%s", l.Name, b.more[l.Name])
			conf["listener.security.protocol.map"] += fmt.Sprintf(",%s:%s", l.Name, l.Protocol)
			if l.Each != nil {
				key, value := l.Each(i)
				conf["listener.name."+strings.ToLower(l.Name)+"."+key] = value
			}
		}
		conf["advertised.listeners"] = advertised
		if o.TieredStorage {
			jar, err := c.kit.tieredStorage(ctx)
			if err != nil {
				return err
			}
			maps.Copy(conf, tieredConfig(jar, filepath.Join(c.dir, "remote"), o.Brokers))
		}
		maps.Copy(conf, o.Config)

		var text strings.Builder
		for _, key := range slices.Sorted(maps.Keys(conf)) {
			fmt.Fprintf(&text, "%s=%s\n", key, conf[key])
		}
		if err := os.WriteFile(b.config(), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// voters returns how a broker is to reach the controllers. The client port of each broker is
// followed by its controller port.
func (o Options) voters(from int, ports []int) (string, error) {
	var voters []string
	for to := range o.Brokers {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[2*to+1]))
		if o.Controller != nil && to != from {
			var err error
			if addr, err = o.Controller(from, to, addr); err != nil {
				return "", err
			}
		}
		voters = append(voters, fmt.Sprintf("%d@%s", to, addr))
	}
	return strings.Join(voters, ","), nil
}

// testConfig returns the part of server.properties that the brokers of a
// cluster share: small, quick to react, and strict about topics that nobody
// created.
func testConfig(brokers int) map[string]string {
	n := strconv.Itoa(brokers)
	return map[string]string{
		"process.roles":                  "broker,controller",
		"controller.listener.names":      "CONTROLLER",
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"auto.create.topics.enable":      "false",

		// Kafka's own topics: few partitions, and writable while one broker of three is left.
		"offsets.topic.num.partitions":                     "4",
		"offsets.topic.replication.factor":                 n,
		"transaction.state.log.num.partitions":             "4",
		"transaction.state.log.replication.factor":         n,
		"transaction.state.log.min.isr":                    "1",
		"share.coordinator.state.topic.num.partitions":     "2",
		"share.coordinator.state.topic.replication.factor": n,
		"share.coordinator.state.topic.min.isr":            "1",

		// Made-up timestamps are old ones. A topic may have a retention of its own.
		"log.retention.ms": "-1",

		// A test waits for these; a day of production does not.
		"group.initial.rebalance.delay.ms":                            "0",
		"broker.session.timeout.ms":                                   "3000",
		"broker.heartbeat.interval.ms":                                "300",
		"log.initial.task.delay.ms":                                   "100",
		"log.retention.check.interval.ms":                             "500",
		"log.segment.delete.delay.ms":                                 "500",
		"log.cleaner.backoff.ms":                                      "200",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",

		// Memory: the cleaner alone would take 128 MiB, every index 10 MiB.
		"log.cleaner.dedupe.buffer.size": "4194304",
		"log.index.size.max.bytes":       "1048576",
		"num.network.threads":            "2",
		"num.io.threads":                 "4",
		"background.threads":             "2",
		"group.coordinator.threads":      "2",
	}
}

// tieredConfig returns what tiered storage takes.
func tieredConfig(jar, dir string, brokers int) map[string]string {
	return map[string]string{
		"remote.log.storage.system.enable":                                 "true",
		"remote.log.storage.manager.class.name":                            "org.apache.kafka.server.log.remote.storage.LocalTieredStorage",
		"remote.log.storage.manager.class.path":                            jar,
		"rsm.config.dir":                                                   dir,
		"remote.log.metadata.manager.listener.name":                        "PLAINTEXT",
		"rlmm.config.remote.log.metadata.topic.num.partitions":             "1",
		"rlmm.config.remote.log.metadata.topic.replication.factor":         strconv.Itoa(brokers),
		"rlmm.config.remote.log.metadata.initialization.retry.interval.ms": "200",
		"remote.log.manager.task.interval.ms":                              "500",
	}
}

// format gives every broker's data folder the cluster id by Kafka's own tool,
// unless an earlier Start in the same folder has done so, and sets c.ID.
func (c *Cluster) format(ctx context.Context) error {
	id, err := formattedID(c.brokers[0])
	if errors.Is(err, os.ErrNotExist) {
		// Kafka writes a UUID as base64 without padding.
		uuid := make([]byte, 16)
		rand.Read(uuid)
		id, err = base64.RawURLEncoding.EncodeToString(uuid), nil
	}
	if err != nil {
		return err
	}
	c.ID = id

	errs := make([]error, len(c.brokers))
	var wg sync.WaitGroup
	for i, b := range c.brokers {
		wg.Go(func() {
			if _, err := formattedID(b); !errors.Is(err, os.ErrNotExist) {
				errs[i] = err
				return
			}
			// With "=", as an id may begin with a dash.
			cmd := c.Tool(ctx, "kafka.tools.StorageTool", "format", "--config="+b.config(), "--cluster-id="+id)
			if out, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("formatting broker %d: %w\n%s", i, err, tail(out))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// formattedID returns the cluster id that a broker's data folder was formatted
// with; the error is os.ErrNotExist if it was not.
func formattedID(b *broker) (string, error) {
	path := filepath.Join(b.dir, "data", "meta.properties")
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if id, ok := strings.CutPrefix(s.Text(), "cluster.id="); ok {
			return id, nil
		}
	}
	return "", errors.Join(fmt.Errorf("%s: no cluster.id", path), s.Err())
}

// launch starts the process of broker i and does not wait until it serves.
func (c *Cluster) launch(i int) error {
	b := c.brokers[i]
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc != nil {
		return fmt.Errorf("broker %d runs already", i)
	}
	args := slices.Concat(c.kit.flags(c.heapMB, c.logConfig(), filepath.Join(b.dir, "tmp")), c.jvm,
		[]string{"-XX:+ExitOnOutOfMemoryError", "kafka.Kafka", b.config()})
	p, err := startProcess(b.log(), c.kit.java, args...)
	if err != nil {
		return fmt.Errorf("starting broker %d: %w", i, err)
	}
	b.proc = p
	return nil
}

// await waits until every running broker serves and knows all running brokers
// and a controller. It fails as soon as one of them dies.
func (c *Cluster) await(ctx context.Context) error {
	for i, b := range c.brokers {
		p := b.process()
		if p == nil {
			continue
		}
		for {
			err := c.probe(ctx, b.addr)
			if err == nil {
				break
			}
			select {
			case <-p.done:
				return fmt.Errorf("broker %d died while starting: %w\n%s", i, p.err, c.Log(i))
			case <-ctx.Done():
				return fmt.Errorf("waiting for broker %d: %w: %w\n%s", i, ctx.Err(), err, c.Log(i))
			case <-time.After(30 * time.Millisecond):
			}
		}
	}
	return nil
}

// probe asks the broker at addr for what it knows of the cluster and returns
// what is still missing.
func (c *Cluster) probe(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// A client of its own, as one that knows the cluster would ask any broker.
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	m, err := kadm.NewClient(cl).BrokerMetadata(ctx)
	if err != nil {
		return err
	}
	if m.Cluster != c.ID {
		return fmt.Errorf("%s belongs to another cluster, %q", addr, m.Cluster)
	}
	if m.Controller < 0 {
		return errors.New("no controller")
	}
	known := m.Brokers.NodeIDs()
	for i, b := range c.brokers {
		if b.process() != nil && !slices.Contains(known, int32(i)) {
			return fmt.Errorf("%s does not know broker %d", addr, i)
		}
	}
	return nil
}

// Bootstrap returns the addresses of all brokers, separated by commas.
func (c *Cluster) Bootstrap() string {
	addrs := make([]string, len(c.brokers))
	for i, b := range c.brokers {
		addrs[i] = b.addr
	}
	return strings.Join(addrs, ",")
}

// Listener returns the address of a broker's listener from Options.Listeners, the
// advertised one if there is such.
func (c *Cluster) Listener(name string, i int) string { return c.brokers[i].more[name] }

// StopBroker lets broker i hand over its partitions and end, as an operator
// would.
func (c *Cluster) StopBroker(i int) error {
	return c.end(i, (*process).terminate)
}

// KillBroker ends broker i with SIGKILL. The others notice after 3 s, the
// broker session timeout.
func (c *Cluster) KillBroker(i int) error {
	return c.end(i, (*process).kill)
}

// PauseBroker stops broker i with SIGSTOP: it hangs, connections to it stay open, and
// new ones are taken by the system. The others notice as with KillBroker.
func (c *Cluster) PauseBroker(i int) error { return c.signal(i, syscall.SIGSTOP) }

// ResumeBroker lets a broker go on after PauseBroker.
func (c *Cluster) ResumeBroker(i int) error { return c.signal(i, syscall.SIGCONT) }

// Dir is the folder that holds a folder broker-N for each broker, and in each the logs of
// its partitions under data.
func (c *Cluster) Dir() string { return c.dir }

// BrokerCPU is the processor time that broker i has taken since it was started. It is known
// on Linux only (proc_pid_stat(5), fields 14 and 15, in hundredths of a second).
func (c *Cluster) BrokerCPU(i int) (time.Duration, error) {
	p := c.brokers[i].process()
	if p == nil {
		return 0, fmt.Errorf("broker %d is not running", i)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, behind, _ := strings.Cut(string(stat), ") ") // the name of the program may hold anything
	fields := strings.Fields(behind)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", p.cmd.Process.Pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

func (c *Cluster) signal(i int, s os.Signal) error {
	p := c.brokers[i].process()
	if p == nil {
		return fmt.Errorf("broker %d does not run", i)
	}
	return p.signal(s)
}

func (c *Cluster) end(i int, how func(*process) error) error {
	b := c.brokers[i]
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.proc == nil {
		return fmt.Errorf("broker %d does not run", i)
	}
	err := how(b.proc)
	b.proc = nil
	if err != nil {
		return fmt.Errorf("ending broker %d: %w\n%s", i, err, c.Log(i))
	}
	return nil
}

// StartBroker starts broker i again after StopBroker or KillBroker, with the
// same data and address, and returns when it serves.
func (c *Cluster) StartBroker(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := c.launch(i); err != nil {
		return err
	}
	return c.await(ctx)
}

// Log returns the end of what broker i has logged over all its runs, at most
// 8 KiB. Brokers log warnings and errors only.
func (c *Cluster) Log(i int) string {
	data, err := os.ReadFile(c.brokers[i].log())
	if err != nil {
		return err.Error()
	}
	return tail(data)
}

// Close ends all brokers. In a folder that is kept they get SIGTERM, and SIGKILL
// if that has not ended them after 20 s, which is an error of a single broker only: one
// of several waits for a quorum to let it go, and the others may have ended. A temporary
// folder is removed, and for its sake nobody waits for brokers to tidy up. A broker that
// had died before is an error.
func (c *Cluster) Close() error {
	end := c.StopBroker
	if c.temp {
		end = c.KillBroker
	}
	errs := make([]error, len(c.brokers))
	var wg sync.WaitGroup
	for i, b := range c.brokers {
		if b.process() != nil {
			wg.Go(func() {
				if err := end(i); len(c.brokers) == 1 || !errors.Is(err, errRunning) {
					errs[i] = err
				}
			})
		}
	}
	wg.Wait()
	if c.temp {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

func (c *Cluster) logConfig() string { return filepath.Join(c.dir, "log4j2.properties") }

func (b *broker) config() string { return filepath.Join(b.dir, "server.properties") }
func (b *broker) log() string    { return filepath.Join(b.dir, "broker.log") }

func (b *broker) process() *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.proc
}

// freePorts returns n ports of 127.0.0.1 on which nobody listens. They lie below
// the ranges that Linux and macOS give to outgoing connections, so that no such
// connection takes the port of a broker that is down for a while.
func freePorts(n int) ([]int, error) {
	const first, last, tries = 15000, 32000, 1000
	var ports []int
	for range tries {
		if len(ports) == n {
			return ports, nil
		}
		port := first + mathrand.IntN(last-first)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // only now, so that none is found twice
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("no %d free ports between %d and %d on 127.0.0.1", n, first, last)
}

// tail returns the last lines of a log, at most 8 KiB.
func tail(log []byte) string {
	const limit = 8 << 10
	if len(log) > limit {
		log = log[len(log)-limit:]
		log = log[slices.Index(log, '\n')+1:]
	}
	return string(log)
}
