package main

import (
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

func TestPlan(t *testing.T) {
	rates := filepath.Join(t.TempDir(), "rates.json")
	var measured, planned fit.Plan
	layout := write(t, "layout.json", layout05B)
	clitest.JSON(t, &measured, "fit", "--json", "--quiet", "--layout", layout, "--backend", "cpu", "--plan", "--measure", "--rates", rates)
	if measured.Steps != 4000 || len(measured.Times) != 1 || !(measured.Times[0].Hours > 0) {
		t.Errorf("measured %+v", measured)
	}
	clitest.JSON(t, &planned, "fit", "--json", "--quiet", "--layout", layout, "--steps", "8000", "--plan", "--rates", rates)
	if len(planned.Times) != 1 || planned.Times[0].Hours != 2*measured.Times[0].Hours {
		t.Errorf("planned %+v after measuring %+v", planned, measured)
	}
	clitest.JSON(t, &planned, "fit", "--json", "--quiet", "--shape", "7B-math", "--dtype", "bf16", "--accumulate", "12", "--devices", "2", "--plan")
	if planned.Part != 2 || planned.Parameters != 1_942_130_220 {
		t.Errorf("planned %+v", planned)
	}
	for _, bad := range [][]string{{"--measure"}, {"--rates", rates}, {"--plan", "--devices", "5"}, {"--plan", "--dtype", "f8"}} {
		clitest.Fails(t, 2, nil, append([]string{"fit", "--shape", "0.5b"}, bad...)...)
	}
}
