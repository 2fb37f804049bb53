# make help says what else there is.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS := -s -w -funcalign=16 -X github.com/kbkio/kbk/pkg/command.version=$(VERSION) -X github.com/kbkio/kbk/pkg/command.commit=$(COMMIT)
# Everything is compiled in one way, so that building, testing and vetting share what is
# compiled. Only the race detector takes cgo.
#
# The tags and -funcalign make the programs 3 MB smaller. arrow_json_stdlib: Apache Arrow, by
# which rclone lists Azure's blobs, has no JSON encoder of its own then. urfave_cli_no_docs: no
# generator of man pages is linked. Go aligns functions to 32 bytes on amd64 and to 16 on arm64.
export TAGS := arrow_json_stdlib,urfave_cli_no_docs
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(GOFLAGS) -trimpath -tags=$(TAGS))
PREFIX  ?= /usr/local
BIN     ?= bin

# Two programs hold all commands, and are each of them under its name. Only kbk-catalog links
# rclone, which is what makes it large.
PLAIN    := kbk-cluster kbk-fetch kbk-filter kbk-offsets kbk-pack kbk-produce
STORAGE  := kbk-import kbk-pull kbk-push
PROGRAMS := kbk kbk-catalog
COMPLETIONS := pkg/kbk/completions

.DEFAULT_GOAL := build
.PHONY: help commands build demo test test-fast test-race soak fuzz vulncheck manifests rules simulate bench lint kafka man install install-shared links image images packages snapshot release clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The links in bin are hard ones: go build -o bin/ ./cmd/kbk-push then replaces a link, and
# not the program that it leads to.
commands: ## the commands alone, in bin
	go build -ldflags '$(LDFLAGS)' -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))
	@for c in $(PLAIN); do ln -f $(BIN)/kbk $(BIN)/$$c; done
	@for c in $(STORAGE); do ln -f $(BIN)/kbk-catalog $(BIN)/$$c; done

build: commands man ## the commands and their man pages, in bin: what make install installs

demo: build ## the whole pipe on an embedded broker, in a minute; needs only Go
	go run ./examples/demo

test-fast: ## the packages without rclone and Kafka, in seconds
	test/run.sh fast

test: build ## everything, on a real Kafka too; needs Go, Java and Maven
	test/run.sh

# What test does a few times, many times; and what takes long, one after the other:
#
# make soak HISTORIES=30m SOAK=2h
# make soak HISTORIES=1m SOAK=1h SEED=1795849188   a history, or a long run, again
HISTORIES ?= 30m
SOAK      ?= 2h
histories  = KBK_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 24h ./test/histories -seed $(SEED)

soak: build ## what takes hours: HISTORIES=30m SOAK=2h SEED=…
	cd test/e2e && go test -count=1 -v -timeout 30m -run TestResumeUnderQuota . -quota-kills=50
	KBK_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 1h -run TestThreeBrokers ./test/brokers -every-broker
	go test -count=1 -v -timeout 1h -run 'TestKillEverywhere|TestTransientErrors' ./pkg/produce -kill-step=1 -every-error
	go test -count=1 -v -timeout 1h -run TestTransientErrors ./pkg/fetch ./pkg/offsets ./pkg/cluster -every-error
	go test -count=1 -v -timeout 2h -run TestEveryByte ./pkg/catalog -damage-cases=0
	KBK_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 1h -run 'TestSlowStore|TestStoreAway' ./test/stores -long
	$(histories) -run 'TestManyPartitions|TestSmallRecords|TestLargeRecords' -sizes
	$(histories) -run TestHistories -random -histories $(HISTORIES)
	$(histories) -run TestSoak -soak $(SOAK)

# make fuzz FUZZTIME=10m             every fuzz target in turn, each for so long
# make fuzz FUZZ=pkg/sign            those of one package
FUZZTIME ?= 1m

