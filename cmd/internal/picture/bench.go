package picture

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Curve is measured points and the curve that was fitted to them.
type Curve struct {
	X, Y           []float64
	XLabel, YLabel string
	Fit            func(x float64) float64
	Legend         string // of the fit
}

var (
	ink    = color.RGBA{0x0b, 0x2a, 0x5b, 0xff}
	accent = color.RGBA{0xc4, 0x5a, 0x1c, 0xff}
)

// Curves writes a PNG with a plot for each curve, those of one XLabel in a column, on
// logarithmic axes.
func Curves(w io.Writer, title string, curves []Curve) error {
	if len(curves) == 0 {
		return fmt.Errorf("no curve to draw")
	}
	var columns [][]*plot.Plot
	var labels []string
	rows := 0
	for _, c := range curves {
		p, err := c.plot()
		if err != nil {
			return err
		}
		k := slices.Index(labels, c.XLabel)
		if k < 0 {
			k = len(labels)
			labels, columns = append(labels, c.XLabel), append(columns, nil)
		}
		columns[k] = append(columns[k], p)
		rows = max(rows, len(columns[k]))
	}
	grid := make([][]*plot.Plot, rows)
	for k, column := range columns {
		// Columns end with the same measures.
		column = append(make([]*plot.Plot, rows-len(column)), column...)
		for i, p := range column {
			grid[i] = append(grid[i], p)
			if p != nil && k == 0 && (i == 0 || column[i-1] == nil) {
				p.Title.Text, p.Title.TextStyle.XAlign = title, -0.2
			}
		}
	}
	img := vgimg.New(vg.Length(len(columns))*7*vg.Centimeter, vg.Length(rows)*5*vg.Centimeter)
	canvases := plot.Align(grid, draw.Tiles{Rows: rows, Cols: len(columns), PadX: vg.Millimeter * 3, PadY: vg.Millimeter * 3}, draw.Crop(draw.New(img), vg.Millimeter, -vg.Millimeter*4, vg.Millimeter, -vg.Millimeter))
	for i := range grid {
		for k, p := range grid[i] {
			if p != nil {
				p.Draw(canvases[i][k])
			}
		}
	}
	_, err := vgimg.PngCanvas{Canvas: img}.WriteTo(w)
	return err
}

func (c Curve) plot() (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = c.XLabel, c.YLabel
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	points := make(plotter.XYs, len(c.X))
	for i := range c.X {
		if !(c.X[i] > 0) || !(c.Y[i] > 0) {
			return nil, fmt.Errorf("%s against %s: point (%v, %v), expected positive numbers", c.YLabel, c.XLabel, c.X[i], c.Y[i])
		}
		points[i] = plotter.XY{X: c.X[i], Y: c.Y[i]}
	}
	scatter, err := plotter.NewScatter(points)
	if err != nil {
		return nil, err
	}
	scatter.Color, scatter.Shape, scatter.Radius = ink, draw.CircleGlyph{}, vg.Points(3)
	low, high := slices.Min(c.X), slices.Max(c.X)
	var line plotter.XYs
	for i := range 50 {
		x := low * math.Pow(high/low, float64(i)/49)
		line = append(line, plotter.XY{X: x, Y: c.Fit(x)})
	}
	fit, err := plotter.NewLine(line)
	if err != nil {
		return nil, err
	}
	fit.Color = accent
	p.Add(plotter.NewGrid(), fit, scatter)
	// A decade at least, or flat curves look steep.
	p.Y.Min, p.Y.Max = decade(p.Y.Min, p.Y.Max)
	p.Legend.Add(c.Legend, fit)
	p.Legend.Top, p.Legend.Left = true, true
	return p, nil
}

// decade widens a range to whole powers of ten.
func decade(low, high float64) (float64, float64) {
	low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	if high <= low {
		high = 10 * low
	}
	return low, high
}

// Kernel is a measured part of a run.
type Kernel struct {
	Name, Group          string
	Seconds, FLOP, Bytes float64
}

// Roofline writes a PNG of kernels by arithmetic intensity and speed, under what a device
// reaches at most: flops FLOP/s, and bytes bytes/s. A dot's area is its share of the time.
func Roofline(w io.Writer, title string, kernels []Kernel, flops, bytes float64) error {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = "FLOP a byte moved", "GFLOP/s"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	var groups []string
	byGroup := map[string]plotter.XYs{}
	seconds := map[string][]float64{}
	total, left, right, bottom := 0.0, 0.1, 10*flops/bytes, flops/100
	for _, k := range kernels {
		if !(k.Seconds > 0) || !(k.FLOP > 0) || !(k.Bytes > 0) {
			continue // copies do no arithmetic
		}
		if !slices.Contains(groups, k.Group) {
			groups = append(groups, k.Group)
		}
		x, y := k.FLOP/k.Bytes, k.FLOP/k.Seconds
		byGroup[k.Group] = append(byGroup[k.Group], plotter.XY{X: x, Y: y / 1e9})
		seconds[k.Group] = append(seconds[k.Group], k.Seconds)
		total += k.Seconds
		left, right, bottom = min(left, x), max(right, x), min(bottom, y)
	}
	if len(groups) == 0 {
		return fmt.Errorf("no kernel was measured: nothing to draw")
	}
	left, right = decade(left, right)
	roof, err := plotter.NewLine(plotter.XYs{{X: left, Y: left * bytes / 1e9}, {X: flops / bytes, Y: flops / 1e9}, {X: right, Y: flops / 1e9}})
	if err != nil {
		return err
	}
	roof.Color, roof.Width = accent, vg.Points(2)
	p.Add(plotter.NewGrid(), roof)
	p.Legend.Add(fmt.Sprintf("device: %.4g GFLOP/s, %.4g GB/s", flops/1e9, bytes/1e9), roof)
	for i, g := range groups {
		s, err := plotter.NewScatter(byGroup[g])
		if err != nil {
			return err
		}
		hue := color.RGBA{uint8(11 + 37*i%180), uint8(42 + 61*i%170), uint8(91 + 97*i%150), 0xff}
		s.GlyphStyle = draw.GlyphStyle{Color: hue, Shape: draw.CircleGlyph{}, Radius: vg.Points(3)}
		s.GlyphStyleFunc = func(k int) draw.GlyphStyle {
			return draw.GlyphStyle{Color: hue, Shape: draw.RingGlyph{}, Radius: vg.Points(2 + 28*math.Sqrt(seconds[g][k]/total))}
		}
		p.Add(s)
		p.Legend.Add(g, s)
	}
	p.X.Min, p.X.Max = left, right
	p.Y.Min, p.Y.Max = decade(bottom/1e9, 2*flops/1e9)
	p.Legend.Left, p.Legend.Top = true, true
	p.Legend.TextStyle.Font.Size = vg.Points(8)
	picture, err := p.WriterTo(22*vg.Centimeter, 14*vg.Centimeter, "png")
	if err != nil {
		return err
	}
	_, err = picture.WriteTo(w)
	return err
}
