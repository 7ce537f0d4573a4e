package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/net/netutil"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/internal/server"
	"github.com/drag-and-drop-lora/dnd/internal/server/engine"
	"github.com/drag-and-drop-lora/dnd/internal/server/results"
	"github.com/drag-and-drop-lora/dnd/internal/site"
)

// tokenVariable holds the tokens where there is no --token-file.
const tokenVariable = "DNDGEN_TOKEN"

const (
	// maxDrain bounds --drain.
	maxDrain = time.Hour
	// fetchTime is what answers under way get when all adapters are made.
	fetchTime = 10 * time.Second
	// drainGrace is all that comes after --drain: answers under way, the device's last tile.
	drainGrace = fetchTime + 5*time.Second
)

// api are the flags of the HTTP API.
type api struct {
	on          bool
	flags       []string // that mean nothing without --api
	generators  []string
	tokenFile   string
	results     string
	resultBytes int64
	weightBytes int64
	connections int
	drain       time.Duration
	limits      server.Limits
	backend     *backendFlags
	keys        *generators.Keys
}

func addAPIFlags(flags *pflag.FlagSet) *api {
	a := &api{limits: server.DefaultLimits()}
	flags.BoolVar(&a.on, "api", false, "answer the HTTP API, too, on any address: see docs/operations.md")
	before := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) { before[f.Name] = true })
	flags.StringArrayVar(&a.generators, "also", nil, "--api: another `generator` that requests may name; may be repeated")
	flags.StringVar(&a.tokenFile, "token-file", "", "--api: file of the tokens that let requests in, one a line (default: those in "+tokenVariable+"); none are needed on localhost")
	flags.StringVar(&a.results, "results", "", "--api: folder that adapters are kept in (default: dnd/results in the user's cache folder)")
	flags.Int64Var(&a.resultBytes, "results-bytes", 4<<30, "--api: most bytes of adapters that are kept")
	flags.Int64Var(&a.weightBytes, "weights-bytes", 8<<30, "--api: most bytes of generators that are kept in memory; those beyond are read for every adapter")
	flags.IntVar(&a.limits.Queue, "queue", a.limits.Queue, "--api: adapters that may wait for their turn; requests beyond are told to come again")
	flags.IntVar(&a.connections, "connections", 512, "--api: most connections at a time")
	flags.Int64Var(&a.limits.Body, "body-bytes", a.limits.Body, "--api: most bytes of a request")
	flags.IntVar(&a.limits.Prompts, "prompts", a.limits.Prompts, "--api: most prompts of a request")
	flags.IntVar(&a.limits.Prompt, "prompt-bytes", a.limits.Prompt, "--api: most bytes of a prompt")
	flags.DurationVar(&a.limits.Work, "job-time", a.limits.Work, "--api: most time that an adapter may take, waiting aside")
	flags.DurationVar(&a.drain, "drain", 30*time.Second, "--api: time that adapters get to be finished after SIGTERM")
	a.backend = addBackendFlags(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if !before[f.Name] {
			a.flags = append(a.flags, f.Name)
		}
	})
	return a
}

// check refuses flags that do not go together.
func (a *api) check(flags *pflag.FlagSet) error {
	for _, name := range a.flags {
		if !a.on && flags.Changed(name) {
			return cli.Usagef("--%s: expected --api, too: it is for the HTTP API", name)
		}
	}
	l := a.limits
	if l.Queue < 1 || a.connections < 1 || l.Body < 1 || l.Prompts < 1 || l.Prompt < 1 || a.resultBytes < 1 || a.weightBytes < 0 {
		return cli.Usagef("--queue, --connections, --body-bytes, --prompts, --prompt-bytes, --results-bytes, --weights-bytes: expected positive numbers")
	}
	if l.Work <= 0 || a.drain < 0 || a.drain > maxDrain {
		return cli.Usagef("--job-time %v, --drain %v: expected times, the second of at most %v", l.Work, a.drain, maxDrain)
	}
	return a.backend.check()
}