fuzz: ## every fuzz target in turn, for FUZZTIME=1m each; FUZZ=pkg/sign those of one package
	test/fuzz.sh $(FUZZTIME) $(FUZZ)

# The tests that run the commands as their users do, with the race detector in the commands.
# Of rclone's backends only a dozen are linked: all of them take minutes to compile with it. What
# measures memory or depends on a quota is left out: a command with the detector takes several
# times the memory and the time.
#
# make test-race RACED=./test/e2e    one of these packages
RACED ?= ./test/e2e ./test/stores ./test/brokers ./test/cluster ./test/security ./test/histories

test-race: ## the end-to-end tests with the race detector: more than an hour; RACED=./test/e2e for one package
	CGO_ENABLED=1 go build -race -tags kbk_dozen -ldflags '$(LDFLAGS)' -o bin/race/ $(addprefix ./cmd/,$(PROGRAMS))
	@for c in $(PLAIN); do ln -f bin/race/kbk bin/race/$$c; done
	@for c in $(STORAGE); do ln -f bin/race/kbk-catalog bin/race/$$c; done
	rm -f bin/race/found.*
	@# A command waits 50 ms at its end for what its goroutines still do. A second is the default.
	GORACE="log_path=$(CURDIR)/bin/race/found atexit_sleep_ms=50" KBK_BIN=$(CURDIR)/bin/race \
	    go test -count=1 -p 1 -timeout 2h -skip 'Memory|UnderQuota' $(RACED); \
	    status=$$?; ! cat bin/race/found.* 2>/dev/null && exit $$status

HELM_VERSION ?= v3.18.6

