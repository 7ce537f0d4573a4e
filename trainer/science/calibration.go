package science

import (
	"context"
	"math"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/trainer/stats"
)

// Calibration is whether the distance that a generator package warns by
// (generator.Coverage) tells where adapters are bad.
type Calibration struct {
	Kinds  []CalibrationKind  `json:"kinds"`
	Points []CalibrationPoint `json:"points"`
	// Spearman's rank correlation over the points: of distance with exact match, which
	// should be negative, and with the answer's NLL, which should be positive.
	Exact stats.Interval `json:"distance_exact"`
	NLL   stats.Interval `json:"distance_nll"`
}

// CalibrationPoint is what was generated for one task.
type CalibrationPoint struct {
	Kind     string  `json:"kind"`
	Task     string  `json:"task"`
	Split    int64   `json:"split"`
	Distance float64 `json:"distance"` // to the nearest training task, mean over draws
	Far      bool    `json:"far"`      // beyond the limit in most draws: a warning
	Exact    float64 `json:"exact"`
	NLL      float64 `json:"nll"`
	BaseNLL  float64 `json:"base_nll"`
}

// CalibrationKind is the mean over the points of a kind.
type CalibrationKind struct {
	Kind     string  `json:"kind"`
	Distance float64 `json:"distance"`
	Far      float64 `json:"far"` // share
	Exact    float64 `json:"exact"`
	NLL      float64 `json:"nll"`
	BaseNLL  float64 `json:"base_nll"`
}

// The kinds of points beside UnseenTask and UnseenWording: training tasks in new draws of
// prompts, and tasks with an operation that the generator and the base never met.
const (
	kindTraining = "training"
	kindOutside  = "outside"
)

// calibrationDraws is how many draws of prompts a point is the mean of.
const calibrationDraws = 2

// calibrate adds a split's points.
func (r *Calibration) calibrate(ctx context.Context, g *network, f *fitted, test *contest, c *Config) error {
	var names []string
	var centers [][]float32
	for _, t := range test.x.split.Train {
		var pool generator.Pool
		for _, prompt := range test.x.conditions.seen[t] {
			test.x.conditions.add(&pool, prompt)
		}
		names, centers = append(names, t.String()), append(centers, pool.Vector())
	}
	coverage, err := generator.NewCoverage(names, centers)
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name   string
		tasks  []Task
		unseen bool
	}{{kindTraining, test.x.split.Train, false}, {UnseenTask, test.tasks, false}, {UnseenWording, test.tasks, true}, {kindOutside, outsiders(c.Values), false}} {
		if len(kind.tasks) == 0 {
			continue
		}
		k := *test
		k.tasks, k.own, k.options = kind.tasks, nil, false
		k.ask(kind.unseen)
		distance, far := make([]float64, len(k.tasks)), make([]float64, len(k.tasks))
		for draw := range calibrationDraws {
			for i, condition := range k.conditions(draw, "") {
				var pool generator.Pool
				size := k.x.conditions.length * k.x.conditions.width
				for at := 0; at < len(condition); at += size {
					k.x.conditions.add(&pool, condition[at:at+size])
				}
				n := coverage.Nearest(pool.Vector())
				distance[i] += n.Distance / calibrationDraws
				if n.Far {
					far[i] += 1.0 / calibrationDraws
				}
			}
		}
		scores, err := k.repeated(ctx, calibrationDraws, "", g.by(f))
		if err != nil {
			return err
		}
		base, err := k.simple(ctx, nil)
		if err != nil {
			return err
		}
		for i, t := range k.tasks {
			r.Points = append(r.Points, CalibrationPoint{kind.name, t.String(), k.x.split.Seed, distance[i], far[i] > 0.5, scores[i].Exact, scores[i].NLL, base[i].NLL})
		}
	}
	r.summarise()
	return nil
}

// add adds a prompt (length, width) to a pool.
func (d *conditions) add(pool *generator.Pool, prompt []float32) {
	mask := make([]uint32, d.length)
	for i := range mask {
		if token := prompt[i*d.width:]; token[0] != 0 || token[1] != 0 {
			mask[i] = 1
		}
	}
	pool.Add(prompt, mask)
}

func (r *Calibration) summarise() {
	r.Kinds = nil
	for _, kind := range []string{kindTraining, UnseenTask, UnseenWording, kindOutside} {
		mean, n := CalibrationKind{Kind: kind}, 0.0
		for _, p := range r.Points {
			if p.Kind == kind {
				n++
				if p.Far {
					mean.Far++
				}
				mean.Distance, mean.Exact, mean.NLL, mean.BaseNLL = mean.Distance+p.Distance, mean.Exact+p.Exact, mean.NLL+p.NLL, mean.BaseNLL+p.BaseNLL
			}
		}
		if n > 0 {
			r.Kinds = append(r.Kinds, CalibrationKind{kind, mean.Distance / n, mean.Far / n, mean.Exact / n, mean.NLL / n, mean.BaseNLL / n})
		}
	}
	over := func(of func(CalibrationPoint) float64) stats.Interval {
		return stats.Bootstrap(len(r.Points), func(points []int) float64 {
			x, y := make([]float64, len(points)), make([]float64, len(points))
			for i, p := range points {
				x[i], y[i] = r.Points[p].Distance, of(r.Points[p])
			}
			return spearman(x, y)
		})
	}
	r.Exact = over(func(p CalibrationPoint) float64 { return p.Exact })
	r.NLL = over(func(p CalibrationPoint) float64 { return p.NLL })
}

// spearman is the rank correlation; 0 where one side does not vary.
func spearman(x, y []float64) float64 {
	x, y = ranks(x), ranks(y)
	middle := float64(len(x)-1) / 2
	var xy, xx, yy float64
	for i := range x {
		a, b := x[i]-middle, y[i]-middle
		xy, xx, yy = xy+a*b, xx+a*a, yy+b*b
	}
	if xx == 0 || yy == 0 {
		return 0
	}
	return xy / math.Sqrt(xx*yy)
}

// ranks are the places of values in their order; equal ones share the mean of theirs.
func ranks(v []float64) []float64 {
	order := make([]int, len(v))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case v[a] < v[b]:
			return -1
		case v[a] > v[b]:
			return 1
		}
		return 0
	})
	out := make([]float64, len(v))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && v[order[to]] == v[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			out[i] = float64(from+to-1) / 2
		}
		from = to
	}
	return out
}