// tokens reads the tokens, nil if there are none. local says that only this machine can
// reach the server.
func (a *api) tokens(local bool) (*server.Tokens, error) {
	text, from := []byte(os.Getenv(tokenVariable)), tokenVariable
	// Programs that this one starts have no use for it.
	os.Unsetenv(tokenVariable)
	if a.tokenFile != "" {
		if len(text) > 0 {
			return nil, cli.Usagef("both --token-file and %s are given, expected one", tokenVariable)
		}
		var err error
		if text, err = os.ReadFile(a.tokenFile); err != nil {
			return nil, err
		}
		from = a.tokenFile
	} else if len(text) == 0 {
		if !local {
			return nil, cli.Usagef("--listen: expected tokens, in --token-file or %s: others than this machine could reach the server", tokenVariable)
		}
		return nil, nil
	}
	t, err := server.ParseTokens(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return t, nil
}

// service is what serves the API, and what it must give back.
type service struct {
	engine *engine.Engine
	server *server.Server
	close  []func() error
}

func (s *service) Close() error {
	var err error
	for i := len(s.close) - 1; i >= 0; i-- {
		err = errors.Join(err, s.close[i]())
	}
	return err
}

// open opens all but the weights. first is the default generator, which stays the caller's.
func (a *api) open(ctx context.Context, e *cli.Env, first *generator.Package, tokens *server.Tokens, log *slog.Logger) (s *service, err error) {
	s = &service{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	packages := []*generator.Package{first}
	for _, name := range a.generators {
		p, err := openPackage(ctx, e, name, a.keys)
		if err != nil {
			return s, err
		}
		s.close = append(s.close, p.Close)
		packages = append(packages, p)
	}
	dir := a.results
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return s, fmt.Errorf("no folder for adapters: %w: name one with --results", err)
		}
		dir = filepath.Join(cache, "dnd", "results")
	}
	store, err := results.Open(dir, a.resultBytes)
	if err != nil {
		return s, err
	}
	build, err := buildHash()
	if err != nil {
		return s, err
	}
	runner, err := a.backend.open(e)
	if err != nil {
		return s, err
	}
	s.close = append(s.close, runner.Close)
	if s.engine, err = engine.New(engine.Options{
		Runner: runner, Generators: packages, Memory: a.weightBytes, Device: a.backend.resident(), Weights: a.backend.Weights, Tool: tool(), Build: build,
	}); err != nil {
		return s, err
	}
	s.server, err = server.New(server.Options{Engine: s.engine, Store: store, Limits: a.limits, Tokens: tokens, Log: log})
	return s, err
}

// buildHash is the SHA-256 of this program: another build may make other adapters.
func buildHash() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// serve serves the API, and the page if it is not nil, until ctx is done, and then as long
// as jobs take that are under way.
func (a *api) serve(ctx context.Context, listener net.Listener, s *service, tokens *server.Tokens, page http.Handler, connect []string, log *slog.Logger) error {
	mux := http.NewServeMux()
	if page == nil {
		page = s.server
	}
	mux.Handle("/", page)
	for _, path := range server.Paths() {
		mux.Handle(path, s.server)
	}
	handler := http.Handler(mux)
	if tokens == nil {
		handler = site.Guard(connect, mux)
	}
	server := newHTTPServer(handler, slog.NewLogLogger(log.Handler(), slog.LevelWarn))
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(netutil.LimitListener(listener, a.connections)) }()
	loading, stop := context.WithCancel(ctx)
	defer stop()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		begin := time.Now()
		if err := s.engine.Load(loading, func(note string) { log.Info(note) }); err != nil {
			ended <- err
			return
		}
		log.Info("ready", "seconds", time.Since(begin).Seconds(), "backend", s.engine.Backend())
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		log.Info("draining", "seconds", a.drain.Seconds())
	}
	stop()
	soon, cancel := context.WithTimeout(context.Background(), a.drain)
	defer cancel()
	if err := s.server.Drain(soon); err != nil {
		log.Warn("jobs were cancelled: there was no time to finish them")
	}
	<-loaded
	last, cancel := context.WithTimeout(context.Background(), fetchTime)
	defer cancel()
	if server.Shutdown(last) != nil {
		err = errors.Join(err, server.Close())
	}
	if ctx.Err() != nil {
		err = nil
	}
	return err
}

// newLog is the server's log: for a person at a terminal, as JSON for all others.
func newLog(e *cli.Env) *slog.Logger {
	o := &slog.HandlerOptions{}
	if e.Quiet {
		o.Level = slog.LevelWarn
	}
	if e.Terminal() {
		return slog.New(slog.NewTextHandler(e.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(e.Stderr, o))
}