manifests: ## validate the manifests and the chart of contrib by Kubernetes' own code
	cd test/manifests && go build -o ../../bin/test/manifests .
	for f in contrib/kubernetes/*.yaml; do bin/test/manifests <$$f || exit 1; done
	go run helm.sh/helm/v3/cmd/helm@$(HELM_VERSION) lint contrib/helm/kbk
	go run helm.sh/helm/v3/cmd/helm@$(HELM_VERSION) template nightly contrib/helm/kbk --set status.enabled=true,store.secret=s,timeZone=Etc/UTC | bin/test/manifests

rules: ## parse the alerts and the dashboard of contrib as Prometheus does
	cd test/rules && go build -o ../../bin/test/rules .
	bin/test/rules contrib/prometheus/kbk.rules.yml contrib/grafana/kbk.json

vulncheck: ## look the dependencies up in Go's database of vulnerabilities
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...

# make simulate SEEDS=1000           random histories, from a seed that is printed
# make simulate SEEDS=1 SEED=2181    one of them again
SEEDS ?= 1000
SEED  ?= 0

simulate: ## SEEDS=1000 random histories from SEED=…
	go test -tags synctests,$(TAGS) -count=1 -timeout 2h -v ./test/simulate -seeds $(SEEDS) -seed $(SEED)

bench: build ## how fast it is
	go test -run '^$$' -bench . -benchmem ./format ./pkg/...
	go run ./test/bench -pack
	go run ./test/bench

# What does not link rclone is compiled for the other systems of a release, too: make snapshot
# alone would show it.
lint: ## formatting, go vet, staticcheck, go.mod, other systems
	@test -z "$$(gofmt -l .)" || { echo "gofmt: these files are not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff
	for os in windows darwin; do GOOS=$$os go build $$(go list -f '{{join .Imports " "}}' ./cmd/kbk) || exit 1; done

kafka: ## a real Kafka on 127.0.0.1:9092 to play with, until Ctrl-C
	@go build -o bin/test/kafka ./test/kafka/run && bin/test/kafka

# The manual pages, in bin/man.
PAGES := $(patsubst docs/man/%.md,$(BIN)/man/%,$(wildcard docs/man/*.1.md))

man: $(PAGES)

$(BIN)/man/%: docs/man/%.md
	@mkdir -p $(@D)
	go tool go-md2man -in $< -out $@

# sudo make install: nothing is built as root.
install: ## to PREFIX, /usr/local if it is not given, below DESTDIR: what make build has made
	@for f in $(addprefix $(BIN)/,$(PROGRAMS)) $(PAGES); do \
	    [ -e $$f ] || { echo "make install: there is no $$f: run make build first, without sudo" >&2; exit 1; }; done
	install -d $(DESTDIR)$(PREFIX)/bin
	install $(addprefix $(BIN)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin/
	@$(MAKE) -s install-shared

# All but the two programs: the same for every machine.
share = $(DESTDIR)$(PREFIX)/share
install-shared:
	install -d $(DESTDIR)$(PREFIX)/bin $(share)/man/man1 $(share)/bash-completion/completions $(share)/zsh/site-functions $(share)/fish/vendor_completions.d
	for c in $(PLAIN); do ln -sf kbk $(DESTDIR)$(PREFIX)/bin/$$c; done
	for c in $(STORAGE); do ln -sf kbk-catalog $(DESTDIR)$(PREFIX)/bin/$$c; done
	install -m 644 $(PAGES) $(share)/man/man1/
	install -m 644 $(COMPLETIONS)/kbk.bash $(share)/bash-completion/completions/kbk
	install -m 644 $(COMPLETIONS)/_kbk $(share)/zsh/site-functions/
	install -m 644 $(COMPLETIONS)/kbk.fish $(share)/fish/vendor_completions.d/
	for c in kbk-catalog $(PLAIN) $(STORAGE); do \
	    ln -sf kbk $(share)/bash-completion/completions/$$c; \
	    ln -sf kbk.fish $(share)/fish/vendor_completions.d/$$c.fish; done

# Packages. GoReleaser is run by version, as go.mod would be ten times as long with it.
GORELEASER := go run github.com/goreleaser/goreleaser/v2@v2.15.1
ARCH       ?= $(shell go env GOARCH)

links: man
	rm -rf bin/links
	@$(MAKE) -s install-shared DESTDIR=bin/links PREFIX=/usr

image: commands ## a container image for this machine, in bin: a file for docker load, podman load, skopeo, crane push
	cd packaging/image && go run . -o $(CURDIR)/bin/kbk-image.tar -arch $(ARCH) -version $(VERSION) $(CURDIR)/bin/kbk $(CURDIR)/bin/kbk-catalog

# Those of a release, for linux on amd64 and arm64, in bin/images.
images:
	for arch in amd64 arm64; do \
	    GOOS=linux GOARCH=$$arch $(MAKE) commands BIN=bin/images/$$arch && \
	    (cd packaging/image && go run . -o $(CURDIR)/bin/images/kbk-image-$$arch.tar -arch $$arch -version $(VERSION) $(CURDIR)/bin/images/$$arch/kbk $(CURDIR)/bin/images/$$arch/kbk-catalog) || exit 1; done

# By the file of a release, for this machine's system and processor alone: CI installs them.
# GoReleaser takes no commit from a repository without a remote, and asks the remote nothing.
packages: links ## archive, deb and rpm for this machine, in dist
	sed -e 's/^    goos: .*/    goos: [$(shell go env GOHOSTOS)]/' -e 's/^    goarch: .*/    goarch: [$(shell go env GOHOSTARCH)]/' .goreleaser.yaml >bin/goreleaser.yaml
	GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=remote.origin.url GIT_CONFIG_VALUE_0=https://github.com/kbkio/kbk \
	    $(GORELEASER) release --snapshot --clean -f bin/goreleaser.yaml --skip=before,sbom,homebrew,nix $(if $(filter linux,$(shell go env GOHOSTOS)),,--skip=nfpm)

snapshot: ## all packages for all systems, in dist; takes half an hour on two cores
	$(GORELEASER) release --snapshot --clean

release: ## the same for a tag, and publish it
	$(GORELEASER) release --clean

clean: ## remove bin and dist
	rm -rf bin dist
