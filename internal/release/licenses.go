package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// licenceNames are what the files begin with that a module's authors want to go with it.
var licenceNames = []string{"LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "PATENTS", "AUTHORS"}

// addLicences adds the licences of Go and of all modules that are linked into the programs
// of a system, as licenses/MODULE@VERSION/NAME. A module without any is an error: nobody may
// hand it on.
func addLicences(files map[string]string, t target, cc string) error {
	env := t.environment(cc)
	args := []string{"list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}} {{.Dir}}{{end}}{{end}}`}
	for _, p := range programs {
		args = append(args, "./cmd/"+p)
	}
	list, err := output(env, "go", args...)
	if err != nil {
		return err
	}
	root, err := output(env, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	lines := append(strings.Split(list, "\n"), "go "+root)
	slices.Sort(lines)
	for _, line := range slices.Compact(lines) {
		module, dir, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		names, err := licencesIn(dir)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return fmt.Errorf("module %s has no licence in %s", module, dir)
		}
		for _, name := range names {
			files["licenses/"+module+"/"+name] = filepath.Join(dir, name)
		}
	}
	return nil
}

// licencesIn names the licences at the top of a folder.
func licencesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		if e.Type().IsRegular() && slices.ContainsFunc(licenceNames, func(n string) bool { return strings.HasPrefix(upper, n) }) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
