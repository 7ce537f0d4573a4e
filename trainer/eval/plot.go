package eval

import (
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// Plot draws exact match over all tasks by method, with intervals, as a PNG.
func (r *Result) Plot(w io.Writer) error {
	p := plot.New()
	p.Title.Text = "Exact match on tasks that the generator was not fitted on"
	p.X.Label.Text, p.X.Min, p.X.Max = "exact match", 0, 1
	values, whiskers := plotter.Values{}, struct {
		plotter.XYs
		plotter.XErrors
	}{}
	var names []string
	// From the top down, as in the table.
	for i := range r.Methods {
		m := r.Methods[len(r.Methods)-1-i]
		x := r.Average[m].Exact
		values = append(values, x.Value)
		whiskers.XYs = append(whiskers.XYs, plotter.XY{X: x.Value, Y: float64(i)})
		whiskers.XErrors = append(whiskers.XErrors, struct{ Low, High float64 }{x.Value - x.Low, x.High - x.Value})
		names = append(names, m)
	}
	bars, err := plotter.NewBarChart(values, vg.Points(11))
	if err != nil {
		return err
	}
	bars.Horizontal, bars.LineStyle.Width, bars.Color = true, 0, color.RGBA{0x33, 0x5c, 0x67, 0xff}
	lines, err := plotter.NewXErrorBars(whiskers)
	if err != nil {
		return err
	}
	p.Add(bars, lines)
	p.NominalY(names...)
	picture, err := p.WriterTo(22*vg.Centimeter, vg.Length(3+len(names))*0.8*vg.Centimeter, "png")
	if err != nil {
		return err
	}
	_, err = picture.WriteTo(w)
	return err
}
