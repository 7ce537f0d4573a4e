package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/internal/server"
	"github.com/drag-and-drop-lora/dnd/internal/site"
)

// pageNames are where the first file of the page that comes with dnd lies.
var pageNames = []string{"build/web/index.html", "web/index.html"}

// lastAnswers is how long answers under way may take after Ctrl-C.
const lastAnswers = 400 * time.Millisecond

// served is what serve prints when it listens.
type served struct {
	URL       string `json:"url"`
	API       string `json:"api,omitempty"`
	Generator string `json:"generator"`
	Base      string `json:"base,omitempty"` // the base model's path on the server
}

func serve(flags *pflag.FlagSet) cli.Run {
	name := flags.String("generator", "", generators.Usage+" (default: the one that comes with dnd)")
	keys := generators.AddKeys(flags)
	page := flags.String("web", "", "folder of the page (default: the one that comes with dnd)")
	base := flags.String("base", "", "base model as GGUF, for the page to answer prompts with and without the adapter")
	listen := flags.String("listen", "localhost:8737", "address on this machine, with --api and tokens any; port 0 is any that is free")
	connect := flags.StringSlice("connect", nil, "other origins that the page may load generators from, as https://example.org")
	browser := flags.Bool("open", true, "open the page in a browser")
	a := addAPIFlags(flags)
	a.keys = keys
	return func(ctx context.Context, e *cli.Env, _ []string) error {
		if err := a.check(flags); err != nil {
			return err
		}
		host, _, err := net.SplitHostPort(*listen)
		local := err == nil && site.Local(host)
		if err != nil || !local && !a.on {
			return cli.Usagef("--listen %s: expected localhost and a port, as localhost:8737: the page is for this machine alone", *listen)
		}
		for _, origin := range *connect {
			if u, err := url.Parse(origin); err != nil || u.Scheme != "https" || u.Host == "" || origin != "https://"+u.Host {
				return cli.Usagef("--connect %s: expected an origin, as https://example.org", origin)
			}
		}
		var tokens *server.Tokens
		if a.on {
			if tokens, err = a.tokens(local); err != nil {
				return err
			}
		}
		p, err := openPackage(ctx, e, *name, keys)
		if err != nil {
			return err
		}
		defer p.Close()
		var pages http.Handler
		o := site.Options{Page: *page, Base: *base, Connect: *connect, Generator: p}
		if local {
			if pages, err = openPage(o, a.on); err != nil {
				return err
			}
		} else if *page != "" || *base != "" {
			return cli.Usagef("--web, --base: the page is for this machine alone, and --listen %s is for others", *listen)
		}
		var s *service
		log := newLog(e)
		if a.on {
			if s, err = a.open(ctx, e, p, tokens, log); err != nil {
				return err
			}
			defer s.Close()
		}
		listener, err := net.Listen("tcp", *listen)
		if err != nil {
			return fmt.Errorf("--listen %s: %w", *listen, err)
		}
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		result := served{URL: "http://" + net.JoinHostPort(host, port) + "/", Generator: p.Manifest.Name}
		if a.on {
			result.API = result.URL + "v1/"
		}
		if *base != "" {
			result.Base = site.BaseURL
		}
		if err := e.Result(result, func(w io.Writer) {
			fmt.Fprintf(w, "%s serves generator %s; Ctrl-C ends it\n", result.URL, result.Generator)
		}); err != nil {
			return errors.Join(err, listener.Close())
		}
		if *browser && pages != nil {
			if err := openBrowser(result.URL); err != nil {
				e.Message("note: no browser could be opened (%v): open %s", err, result.URL)
			}
		}
		if a.on {
			return a.serve(ctx, listener, s, tokens, pages, *connect, log)
		}
		return serveUntil(ctx, e, listener, pages)
	}
}

// openPage opens the page, the one that comes with dnd if o names none. Without one it
// returns nil if that is as well.
func openPage(o site.Options, without bool) (http.Handler, error) {
	if o.Page == "" {
		index, ok := find(pageNames...)
		if !ok && without && o.Base == "" {
			return nil, nil
		}
		if !ok {
			return nil, fmt.Errorf("%s was not found here or beside the program: %w: make it with make web, or name its folder with --web", pageNames[0], fs.ErrNotExist)
		}
		o.Page = filepath.Dir(index)
	}
	o.Guest, _ = find(guestNames...)
	return site.New(o)
}

// serveUntil serves until ctx is done, and lets answers under way end.
func serveUntil(ctx context.Context, e *cli.Env, listener net.Listener, handler http.Handler) error {
	server := newHTTPServer(handler, log.New(messages{e}, "", 0))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	soon, cancel := context.WithTimeout(context.Background(), lastAnswers)
	defer cancel()
	if err := server.Shutdown(soon); err != nil {
		return server.Close()
	}
	return nil
}

// newHTTPServer makes a server that no slow client can hold up.
func newHTTPServer(handler http.Handler, log *log.Logger) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 16, ErrorLog: log,
	}
}

// messages is a log that tells a person.
type messages struct{ e *cli.Env }

func (m messages) Write(p []byte) (int, error) {
	m.e.Message("%s", oneLine(string(p), 200))
	return len(p), nil
}

func openBrowser(url string) error {
	name, args := "xdg-open", []string{url}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", url}
	}
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait()
	return nil
}
