package histories

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// A link is a TCP proxy in front of one listener of a broker.
type link struct {
	name     string
	listener net.Listener
	target   string

	mu      sync.Mutex
	state   linkState
	changed chan struct{} // closed at the next change
	conns   map[net.Conn]struct{}
}

type linkState string

const (
	linkUp       linkState = "up"
	linkDown     linkState = "is cut off"           // connections are reset, new ones too
	linkSilent   linkState = "is silent"            // nothing passes; in the end, all that was sent does
	linkUnheard  linkState = "is not heard"         // requests pass, answers are lost
	linkSlow     linkState = "is slow"              // whatever passes takes a while
	slowness               = 100 * time.Millisecond // each way
	slowReadSize           = 64 << 10
)

// newLink starts a proxy. The target may be known later: see to.
func newLink(name, target string) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &link{name: name, listener: l, target: target, state: linkUp, changed: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	go p.serve()
	return p, nil
}

func (p *link) addr() string { return p.listener.Addr().String() }

func (p *link) close() {
	_ = p.listener.Close()
	p.set(linkDown)
}

func (p *link) serve() {
	for {
		from, err := p.listener.Accept()
		if err != nil {
			return // it is closed
		}
		go p.carry(from)
	}
}

func (p *link) carry(from net.Conn) {
	if !p.keep(from) {
		return
	}
	defer p.drop(from)
	to, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil || !p.keep(to) {
		return
	}
	defer p.drop(to)
	go func() {
		p.pump(to, from, false)
		p.drop(from)
		p.drop(to)
	}()
	p.pump(from, to, true)
}

// keep notes a connection, so that it can be reset, or resets it at once.
func (p *link) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == linkDown {
		reset(c)
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *link) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	reset(c)
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// pump carries bytes one way, as the state of the moment has it.
func (p *link) pump(dst, src net.Conn, answers bool) {
	b := make([]byte, slowReadSize)
	for {
		n, err := src.Read(b)
		if err != nil || !p.passes(answers) {
			return
		}
		if _, err := dst.Write(b[:n]); err != nil {
			return
		}
	}
}

// passes waits until bytes may pass, and tells whether they may.
func (p *link) passes(answers bool) bool {
	for {
		p.mu.Lock()
		state, changed := p.state, p.changed
		p.mu.Unlock()
		switch {
		case state == linkSlow:
			time.Sleep(slowness)
			return true
		case state == linkUp, state == linkUnheard && !answers:
			return true
		case state == linkDown:
			return false
		}
		<-changed
		if state == linkUnheard { // these are the answers that are lost
			return false
		}
	}
}

// set changes the state.
func (p *link) set(s linkState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = s
	close(p.changed)
	p.changed = make(chan struct{})
	if s == linkDown {
		for c := range p.conns {
			reset(c)
		}
	}
}

// A network is the proxies between the commands and the brokers, and between brokers.
type network struct {
	clients     []*link          // by broker: as the commands reach it
	brokers     []*link          // by broker: as other brokers reach it
	controllers map[[2]int]*link // by who asks whom
}

func newNetwork() *network {
	return &network{controllers: make(map[[2]int]*link)}
}

func (n *network) client(broker int, addr string) (string, error) {
	p, err := newLink(fmt.Sprint("client of broker ", broker), addr)
	if err != nil {
		return "", err
	}
	n.clients = append(n.clients, p)
	return p.addr(), nil
}

func (n *network) broker(broker int, addr string) (string, error) {
	p, err := newLink(fmt.Sprint("broker ", broker), addr)
	if err != nil {
		return "", err
	}
	n.brokers = append(n.brokers, p)
	return p.addr(), nil
}

func (n *network) controller(from, to int, addr string) (string, error) {
	p, err := newLink(fmt.Sprintf("controller %d of broker %d", to, from), addr)
	if err != nil {
		return "", err
	}
	n.controllers[[2]int{from, to}] = p
	return p.addr(), nil
}

// around is all links between a broker and the others, but for those by which it asks them
// as brokers: it is out of the cluster, while clients still reach it.
func (n *network) around(broker int) []*link {
	links := []*link{n.brokers[broker]}
	for who, p := range n.controllers {
		if who[0] == broker || who[1] == broker {
			links = append(links, p)
		}
	}
	return links
}

func (n *network) close() {
	for _, p := range n.clients {
		p.close()
	}
	for _, p := range n.brokers {
		p.close()
	}
	for _, p := range n.controllers {
		p.close()
	}
}
