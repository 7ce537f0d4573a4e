package fit

import (
	"image/color"
	"io"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

// curve is the loss of every step.
type curve struct {
	Points []point `json:"points"`
}

type point struct {
	Loss float64 `json:"l"`
	Norm float64 `json:"n"` // gradient norm before clipping
	Rate float64 `json:"r"`
}

func (c *curve) add(step int, loss, norm, rate float64) {
	c.Points = append(c.Points[:step-1], point{loss, norm, rate})
}

// smoothing is the weight of the past in the exponential mean.
const smoothing = 0.95

// smoothed is the exponential mean after every step, corrected for its start.
func (c *curve) smoothed() []float64 {
	out := make([]float64, len(c.Points))
	mean, weight := 0.0, 0.0
	for i, p := range c.Points {
		mean = smoothing*mean + (1-smoothing)*p.Loss
		weight = smoothing*weight + (1 - smoothing)
		out[i] = mean / weight
	}
	return out
}

func (c *curve) smooth() float64 {
	s := c.smoothed()
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1]
}

// write writes loss.png.
func (c *curve) write(dir string) error {
	smooth := c.smoothed()
	p := plot.New()
	p.Title.Text = "Loss"
	p.X.Label.Text, p.Y.Label.Text = "step", "loss"
	p.Y.Min = 0
	each, mean := make(plotter.XYs, len(smooth)), make(plotter.XYs, len(smooth))
	for i := range smooth {
		each[i] = plotter.XY{X: float64(i + 1), Y: c.Points[i].Loss}
		mean[i] = plotter.XY{X: float64(i + 1), Y: smooth[i]}
	}
	thin, err := plotter.NewLine(each)
	if err != nil {
		return err
	}
	thin.Color = color.Gray{190}
	thick, err := plotter.NewLine(mean)
	if err != nil {
		return err
	}
	thick.Width = vg.Points(1.5)
	p.Add(plotter.NewGrid(), thin, thick)
	p.Legend.Add("each step", thin)
	p.Legend.Add("exponential mean", thick)
	p.Legend.Top = true
	picture, err := p.WriterTo(16*vg.Centimeter, 10*vg.Centimeter, "png")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "loss.png"), func(w io.Writer) error {
		_, err := picture.WriteTo(w)
		return err
	})
}
