package hub

import (
	"net/http"
	"net/http/httptest"
	"time"
)

// Hurry makes a cache wait less for servers.
func (c *Cache) Hurry(pause, idle time.Duration) { c.network.pause, c.network.idle = pause, idle }

// Parse tells what a name is.
func Parse(name string) (kind, shown string, err error) {
	s, err := parse(name)
	if err != nil {
		return "", "", err
	}
	switch {
	case s.folder != "":
		kind = "folder"
	case s.repo != "":
		kind = "hub"
	default:
		kind = "url"
	}
	return kind, s.String(), nil
}

// Trust lets a cache reach a test's TLS server.
func (c *Cache) Trust(s *httptest.Server) {
	c.network.client.Transport.(*http.Transport).TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
}
