package science

import (
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// plotted are the methods of the picture, in the order of its bars.
var plotted = []struct {
	method string
	color  color.Color
}{
	{MethodBase, color.Gray{120}},
	{MethodAverage, color.Gray{170}},
	{MethodNearest, color.Gray{205}},
	{MethodJoint, color.RGBA{0xe0, 0x9f, 0x3e, 0xff}},
	{MethodRidge, color.RGBA{0x9e, 0x2a, 0x2b, 0xff}},
	{MethodGenerated, color.RGBA{0x33, 0x5c, 0x67, 0xff}},
	{MethodOwn, color.RGBA{0x54, 0x0b, 0x0e, 0xff}},
}

// plot draws exact match by method and condition, with confidence intervals.
func (r *Result) plot(w io.Writer) error {
	p := plot.New()
	p.Title.Text = "Exact match on tasks held out from training"
	p.Y.Label.Text, p.Y.Min, p.Y.Max = "exact match", 0, 1
	const width = 0.11
	for i, m := range plotted {
		bars := make(plotter.XYs, 0, 4*len(r.Summary))
		errors := struct {
			plotter.XYs
			plotter.YErrors
		}{}
		for k, c := range r.Summary {
			a := c.Average[m.method].Exact
			x := float64(k) + width*(float64(i)-float64(len(plotted)-1)/2)
			errors.XYs = append(errors.XYs, plotter.XY{X: x, Y: a.Value})
			errors.YErrors = append(errors.YErrors, struct{ Low, High float64 }{a.Value - a.Low, a.High - a.Value})
			bars = bars[:0]
			for _, corner := range [][2]float64{{-1, 0}, {-1, a.Value}, {1, a.Value}, {1, 0}} {
				bars = append(bars, plotter.XY{X: x + corner[0]*width*0.45, Y: corner[1]})
			}
			bar, err := plotter.NewPolygon(bars)
			if err != nil {
				return err
			}
			bar.Color, bar.LineStyle.Width = m.color, 0
			p.Add(bar)
			if k == 0 {
				p.Legend.Add(Labels[m.method], bar)
			}
		}
		whiskers, err := plotter.NewYErrorBars(errors)
		if err != nil {
			return err
		}
		p.Add(whiskers)
	}
	var names []string
	for _, c := range r.Summary {
		names = append(names, Labels[c.Condition])
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	p.Legend.Top, p.Legend.Left = true, false
	// Room for the legend above the bars.
	p.Y.Max = 1.5
	p.Legend.ThumbnailWidth = vg.Points(12)
	picture, err := p.WriterTo(26*vg.Centimeter, 14*vg.Centimeter, "png")
	if err != nil {
		return err
	}
	_, err = picture.WriteTo(w)
	return err
}

// plotSizes draws exact match against the generator's bytes at 8 bits: of the recipe and of
// the changes that only make it larger or smaller.
func plotSizes(w io.Writer, list []Ablation) error {
	p := plot.New()
	p.Title.Text = "Exact match on held out tasks by the generator's size"
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min, p.Y.Max = "kB at 8 bits a weight", "exact match", 0, 1
	var points plotter.XYs
	var labels []string
	for _, a := range list {
		if sizes[a.Name] {
			points = append(points, plotter.XY{X: float64(a.Weights) / 1000, Y: a.Exact.Value})
			labels = append(labels, " "+a.Label)
		}
	}
	if len(points) > 0 {
		dots, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		names, err := plotter.NewLabels(plotter.XYLabels{XYs: points, Labels: labels})
		if err != nil {
			return err
		}
		p.Add(dots, names)
		p.X.Min, p.X.Max = 0, 1.4*p.X.Max
	}
	picture, err := p.WriterTo(18*vg.Centimeter, 11*vg.Centimeter, "png")
	if err != nil {
		return err
	}
	_, err = picture.WriteTo(w)
	return err
}

var sizes = map[string]bool{"recipe": true, "kernel-1": true, "channels-quarter": true, "channels-half": true, "channels-double": true}
