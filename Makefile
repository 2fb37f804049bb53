# make demo     the whole pipe on an embedded broker, in a minute; needs only Go
# make test     everything, on a real Kafka too; needs Go, Java and Maven
# make kafka    a real Kafka on 127.0.0.1:9092 to play with, until Ctrl-C

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/kbkio/kbk/pkg/command.version=$(VERSION)
PREFIX  ?= /usr/local
COMMANDS := $(notdir $(wildcard cmd/*))

.PHONY: build demo test test-fast test-race soak fuzz vulncheck simulate bench lint kafka man install clean

build:
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

demo: build
	go run ./examples/demo

# The packages without rclone and Kafka, in seconds.
test-fast:
	test/run.sh fast

test: build
	test/run.sh

# What test does a few times, many times; and what takes long, one after the other:
#
# make soak HISTORIES=30m SOAK=2h
# make soak HISTORIES=1m SOAK=1h SEED=1795849188   a history, or a long run, again
HISTORIES ?= 30m
SOAK      ?= 2h
histories  = KBK_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 24h ./test/histories -seed $(SEED)

soak: build
	cd test/e2e && go test -count=1 -v -timeout 30m -run TestResumeUnderQuota . -quota-kills=50
	KBK_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 1h -run TestThreeBrokers ./test/brokers -every-broker
	go test -count=1 -v -timeout 1h -run TestKillEverywhere ./pkg/produce -kill-step=1
	go test -count=1 -v -timeout 2h -run TestEveryByte ./pkg/catalog -damage-cases=0
	KBK_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 1h -run 'TestSlowStore|TestStoreAway' ./test/stores -long
	$(histories) -run 'TestManyPartitions|TestSmallRecords|TestLargeRecords' -sizes
	$(histories) -run TestHistories -random -histories $(HISTORIES)
	$(histories) -run TestSoak -soak $(SOAK)

# make fuzz FUZZTIME=10m             every fuzz target in turn, each for so long
# make fuzz FUZZ=pkg/sign            those of one package
FUZZTIME ?= 1m

fuzz:
	test/fuzz.sh $(FUZZTIME) $(FUZZ)

# The end-to-end tests with the race detector in the commands that do not link rclone, which
# takes minutes to compile with it. What the tests of memory and of time measure is not theirs.
test-race:
	go build -race -o bin/race/ ./cmd/kbk $(addprefix ./cmd/kbk-,fetch filter pack produce offsets)
	go build -o bin/race/ $(addprefix ./cmd/kbk-,push pull catalog import)
	rm -f bin/race/found.*
	GORACE="log_path=$(CURDIR)/bin/race/found" KBK_BIN=$(CURDIR)/bin/race go test -count=1 -timeout 30m -skip 'Memory|UnderQuota' ./test/e2e
	@! cat bin/race/found.* 2>/dev/null

# Holds the dependencies against Go's database of vulnerabilities, vuln.go.dev.
vulncheck:
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...

# make simulate SEEDS=1000           random histories, from a seed that is printed
# make simulate SEEDS=1 SEED=2181    one of them again
SEEDS ?= 1000
SEED  ?= 0

simulate:
	go test -count=1 -timeout 2h -v ./test/simulate -seeds $(SEEDS) -seed $(SEED) -processes $(shell getconf _NPROCESSORS_ONLN)

bench: build
	go test -run '^$$' -bench . -benchmem ./format ./pkg/...
	go run ./test/bench -pack
	go run ./test/bench

lint:
	@test -z "$$(gofmt -l .)" || { echo "gofmt: these files are not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff

kafka:
	@go build -o bin/test/kafka ./test/kafka/run && bin/test/kafka

man: $(patsubst docs/man/%.md,bin/man/%,$(wildcard docs/man/*.1.md))

bin/man/%: docs/man/%.md
	@mkdir -p $(@D)
	go tool go-md2man -in $< -out $@

install: build man
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install $(addprefix bin/,$(COMMANDS)) $(DESTDIR)$(PREFIX)/bin/
	install -m 644 bin/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/

clean:
	rm -rf bin
