package generator

import (
	"fmt"
	"math"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Coverage is where the tasks lie that a generator was fitted on, by what the text encoder
// makes of their prompts: what tells prompts of a kind that it knows from others.
type Coverage struct {
	// Limit is the largest distance that a training task has from the nearest other one.
	// Prompts farther from all of them are stranger than any training task was to the rest.
	Limit float64 `json:"limit"`
	// FarScale multiplies the alpha of adapters whose prompts are farther than that: a task of
	// an unknown kind is better off with less of what other kinds have in common. 0 is 1.
	FarScale float64 `json:"far_scale,omitempty"`
	Tasks    []Task  `json:"tasks"`
}

// Task is one training task.
type Task struct {
	Name string `json:"name"`
	// Center is a Pool's vector over the task's prompts, (width) little-endian float32.
	Center []byte `json:"center"`
}

// Nearest is how far prompts are from what a generator was fitted on.
type Nearest struct {
	Task     string  `json:"task"`     // the nearest training task
	Distance float64 `json:"distance"` // 1 - cosine, from 0 to 2
	Limit    float64 `json:"limit"`
	// Far says that the distance is beyond the limit: no reason to expect that the adapter
	// is better than none.
	Far bool `json:"far"`
	// Scale is what Finish multiplies the adapter's alpha by: Coverage.FarScale, or 1.
	Scale float64 `json:"scale"`
}

// maxTasks bounds the tasks of a manifest.
const maxTasks = 10_000

// NewCoverage makes a Coverage of tasks and their pooled vectors. One task has no
// neighbour: the limit is then 0.
func NewCoverage(names []string, centers [][]float32) (*Coverage, error) {
	if len(names) == 0 || len(names) != len(centers) {
		return nil, fmt.Errorf("coverage: %d names for %d tasks", len(names), len(centers))
	}
	c := &Coverage{}
	for i, name := range names {
		c.Tasks = append(c.Tasks, Task{name, Bytes(centers[i])})
	}
	for i := range centers {
		nearest := math.Inf(1)
		for j := range centers {
			if i != j {
				nearest = min(nearest, distance(centers[i], centers[j]))
			}
		}
		if len(centers) > 1 {
			c.Limit = max(c.Limit, nearest)
		}
	}
	return c, c.validate(len(centers[0]))
}

func (c *Coverage) validate(width int) error {
	if c == nil {
		return nil
	}
	if !(c.Limit >= 0 && c.Limit <= 2.001) || len(c.Tasks) == 0 || len(c.Tasks) > maxTasks {
		return fmt.Errorf("coverage of %d tasks with limit %v, expected 1 to %d tasks and a distance", len(c.Tasks), c.Limit, maxTasks)
	}
	if !(c.FarScale >= 0 && c.FarScale <= 1) {
		return fmt.Errorf("coverage: far_scale %v, expected a number above 0, at most 1", c.FarScale)
	}
	for _, t := range c.Tasks {
		if err := checkName("coverage: a task's name", t.Name); err != nil {
			return err
		}
		if len(t.Center) != 4*width || firstNonFinite(safetensors.F32, t.Center) >= 0 {
			return fmt.Errorf("coverage: task %s: the center has %d bytes, expected %d finite numbers", clip(t.Name), len(t.Center), width)
		}
	}
	return nil
}

// Nearest finds the training task that is nearest to a pooled vector.
func (c *Coverage) Nearest(pooled []float32) Nearest {
	n := Nearest{Distance: math.Inf(1), Limit: c.Limit, Scale: 1}
	for _, t := range c.Tasks {
		if d := distance(Float32s(t.Center), pooled); d < n.Distance {
			n.Task, n.Distance = t.Name, d
		}
	}
	if n.Far = n.Distance > n.Limit; n.Far && c.FarScale > 0 {
		n.Scale = c.FarScale
	}
	return n
}

// distance is 1 - cosine. Vectors of no length are as far as can be.
func distance(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	if aa == 0 || bb == 0 {
		return 2
	}
	return max(0, 1-ab/math.Sqrt(aa*bb))
}

// Pool adds texts up to one vector: the mean over texts of what sentence-transformers makes
// of each, which is the mean over its tokens, pads left out, brought to length 1.
type Pool struct{ sum []float64 }

// Add adds a text's row of the condition, (length, width), of which mask says the tokens.
func (p *Pool) Add(row []float32, mask []uint32) {
	width := len(row) / len(mask)
	if p.sum == nil {
		p.sum = make([]float64, width)
	}
	mean := make([]float64, width)
	for i, m := range mask {
		if m == 0 {
			continue
		}
		for k, v := range row[i*width : (i+1)*width] {
			mean[k] += float64(v)
		}
	}
	addUnit(p.sum, mean)
}

// Vector is the sum, brought to length 1.
func (p *Pool) Vector() []float32 {
	unit := make([]float64, len(p.sum))
	addUnit(unit, p.sum)
	out := make([]float32, len(unit))
	for k, v := range unit {
		out[k] = float32(v)
	}
	return out
}

// addUnit adds v, brought to length 1, to sum.
func addUnit(sum, v []float64) {
	square := 0.0
	for _, x := range v {
		square += x * x
	}
	if square == 0 {
		return
	}
	for k, x := range v {
		sum[k] += x / math.Sqrt(square)
	}
}
