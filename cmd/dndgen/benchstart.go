package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
)

// startTasks is how many tasks the last call of --start has.
const startTasks = 4

// started is the result of --start: whole calls of dndgen generate with the shipped
// generator, as a user waits for them.
type started struct {
	Backend string      `json:"backend"`
	Device  string      `json:"device"`
	Calls   []startCall `json:"calls"`
}

type startCall struct {
	Name    string  `json:"name"`
	Tasks   int     `json:"tasks"`
	Seconds float64 `json:"seconds"` // of the process
	// Start is what of it is no stage: the program, the backend, pipelines are the stages'.
	Start  float64 `json:"start_seconds"`
	Stages []stage `json:"stages"`
}

// runStart calls generate with empty caches of drivers and of dnd, with full ones, and with
// a folder of tasks. Files stay in the system's own cache: emptying that takes root.
func (o *benchOptions) runStart(ctx context.Context, e *cli.Env) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dnd-start-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tasks := filepath.Join(dir, "tasks")
	if err := os.Mkdir(tasks, 0o755); err != nil {
		return err
	}
	for i := range startTasks {
		text := ""
		for k := range 16 {
			text += fmt.Sprintf("Question %d of task %d: what is it that comes after the %dth?\n", k, i, 7*k+i)
		}
		if err := os.WriteFile(filepath.Join(tasks, fmt.Sprintf("task-%d.txt", i)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	caches := filepath.Join(dir, "caches")
	var r started
	for _, c := range []startCall{{Name: "empty caches", Tasks: 1}, {Name: "full caches", Tasks: 1}, {Name: "a folder of tasks", Tasks: startTasks}} {
		e.Message("%s", c.Name)
		prompts := tasks
		if c.Tasks == 1 {
			prompts = filepath.Join(tasks, "task-0.txt")
		}
		args := append([]string{"generate", "--quiet", "--json", "--prompts", prompts, "--out", filepath.Join(dir, fmt.Sprint("out-", len(r.Calls)))}, o.args()...)
		cmd := exec.CommandContext(ctx, self, args...)
		// Where Mesa, other drivers by their habits, XLA and dnd keep what they compile.
		cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+caches, "MESA_SHADER_CACHE_DIR="+caches, "DND_CACHE="+filepath.Join(caches, "dnd"), "__GL_SHADER_DISK_CACHE_PATH="+caches)
		var out, problems bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &problems
		begin := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("generate, %s: %w: %s", c.Name, err, oneLine(problems.String(), 500))
		}
		c.Seconds = time.Since(begin).Seconds()
		var got struct {
			Backend, Device string
			Stages          []stage
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			return fmt.Errorf("generate, %s, printed no result: %w", c.Name, err)
		}
		r.Backend, r.Device = got.Backend, got.Device
		c.Stages, c.Start = got.Stages, c.Seconds
		for _, s := range got.Stages {
			c.Start -= s.Seconds
		}
		r.Calls = append(r.Calls, c)
	}
	return e.Result(r, r.print)
}

func (r started) print(w io.Writer) {
	fmt.Fprintf(w, "dndgen generate on %s (%s)\n\n| call | tasks | in all | a task | start | stages |\n|---|---|---|---|---|---|\n", r.Device, r.Backend)
	for _, c := range r.Calls {
		fmt.Fprintf(w, "| %s | %d | %.2f s | %.2f s | %.2f s |", c.Name, c.Tasks, c.Seconds, c.Seconds/float64(c.Tasks), c.Start)
		for _, s := range c.Stages {
			fmt.Fprintf(w, " %s %.2f s", s.Name, s.Seconds)
		}
		fmt.Fprintln(w, " |")
	}
}
