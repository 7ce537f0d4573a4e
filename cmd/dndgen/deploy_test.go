package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

// deployment is what the tests look at of deploy/kubernetes/deployment.yaml.
type deployment struct {
	Spec struct {
		Template struct {
			Spec struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []container
			}
		}
	}
}

type container struct {
	Args  []string
	Ports []struct {
		ContainerPort int `yaml:"containerPort"`
	}
	Startup   probe `yaml:"startupProbe"`
	Readiness probe `yaml:"readinessProbe"`
	Liveness  probe `yaml:"livenessProbe"`
	Lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
	Mounts []mount `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

type mount struct {
	Path     string `yaml:"mountPath"`
	ReadOnly bool   `yaml:"readOnly"`
}

// flagsOf parses a command line of serve.
func flagsOf(t *testing.T, args []string) *pflag.FlagSet {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	serve(flags)
	if len(args) == 0 || args[0] != "serve" {
		t.Fatalf("arguments %q, want serve and its flags", args)
	}
	if err := flags.Parse(args[1:]); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return flags
}

// The manifests fit the program: its flags, its port, its health, and the time that it
// takes to end.
func TestKubernetes(t *testing.T) {
	dir := filepath.FromSlash("../../deploy/kubernetes")
	raw, err := os.ReadFile(filepath.Join(dir, "deployment.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d deployment
	if err := yaml.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	spec := d.Spec.Template.Spec
	c := spec.Containers[0]
	flags := flagsOf(t, c.Args)
	_, port, _ := strings.Cut(flags.Lookup("listen").Value.String(), ":")
	if len(c.Ports) != 1 || port != "8737" || c.Ports[0].ContainerPort != 8737 {
		t.Errorf("ports %+v, the program listens on %s", c.Ports, port)
	}
	drain, err := flags.GetDuration("drain")
	if err != nil {
		t.Fatal(err)
	}
	if need := time.Duration(c.Lifecycle.PreStop.Sleep.Seconds)*time.Second + drain + drainGrace; time.Duration(spec.Grace)*time.Second < need {
		t.Errorf("%d s to end, the program may need %v", spec.Grace, need)
	}
	for _, p := range []struct {
		probe
		path string
	}{{c.Startup, "/readyz"}, {c.Readiness, "/readyz"}, {c.Liveness, "/livez"}} {
		if p.HTTPGet.Path != p.path || p.HTTPGet.Port != "http" {
			t.Errorf("%+v asks for another path than %s", p.probe, p.path)
		}
	}
	for _, flag := range []string{"results", "token-file"} {
		path := flags.Lookup(flag).Value.String()
		i := slices.IndexFunc(c.Mounts, func(m mount) bool { return strings.HasPrefix(path, m.Path+"/") })
		if i < 0 || c.Mounts[i].ReadOnly != (flag == "token-file") {
			t.Errorf("--%s %s lies in no volume that suits it", flag, path)
		}
	}
	// Every file is part of the whole.
	raw, err = os.ReadFile(filepath.Join(dir, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var k struct{ Resources []string }
	if err := yaml.Unmarshal(raw, &k); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := filepath.Base(f); name != "kustomization.yaml" && !slices.Contains(k.Resources, name) {
			t.Errorf("kustomization.yaml lacks %s", name)
		}
	}
	if len(files) != len(k.Resources)+1 {
		t.Errorf("%d files, %d resources", len(files), len(k.Resources))
	}
}

// Every selector selects the deployment's pods, and no others of its namespace: also where the
// files are applied one by one, without kustomize.
func TestKubernetesSelectors(t *testing.T) {
	const label = "app.kubernetes.io/name"
	for file, paths := range map[string][]string{
		"deployment.yaml": {"metadata.labels", "spec.selector.matchLabels", "spec.template.metadata.labels", "spec.template.spec.topologySpreadConstraints.0.labelSelector.matchLabels"},
		"service.yaml":    {"metadata.labels", "spec.selector"},
		"disruption.yaml": {"metadata.labels", "spec.selector.matchLabels"},
		"network.yaml":    {"metadata.labels", "spec.podSelector.matchLabels"},
		"autoscaler.yaml": {"metadata.labels"},
	} {
		raw, err := os.ReadFile(filepath.Join("..", "..", "deploy", "kubernetes", file))
		if err != nil {
			t.Fatal(err)
		}
		var whole any
		if err := yaml.Unmarshal(raw, &whole); err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			at := whole
			for key := range strings.SplitSeq(path, ".") {
				switch v := at.(type) {
				case map[string]any:
					at = v[key]
				case []any:
					at = v[0]
				default:
					at = nil
				}
			}
			if labels, ok := at.(map[string]any); !ok || labels[label] != "dndgen" {
				t.Errorf("%s: %s is %v, expected %s: dndgen", file, path, at, label)
			}
		}
	}
}

// The image starts the program with flags that it has, copies what there is, and uses the
// version of Go that the module asks for.
func TestContainerfile(t *testing.T) {
	raw, err := os.ReadFile(filepath.FromSlash("../../deploy/Containerfile"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	command := regexp.MustCompile(`(?m)^CMD (.*)$`).FindStringSubmatch(text)
	if command == nil {
		t.Fatal("no CMD")
	}
	var args []string
	if err := json.Unmarshal([]byte(command[1]), &args); err != nil {
		t.Fatal(err)
	}
	flagsOf(t, args)
	for _, path := range []string{"cmd/dndgen", defaultGenerator} {
		if _, err := os.Stat(filepath.Join("..", "..", filepath.FromSlash(path))); err != nil || !strings.Contains(text, path) {
			t.Errorf("%s: not in the sources or not in the Containerfile: %v", path, err)
		}
	}
	mod, err := os.ReadFile(filepath.FromSlash("../../go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(mod))
	if version == nil || !strings.Contains(text, "golang:"+version[1]+"-") {
		t.Errorf("go.mod asks for Go %v, the image has another", version)
	}
}
